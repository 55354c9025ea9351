"""Reading and steering tasks: one, many, and waiting for one to finish."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Raw, Struct

from jobpipe.client.batch import read_task
from jobpipe.client.errors import bad_answer
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Caller, Distrust, Flow, Pause, is_passing, parse
from jobpipe.client.values import Changes, Filters, Task, TaskForm, encoded, time_text, with_times
from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.wire import BulkView, HealthView, QueueView, StatsView

MAX_WAIT_S: Final = 60.0
"""The longest that the server lets one call wait."""

OUTAGE_S: Final = 300.0
"""How long one who waits without a timeout waits for a server that is away."""

PAGE: Final = 200
MAX_PAGE: Final = 1000

_NEXT: Final = re.compile(r'<[^>?]*\?([^>]*)>\s*;[^,]*\brel="?next"?')


class Which(Struct, frozen=True):
    """The part of a bulk call that is no filter."""

    ids: Iterable[str] | None = None
    all: bool = False
    dry_run: bool = False


_tasks: Final = msgspec.json.Decoder(list[TaskForm])
_bulk: Final = msgspec.json.Decoder(BulkView)
_queues: Final = msgspec.json.Decoder(list[QueueView])
_stats: Final = msgspec.json.Decoder(StatsView)
_health: Final = msgspec.json.Decoder(HealthView)


def get(caller: Caller, id: str) -> Flow[Task]:
    """The task as it is now."""
    answer = yield from caller.call(Request("GET", path_of(id), repeatable=True))
    return (yield from task_of(answer, id))


def task_of(answer: Answer, id: str) -> Flow[Task]:
    """The task that was asked for. Raises ServerError for another's."""
    try:
        task = read_task(answer.body)
    except (ValueError, RecursionError):
        raise bad_answer(answer.status, answer.body) from None
    if task.id != id:
        yield Distrust()
        raise bad_answer(answer.status, answer.body)
    return task


def wait(caller: Caller, id: str, timeout: float | None) -> Flow[Task]:
    """The finished task, by long polls. Raises TimeoutError after `timeout` seconds (None: never).

    It outlives the server's restart: an outage is waited out until the time is up, without `timeout` for five minutes.
    """
    clock = caller.clock
    end = float("inf") if timeout is None else clock.monotonic() + timeout
    early, since = 0, clock.monotonic()
    while True:
        begin = clock.monotonic()
        seconds = max(0.0, min(MAX_WAIT_S, end - begin))
        request = Request("GET", f"{path_of(id)}?wait={seconds:.3f}", wait=seconds, repeatable=True)
        told = "unknown, for the server is away"
        try:
            task = yield from task_of((yield from caller.call(request)), id)
        except JobpipeError as error:
            now = clock.monotonic()
            if not caller.retries.count or not is_passing(error) or now >= min(end, since + OUTAGE_S):
                raise
        else:
            if task.finished:
                return task
            told = task.status
            since = now = clock.monotonic()
        if now >= end:
            raise TimeoutError(f"task {id} is {told} after {timeout:g} s")
        # A server that drains answers early; asking again at once would be a busy loop.
        early = early + 1 if now - begin < seconds / 2 else 0
        if early:
            yield Pause(min(caller.retries.backoff.delay(early, caller.random), end - now))


def page(caller: Caller, query: str) -> Flow[tuple[list[Task], str | None]]:
    """The tasks of one page, and the query of the next one."""
    answer = yield from caller.call(Request("GET", f"/tasks?{query}", repeatable=True))
    return [form.task() for form in parse(_tasks, answer)], next_query(answer)


def first_query(limit: int | None, filters: Filters) -> str:
    """The query of a listing's first page; `limit` is how many tasks are wanted in all."""
    size = PAGE if limit is None else min(limit, MAX_PAGE)
    return urlencode({"limit": size, **_conditions(filters)})


def cancel(caller: Caller, id: str) -> Flow[Task]:
    """Cancel a queued task, or ask the worker of a running one."""
    return _steer(caller, id, "cancel")


def retry(caller: Caller, id: str) -> Flow[Task]:
    """Queue a failed or cancelled task again."""
    return _steer(caller, id, "retry")


def change(caller: Caller, id: str, changes: Changes) -> Flow[Task]:
    """Change a task that waits."""
    return (yield from task_of((yield from caller.call(changing(id, changes))), id))


def changing(id: str, changes: Changes) -> Request:
    """The change of a task; the same twice is the same, but for seconds, which count from each."""
    fields = with_times(changes)
    if "payload" in fields:
        fields["payload"] = Raw(encoded(fields["payload"], "payload"))
    relative = "delay" in fields or isinstance(fields.get("expires"), float | int)
    return Request("PATCH", path_of(id), encoded(fields, "task"), repeatable=not relative)


def delete(caller: Caller, id: str) -> Flow[None]:
    """Forget a finished task."""
    yield from caller.call(Request("DELETE", path_of(id)))


def bulk(caller: Caller, action: str, which: Which, filters: Filters) -> Flow[BulkView]:
    """Cancel, retry or delete all that match; counting alone may be repeated."""
    ids = None if which.ids is None else list(which.ids)
    body = {**_conditions(filters), "ids": ids, "all": which.all, "dry_run": which.dry_run}
    request = Request("POST", f"/tasks/{action}", encoded(body, "filter"), repeatable=which.dry_run)
    return parse(_bulk, (yield from caller.call(request)))


def queues(caller: Caller) -> Flow[list[QueueView]]:
    """The queues that hold tasks, with their counts."""
    return parse(_queues, (yield from caller.call(Request("GET", "/queues", repeatable=True))))


def stats(caller: Caller) -> Flow[StatsView]:
    """The server at a glance."""
    return parse(_stats, (yield from caller.call(Request("GET", "/stats", repeatable=True))))


def health(caller: Caller) -> Flow[str]:
    """`ok` from a server that serves."""
    answer = yield from caller.call(Request("GET", "/healthz", repeatable=True))
    return parse(_health, answer).status


def _steer(caller: Caller, id: str, action: str) -> Flow[Task]:
    answer = yield from caller.call(Request("POST", f"{path_of(id)}/{action}"))
    return (yield from task_of(answer, id))


def path_of(id: str) -> str:
    """The path of a task. Raises Invalid for an id that no path can carry."""
    if id in ("", ".", ".."):
        raise Invalid("no task can have this id", field="id")
    return f"/tasks/{quote(id, safe='')}"


def _conditions(filters: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: time_text(value, name) if isinstance(value, datetime) else str(value)
        for name, value in filters.items()
        if value is not None
    }


def next_query(answer: Answer) -> str | None:
    """The next page's query. The path stays the client's own: a proxy may have put its prefix before the server's."""
    match = _NEXT.search(answer.headers.get("link", ""))
    return match[1] if match else None
