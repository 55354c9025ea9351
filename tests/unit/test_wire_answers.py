"""The hand-written form of a task against its schema, and other answers."""

from __future__ import annotations

import json

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.core.gate import Held
from jobpipe.core.task import Status, Task, TaskError
from jobpipe.core.unique import Unique, text_of
from jobpipe.wire import AcceptedWriter, TaskView, encode_task, encode_tasks, with_held
from jobpipe.wire.answers import encode_text

text = st.text(max_size=20)
moment = st.integers(0, 4_000_000_000_000)
payload = st.sampled_from([b"null", b'{"a": 1}', b"1e999", b'"\\u0000"'])
errors = st.builds(
    TaskError, type=text, message=text, traceback=st.none() | text, attempt=st.integers(1, 9), at=moment
)
tasks = st.builds(
    Task,
    seq=st.integers(1),
    id=text,
    handler=text,
    queue=text,
    payload=payload,
    priority=st.integers(-100, 100),
    status=st.sampled_from(Status),
    attempts=st.integers(0, 1000),
    failures=st.integers(0, 1000),
    lost=st.integers(0, 1000),
    max_retries=st.integers(0, 1000),
    timeout=st.none() | st.floats(0.001, 1e8),
    run_at=moment,
    created_at=moment,
    started_at=st.none() | moment,
    finished_at=st.none() | moment,
    cancel_requested=st.booleans(),
    worker=st.none() | text,
    result=st.none() | payload,
    last_error=st.none() | errors,
    traceparent=st.none(),
    key=st.none() | text,
    uniqueness=st.none() | st.sampled_from([text_of(Unique("k")), text_of(Unique("k", 1.5))]),
    expires_at=st.none() | moment,
    schedule=st.none() | text,
    scheduled_for=st.none() | moment,
)

IF_USED = {
    "error_group": "last_error",
    "key": "key",
    "unique": "uniqueness",
    "expires_at": "expires_at",
    "schedule": "schedule",
    "scheduled_for": "scheduled_for",
}
"""Left out of a task that does not use them."""


@given(tasks)
def test_a_task_is_written_as_its_schema_says_and_nothing_more(task: Task) -> None:
    encoded = encode_task(task)
    view = msgspec.json.decode(encoded, type=TaskView)
    unused = ["held", *(name for name, field in IF_USED.items() if getattr(task, field) is None)]
    assert list(json.loads(encoded)) == [name for name in TaskView.__struct_fields__ if name not in unused]
    for field in ("id", "handler", "queue", "priority", "status", "attempts", "lost", "timeout", "worker"):
        assert getattr(view, field) == getattr(task, field)
    assert bytes(view.payload) == task.payload
    assert bytes(view.result) == (task.result or b"null")
    if task.last_error is not None:
        assert view.last_error is not None
        assert (view.last_error.type, view.last_error.traceback) == (
            task.last_error.type,
            task.last_error.traceback,
        )


@given(tasks, st.sampled_from(["paused", "key_rate"]))
def test_a_held_task_says_why_at_its_end(task: Task, held: Held) -> None:
    whole = json.loads(with_held(encode_task(task), held))
    assert whole == {**json.loads(encode_task(task)), "held": held}
    assert with_held(encode_task(task), None) == encode_task(task)
    assert json.loads(with_held(b"{}", held)) == {"held": held}


new_tasks = st.builds(
    Task,
    seq=st.integers(1),
    id=text,
    handler=st.sampled_from(["mail", '\\","payload":']),
    queue=st.sampled_from(["a", "b"]),
    payload=payload,
    priority=st.integers(0, 1),
    status=st.just(Status.QUEUED),
    attempts=st.just(0),
    failures=st.just(0),
    lost=st.just(0),
    max_retries=st.integers(3, 4),
    timeout=st.sampled_from([None, 2.5]),
    run_at=st.integers(1000, 1001),
    created_at=st.integers(1000, 1001),
)


@given(st.lists(new_tasks, max_size=20))
def test_tasks_accepted_together_are_written_as_each_alone(tasks: list[Task]) -> None:
    encode = AcceptedWriter().encode
    assert [encode(task) for task in tasks] == [encode_task(task) for task in tasks]


def test_no_tasks_are_an_empty_array() -> None:
    assert encode_tasks([]) == b"[]"


def test_text_that_cannot_be_utf8_is_written_all_the_same() -> None:
    assert json.loads(encode_text("a\ud800b")) == "a?b"
