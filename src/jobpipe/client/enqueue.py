"""Enqueueing, one task or any number, so that a repeat after a lost answer makes no second task.

That is certain for ids that were made here: nobody else can have used them, so "the id exists" means that an earlier
sending got through. For an id that the caller chose it proves nothing: such a task is never sent twice blindly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from jobpipe.client.batch import MOST_BYTES, MOST_ITEMS, outcomes, trace_headers
from jobpipe.client.errors import BAD_ANSWER
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Call, Caller, Distrust, Failure, Flow, Item, Pause
from jobpipe.client.tasks import get, path_of
from jobpipe.client.values import Enqueued, NewTask, OneTask, Refused, Task, encoded, with_times
from jobpipe.core.errors import Invalid, JobpipeError, QueueFull, TaskExists, TooLarge, TooManyQueues
from jobpipe.runtime.tracing import traceparent
from jobpipe.wire import MAX_ITEMS, new_id

MAX_BATCH_BYTES: Final = 15 * 1024 * 1024
"""Below the server's own default bound. One that is set lower answers `too_large`, and the batch is halved."""

PATIENCE_S: Final = 60.0
"""How long a full queue may have no room at all before the tasks left are refused."""

LEAST_AGAIN: Final = 100
LEAST_S: Final = 0.1
MOST_REFUSED: Final = 10_000
"""How many refusals are kept one by one."""

_FULL = (QueueFull, TooManyQueues)


def enqueue(caller: Caller, task: OneTask) -> Flow[Task]:
    """One task."""
    return enqueue_item(caller, item_of(caller, task, traceparent()))


def enqueue_item(caller: Caller, item: Item) -> Flow[Task]:
    """One task, together with those that are enqueued at the same moment."""
    if item.idempotency_key is not None:
        return (yield from _alone(caller, item))
    call = Call(caller, item)
    try:
        task: Task = yield from call.run()
    except TaskExists:
        if item.ours and call.unseen:
            return (yield from get(caller, item.id))
        raise
    return task


def _alone(caller: Caller, item: Item) -> Flow[Task]:
    answer: Answer = yield from caller.call(_request(item))
    (outcome,) = outcomes([item], answer)
    if isinstance(outcome, Failure):
        yield Distrust()
        raise outcome.error
    return outcome


def _request(item: Item) -> Request:
    named = {} if item.idempotency_key is None else {"Idempotency-Key": item.idempotency_key}
    headers = trace_headers(item.trace) | named
    return Request("POST", "/enqueue", item.body, repeatable=item.repeatable, headers=headers)


def enqueue_for_answer(caller: Caller, task: OneTask) -> Flow[Answer]:
    """One task, and the server's own words about it."""
    item = item_of(caller, task, traceparent())
    call = Call(caller, _request(item))
    try:
        answer: Answer = yield from call.run()
    except TaskExists:
        if item.ours and call.unseen:
            return (yield from caller.call(Request("GET", path_of(item.id), repeatable=True)))
        raise
    return answer


