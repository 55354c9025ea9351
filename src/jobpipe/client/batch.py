"""Tasks that are enqueued at the same moment travel together: one request for many, and to each its own answer.

What the transports of both colours share. A caller never pays for its neighbours: what refuses a request as a whole
for what it holds divides it, and what becomes of an item is told to that one alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from typing import Any, Final, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from jobpipe.client.errors import BAD_ANSWER, ConnectionFailed, Refusal, bad_answer, error_of
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Distrust, Failure, Flow, Item, judge, lost
from jobpipe.client.values import Task, TaskForm
from jobpipe.core.task import Status

GATHER_S: Final = 0.05
"""How long a task waits at most for the request under way before it goes with another one."""

MOST_REQUESTS: Final = 8
"""How many requests of tasks are under way at a time, at most."""

MOST_ITEMS: Final = 128
MOST_BYTES: Final = 1 << 20

Outcome = Task | Failure


class Waiting(Protocol):
    """Somebody who waits for an item's way to the server."""

    @property
    def item(self) -> Item: ...


W = TypeVar("W", bound=Waiting)


def take(waiting: deque[W]) -> list[W]:
    """The next that go together, in the order in which they came."""
    taken: list[W] = []
    size = 2
    while waiting and len(taken) < MOST_ITEMS:
        size += len(waiting[0].item.body) + 1
        if size > MOST_BYTES and taken:
            break
        taken.append(waiting.popleft())
    return taken


def is_full(waiting: deque[W]) -> bool:
    """Whether there is no use in waiting for more."""
    return len(waiting) >= MOST_ITEMS


def deliver(items: Sequence[Item]) -> Flow[Sequence[Outcome]]:
    """Send once; what became of each."""
    try:
        answer: Answer = yield _request(items)
    except ConnectionFailed as error:
        return to_each(lost(error), len(items))
    if answer.status in (400, 413) and len(items) > 1:
        middle = len(items) // 2
        first = yield from deliver(items[:middle])
        return [*first, *(yield from deliver(items[middle:]))]
    found = outcomes(items, answer)
    if answer.resent:
        found = [replace(one, resent=True) if isinstance(one, Failure) else one for one in found]
    if any(isinstance(one, Failure) and one.error.code == BAD_ANSWER for one in found):
        yield Distrust()
    return found


def to_each(failure: Failure, count: int) -> Sequence[Outcome]:
    """What failed for all, with an error of their own for each: two threads that raise one would mix its tracebacks."""
    return [failure, *(replace(failure, error=deepcopy(failure.error)) for _ in range(count - 1))]


def outcomes(items: Sequence[Item], answer: Answer, *, many: bool = False) -> Sequence[Outcome]:
    """What an answer says about each item; `many`: it is an array, also for a single one."""
    if answer.status >= 300:
        error = error_of(answer.status, answer.body, answer.retry_after)
        return to_each(judge(answer.status, error, answer.retry_after), len(items))
    try:
        found = [read_task(answer.body)] if len(items) == 1 and not many else _read_many(answer.body)
    except (ValueError, RecursionError):
        found = _read_hidden(items, answer.body, many=len(items) > 1 or many)
    if len(found) != len(items):
        return to_each(_mixed_up(answer), len(items))
    return [
        _mixed_up(answer) if isinstance(one, Task) and _is_anothers(one, item) else one
        for item, one in zip(items, found, strict=True)
    ]


def read_task(body: bytes) -> Task:
    """The task that `body` is. Raises ValueError, or RecursionError."""
    try:
        return _task.decode(body)
    except msgspec.DecodeError:
        return _form.decode(body).task()


def _request(items: Sequence[Item]) -> Request:
    body = items[0].body if len(items) == 1 else b"[%b]" % b",".join([item.body for item in items])
    ours = all(item.ours for item in items)
    return Request("POST", "/enqueue", body, repeatable=ours, headers=trace_headers(items[0].trace))


def trace_headers(trace: str | None) -> dict[str, str]:
    """The header that passes a trace on (W3C Trace Context), if there is one."""
    return {} if trace is None else {"traceparent": trace}


def _is_anothers(task: Task, item: Item) -> bool:
    """A unique task that lives already is the answer to another one, and says so."""
    return task.id != item.id and not (task.deduplicated or task.replaced) and item.id != ""


def _mixed_up(answer: Answer) -> Failure:
    return Failure(bad_answer(answer.status, answer.body), doubtful=True)


def _read_many(body: bytes) -> list[Outcome]:
    try:
        return [_told(one.task, one) for one in _items.decode(body)]
    except msgspec.DecodeError:
        return [_told(None if one.task is None else one.task.task(), one) for one in _forms.decode(body)]


def _read_hidden(items: Sequence[Item], body: bytes, *, many: bool) -> list[Outcome]:
    """Answers to a key that may only enqueue: of a task that lived already it is told the id and the status alone."""
    try:
        found = _raw_items.decode(body) if many else [_RawItem(200, task=Raw(body))]
        return [
            _told(_shown(item, one.task) if one.task else None, one)
            for item, one in zip(items, found, strict=True)
        ]
    except (ValueError, RecursionError):
        return []


def _shown(item: Item, body: Raw) -> Task:
    try:
        return read_task(bytes(body))
    except msgspec.ValidationError:
        known, asked = _known.decode(body), _asked.decode(item.body)
    now = datetime.now(UTC)
    return Task(
        known.id, asked.handler, asked.queue, asked.payload, asked.priority, known.status, 0, 0, 0, asked.max_retries,
        asked.timeout, now, now, deduplicated=known.deduplicated, replaced=known.replaced,
    )  # fmt: skip


class _Known(Struct):
    id: str
    status: Status
    deduplicated: bool = False
    replaced: bool = False


class _Asked(Struct):
    handler: str = "default"
    queue: str = "default"
    payload: Any = None
    priority: int = 0
    max_retries: int = 0
    timeout: float | None = None


class _Problem(Struct):
    status: int
    code: str = "internal"
    error: str | None = None
    detail: str | None = None
    field: str | None = None


class _Item(_Problem):
    task: Task | None = None


class _RawItem(_Problem):
    task: Raw = Raw()


class _Form(_Problem):
    task: TaskForm | None = None


def _told(task: Task | None, one: _Problem) -> Outcome:
    if task is not None:
        return task
    error = Refusal(one.code, one.status, one.error, one.detail, one.field).as_error(one.status)
    return judge(one.status, error, error.retry_after)


_task: Final = msgspec.json.Decoder(Task)
_form: Final = msgspec.json.Decoder(TaskForm)
_known: Final = msgspec.json.Decoder(_Known)
_asked: Final = msgspec.json.Decoder(_Asked)
_raw_items: Final = msgspec.json.Decoder(list[_RawItem])
_items: Final = msgspec.json.Decoder(list[_Item])
_forms: Final = msgspec.json.Decoder(list[_Form])
