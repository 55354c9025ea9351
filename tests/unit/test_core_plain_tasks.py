"""Tasks that use nothing beside the plain fields take a shorter way: what must not take it is found for sure."""

from __future__ import annotations

import json
from operator import attrgetter

import pytest
from msgspec.structs import replace

from jobpipe.core.task import NewTask, accepted, plain
from jobpipe.storage.sqlite import columns
from jobpipe.storage.sqlite.rows import inserted_alike

PLAIN = frozenset(NewTask.__struct_fields__[: NewTask.__struct_fields__.index("traceparent") + 1])
MORE = [name for name in NewTask.__struct_fields__ if name not in PLAIN]


def test_a_task_with_all_plain_fields_is_plain() -> None:
    assert plain([NewTask("a", "mail", b"1", "q", 5, 7, 1_000, 2.5, "00-trace"), NewTask("b", "mail")])


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("value", [0, "", "x", 17])
def test_one_with_anything_else_is_not_and_keeps_it(name: str, value: object) -> None:
    more = replace(NewTask("b", "mail"), **{name: value})
    assert not plain([NewTask("a", "mail"), more, NewTask("c", "mail")])
    task = accepted(more, 1, 2, 3)
    assert columns.given([task], False)[0][columns.GIVEN.index(name)] == value
    (shape,) = columns.alike([task], False)
    if name in columns.OWN:
        assert json.loads(str(inserted_alike([task], shape, digests=True)[0]))[0][-1] == value
    else:
        assert shape[columns.ALIKE.index(name)] == value


def test_what_is_written_out_for_plain_tasks_is_what_their_columns_say() -> None:
    task = accepted(NewTask("a", "mail", b"1", "q", 5, 7, 1_000, 2.5, "00-trace"), 11, 12, 13)
    assert columns.given([task], True) == [attrgetter(*columns.PLAIN)(task)]
    assert columns.alike([task], True) == [attrgetter(*columns.ALIKE[: len(columns.PLAIN) - 2])(task)]
    assert all(getattr(task, name) is None for name in columns.GIVEN[len(columns.PLAIN) :])
