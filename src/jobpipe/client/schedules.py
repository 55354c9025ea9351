"""Schedules: the calls, and the values that they take and give."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, TypedDict
from urllib.parse import quote

import msgspec
from msgspec import Struct

from jobpipe.client.batch import read_task
from jobpipe.client.errors import bad_answer
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Flow, parse
from jobpipe.client.values import Task, Time, encoded, time_text
from jobpipe.core.errors import Invalid


class Timing(TypedDict, total=False):
    """When a schedule comes: `cron` in `timezone`, or `every` so many seconds from `starts`, else the epoch, on.

    `jitter` is seconds; `starts` and `ends` need a time zone. What is left out is the server's to choose.
    """

    cron: str | None
    every: int | None
    timezone: str | None
    paused: bool | None
    catch_up: Literal["latest", "none"] | None
    overlap: Literal["allow", "skip"] | None
    jitter: float | None
    starts: datetime | None
    ends: datetime | None


class Schedule(Struct, frozen=True):
    """A schedule as the server showed it; `task` is what it enqueues. None of `next` come while it is paused."""

    name: str
    task: dict[str, Any]
    cron: str | None = None
    every: int | None = None
    timezone: str = "UTC"
    paused: bool = False
    catch_up: str = "latest"
    overlap: str = "allow"
    jitter: float = 0.0
    starts: Time | None = None
    ends: Time | None = None
    declared_by: str | None = None
    changed_at: Time | None = None
    changed_by: str | None = None
    next_at: Time | None = None
    next: list[Time] = []
    last_at: Time | None = None
    last_task: str | None = None
    last_error: str | None = None
    missed: int = 0
    in_words: str = ""


_one: Final = msgspec.json.Decoder(Schedule)
_many: Final = msgspec.json.Decoder(list[Schedule])


def list_all(caller: Caller) -> Flow[list[Schedule]]:
    """All of them, by name."""
    return parse(_many, (yield from caller.call(Request("GET", "/schedules", repeatable=True))))


def get(caller: Caller, name: str) -> Flow[Schedule]:
    """The schedule as it is now."""
    return parse(_one, (yield from caller.call(Request("GET", schedule_path(name), repeatable=True))))


def put(caller: Caller, name: str, task: Mapping[str, Any], timing: Timing) -> Flow[Schedule]:
    """Make it, or change it whole: the same again is the same."""
    body = schedule_body(task, timing)
    return parse(_one, (yield from caller.call(Request("PUT", schedule_path(name), body, repeatable=True))))


def steer(caller: Caller, name: str, verb: Literal["pause", "resume"]) -> Flow[Schedule]:
    """Pause it, or let it go on."""
    return parse(_one, (yield from _post(caller, name, verb)))


def run(caller: Caller, name: str) -> Flow[Task]:
    """Make a task of it now."""
    answer = yield from caller.call(Request("POST", f"{schedule_path(name)}/run"))
    try:
        return read_task(answer.body)
    except (ValueError, RecursionError):
        raise bad_answer(answer.status, answer.body) from None


def delete(caller: Caller, name: str) -> Flow[None]:
    """Forget it."""
    yield from caller.call(Request("DELETE", schedule_path(name)))


def schedule_body(task: Mapping[str, Any], timing: Timing) -> bytes:
    """What `PUT /schedules/{name}` takes. Raises Invalid for what has no JSON form, and a time without a zone."""
    said = {
        field: time_text(value, field) if isinstance(value, datetime) else value
        for field, value in timing.items()
        if value is not None
    }
    return encoded({**said, "task": dict(task)}, "schedule")


def schedule_path(name: str) -> str:
    """The path of a schedule. Raises Invalid for a name that no path can carry."""
    if name in ("", ".", ".."):
        raise Invalid("no schedule can have this name", field="name")
    return f"/schedules/{quote(name, safe='')}"


def _post(caller: Caller, name: str, verb: str) -> Flow[Answer]:
    return (yield from caller.call(Request("POST", f"{schedule_path(name)}/{verb}", repeatable=True)))