def enqueue_many(
    caller: Caller,
    tasks: Iterable[NewTask],
    patience: float = PATIENCE_S,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Flow[list[Task | JobpipeError]]:
    """Each task's answer, in order. Raises what refused the first batch whole; later it stands for each task left."""
    return enqueue_items(caller, _items(caller, tasks), patience, max_bytes)


def enqueue_items(
    caller: Caller,
    items: Iterable[Item | JobpipeError],
    patience: float = PATIENCE_S,
    max_bytes: int = MAX_BATCH_BYTES,
) -> Flow[list[Task | JobpipeError]]:
    """The same for tasks that are JSON already; an error stands for itself."""
    answers: list[Task | JobpipeError] = []
    fatal: JobpipeError | None = None
    for chunk in _chunks(items, max_bytes):
        if fatal is None:
            try:
                answers += yield from _send_chunk(caller, chunk, patience)
                continue
            except JobpipeError as error:
                if not answers:
                    raise
                fatal = error
        answers += [item if isinstance(item, JobpipeError) else fatal for item in chunk]
    return answers


def enqueue_stream(caller: Caller, tasks: Iterable[NewTask], patience: float = PATIENCE_S) -> Flow[Enqueued]:
    """Any number of tasks in bounded memory. Raises what refused a batch as a whole, and notes how far it came."""
    count = seen = 0
    refused: list[Refused] = []
    for chunk in _chunks(_items(caller, tasks), MOST_BYTES, MOST_ITEMS):
        try:
            answers = yield from _send_chunk(caller, chunk, patience)
        except JobpipeError as error:
            error.add_note(f"{count} tasks had been enqueued before, of the first {seen}")
            raise
        for index, answer in enumerate(answers, seen):
            if not isinstance(answer, JobpipeError):
                count += 1
            elif len(refused) < MOST_REFUSED:
                refused.append(Refused(index, answer))
        seen += len(answers)
    return Enqueued(count, seen - count, refused)


def _send_chunk(
    caller: Caller, chunk: Sequence[Item | JobpipeError], patience: float
) -> Flow[list[Task | JobpipeError]]:
    items = [item for item in chunk if isinstance(item, Item)]
    sent = iter((yield from _until_room(caller, items, patience)) if items else [])
    return [item if isinstance(item, JobpipeError) else next(sent) for item in chunk]


def _until_room(caller: Caller, items: Sequence[Item], patience: float) -> Flow[list[Task | JobpipeError]]:
    """Send; and again, after the time that the server says, what a full queue refused.

    Given up when `patience` seconds went by without room for any. Most of what is sent again would be refused again,
    so no more goes than twice what was taken the time before.
    """
    answers = yield from _send_items(caller, items)
    end, room = caller.clock.monotonic() + patience, LEAST_AGAIN
    while left := [place for place, answer in enumerate(answers) if isinstance(answer, _FULL)]:
        if not caller.retries.count or caller.clock.monotonic() >= end:
            break
        yield Pause(max(LEAST_S, *(_after(answers[place]) for place in left)))
        again = left[:room]
        before = len(again)
        for place, answer in zip(
            again, (yield from _send_items(caller, [items[n] for n in again])), strict=True
        ):
            answers[place] = answer
            before -= isinstance(answer, _FULL)
        room = max(LEAST_AGAIN, 2 * before) if before else len(left)
        if before:
            end = caller.clock.monotonic() + patience
    return answers


def _after(answer: Task | JobpipeError) -> int:
    return answer.retry_after if isinstance(answer, JobpipeError) else 0


def _send_items(caller: Caller, items: Sequence[Item]) -> Flow[list[Task | JobpipeError]]:
    body = b"[%b]" % b",".join([item.body for item in items])
    call = Call(
        caller,
        Request(
            "POST",
            "/enqueue",
            body,
            repeatable=all(item.ours for item in items),
            headers=trace_headers(traceparent()),
        ),
    )
    try:
        answer: Answer = yield from call.run()
    except TooLarge as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        first = yield from _send_items(caller, items[:middle])
        return first + (yield from _send_items(caller, items[middle:]))
    answers = [one if isinstance(one, Task) else one.error for one in outcomes(items, answer, many=True)]
    for one in answers:
        if isinstance(one, JobpipeError) and one.code == BAD_ANSWER:
            yield Distrust()
            raise one
    if call.unseen:
        yield from _find_unseen(caller, items, answers)
    return answers


def _find_unseen(caller: Caller, items: Sequence[Item], answers: list[Task | JobpipeError]) -> Flow[None]:
    """Put the tasks that an unseen sending had enqueued in the place of their "exists"."""
    for place, item in enumerate(items):
        if item.ours and isinstance(answers[place], TaskExists):
            answers[place] = yield from get(caller, item.id)


def item_of(caller: Caller, task: NewTask | OneTask, trace: str | None = None) -> Item:
    """A task as it is sent. Raises Invalid."""
    given: Mapping[str, Any] = task
    if not isinstance(given, Mapping):
        raise Invalid(f"a task is a dict like {{'handler': 'send_mail', 'payload': ...}}, not {given!r:.60}")
    fields = {name: value for name, value in given.items() if value is not None}
    named = fields.pop("idempotency_key", None)
    ours = "id" not in fields and named is None
    if ours:
        fields["id"] = new_id(caller.clock.now())
    id = fields.get("id", "")
    if isinstance(id, Raw):
        id = msgspec.json.decode(id)
    if "payload" in fields:
        fields["payload"] = Raw(encoded(fields["payload"], "payload"))
    return Item(id, ours, encoded(with_times(fields), "task"), trace, named)


def _items(caller: Caller, tasks: Iterable[NewTask]) -> Iterator[Item | JobpipeError]:
    for task in tasks:
        try:
            yield item_of(caller, task)
        except JobpipeError as error:
            yield error


def _chunks(
    items: Iterable[Item | JobpipeError], max_bytes: int, max_items: int = MAX_ITEMS
) -> Iterator[list[Item | JobpipeError]]:
    chunk: list[Item | JobpipeError] = []
    size = 2
    for item in items:
        more = len(item.body) + 1 if isinstance(item, Item) else 0
        if chunk and (size + more > max_bytes or len(chunk) == max_items):
            yield chunk
            chunk, size = [], 2
        chunk.append(item)
        size += more
    if chunk:
        yield chunk
