"""The columns of a task in the database, by name, with their types: each is a field of core.task.Task, or one of the
few below.

So a new field of Task and NewTask, with the schema's step that adds its column, is accepted, read, moved between tables
and stores without another word in this engine. Rows that go in are values whose fields name their columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Any, get_args

from msgspec import Struct
from msgspec.structs import fields

from jobpipe.core.task import Attempt, NewTask, Status, Task, TaskError

_TYPES = {
    int: "bigint",
    str: "text",
    bool: "bool",
    bytes: "bytea",
    float: "float8",
    Status: "smallint",
    TaskError: "text",
}


def types(row: type[Struct]) -> dict[str, str]:
    """The fields of such a value, and the types of their columns."""
    return {field.name: _TYPES[(get_args(field.type) or (field.type,))[0]] for field in fields(row)}


TASK = types(Task)
ATTEMPT = types(Attempt)
AT_END = ("finished_at", "result")
"""What finished tasks alone have."""
OF_CLAIM = {"lease_id": "text", "settled": "smallint"}
"""What is kept of the latest claim."""
READ = {**TASK, **OF_CLAIM}
OF_ERROR = {"error_type": "text", "error_group": "text"}
"""What is looked for in the latest error."""
BOTH = {name: type_ for name, type_ in {**READ, **OF_ERROR}.items() if name not in AT_END}
"""What goes along when a task moves from one table to the other."""
IMPORTED = {name: type_ for name, type_ in BOTH.items() if name not in OF_CLAIM}

GIVEN = {name: type_ for name, type_ in types(NewTask).items() if name not in ("id", "payload", "run_at")}
"""What is given with a new task, beside its id, its payload and its delay."""
given = attrgetter(*GIVEN)

of_task = itemgetter(*TASK)
of_attempt = itemgetter(*ATTEMPT)
AT = {name: place for place, name in enumerate(TASK)}


class Settled(Struct, frozen=True):
    """A row of SETTLE. `delay` and `finished` are ms from now; `keeps` tells whether the row still knows the lease."""

    at_seq: int
    at_id: str
    at_lease: str
    at_cancel: bool
    to_status: int
    to_delay: int
    to_finished: int | None
    to_attempts: int
    to_failures: int
    to_lost: int
    to_result: bytes | None
    to_error: str | None
    to_type: str | None
    to_group: str | None
    keeps: bool
    outcome: str | None
    attempt: int | None


def names(columns: Iterable[str], **instead: str) -> str:
    """The columns as SQL lists them, some replaced."""
    return ", ".join(instead.get(name, name) for name in columns)


def nothing(columns: Mapping[str, str], **but: str) -> str:
    """A row of these columns that says nothing, but for some."""
    return ", ".join(f"{but.get(name, f'NULL::{type_}')} AS {name}" for name, type_ in columns.items())


HOT = names(READ, finished_at="NULL::bigint AS finished_at", result="NULL::bytea AS result")
COLD = names(READ)
"""Whole tasks of the two tables, and what is kept of their latest claim."""


def unnest(columns: Mapping[str, str], first: int = 1) -> str:
    """Arguments from $first on, an array for each column, as rows."""
    return f"unnest({', '.join(f'${at}::{type_}[]' for at, type_ in enumerate(columns.values(), first))})"


def literals(changes: Mapping[str, Any]) -> dict[str, str]:
    """What a rule of core changes, as SQL has it."""
    return {name: _literal(value) for name, value in changes.items()}


def _literal(value: Status | bool | int | None) -> str:
    if isinstance(value, Status):
        return str(list(Status).index(value))
    return "NULL" if value is None else str(value).lower()


def assigned(changes: Mapping[str, Any]) -> str:
    """The same for UPDATE."""
    return ", ".join(f"{name} = {value}" for name, value in literals(changes).items())
