"""Enqueueing, one task or any number, so that a repeat after a lost answer makes no second task.

That is certain for ids that were made here: nobody else can have used them, so "the id exists" means that an earlier
sending got through. For an id that the caller chose it proves nothing: such a task is never sent twice blindly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from jobpipe.client.errors import Refusal, bad_answer
from jobpipe.client.exchange import Answer, Request
from jobpipe.client.flow import Call, Caller, Flow, parse
from jobpipe.client.tasks import get, path_of, task_decoder
from jobpipe.client.values import NewTask, Task, TaskForm, encoded, time_text
from jobpipe.core.errors import Invalid, JobpipeError, TaskExists, TooLarge
from jobpipe.wire import MAX_ITEMS, new_id

MAX_BATCH_BYTES: Final = 15 * 1024 * 1024
"""Below the server's own default bound. One that is set lower answers `too_large`, and the batch is halved."""


class _Item(Struct, frozen=True):
    """A task to send; `ours` says that its id was made here."""

    id: str
    ours: bool
    body: bytes


class _AnswerForm(Struct):
    """The answer to one task of a batch: the task, or a problem."""

    status: int
    task: TaskForm | None = None
    code: str = "internal"
    error: str | None = None
    detail: str | None = None
    field: str | None = None

    def decoded(self) -> Task | JobpipeError:
        if self.task is not None:
            return self.task.task()
        return Refusal(self.code, self.status, self.error, self.detail, self.field).as_error(self.status)


_answers: Final = msgspec.json.Decoder(list[_AnswerForm])


def enqueue(caller: Caller, task: NewTask) -> Flow[Task]:
    """One task."""
    return parse(task_decoder, (yield from enqueue_for_answer(caller, task))).task()


def enqueue_for_answer(caller: Caller, task: NewTask) -> Flow[Answer]:
    """One task, and the server's own words about it."""
    item = _item(caller, task)
    call = Call(caller, Request("POST", "/enqueue", item.body, repeatable=item.ours))
    try:
        return (yield from call.run())
    except TaskExists:
        if item.ours and call.unseen:
            return (yield from caller.call(Request("GET", path_of(item.id), repeatable=True)))
        raise


def enqueue_many(
    caller: Caller, tasks: Iterable[NewTask], max_bytes: int = MAX_BATCH_BYTES
) -> Flow[list[Task | JobpipeError]]:
    """Each task's answer, in order. Raises what refused the first batch whole; later it stands for each task left."""
    answers: list[Task | JobpipeError] = []
    fatal: JobpipeError | None = None
    for chunk in _chunks((_item_or_error(caller, task) for task in tasks), max_bytes):
        if fatal is None:
            try:
                answers += yield from _send_chunk(caller, chunk)
                continue
            except JobpipeError as error:
                if not answers:
                    raise
                fatal = error
        answers += [item if isinstance(item, JobpipeError) else fatal for item in chunk]
    return answers


def _send_chunk(caller: Caller, chunk: Sequence[_Item | JobpipeError]) -> Flow[list[Task | JobpipeError]]:
    items = [item for item in chunk if isinstance(item, _Item)]
    sent = iter((yield from _send_items(caller, items)) if items else [])
    return [item if isinstance(item, JobpipeError) else next(sent) for item in chunk]


def _send_items(caller: Caller, items: Sequence[_Item]) -> Flow[list[Task | JobpipeError]]:
    body = b"[%b]" % b",".join(item.body for item in items)
    call = Call(caller, Request("POST", "/enqueue", body, repeatable=all(item.ours for item in items)))
    try:
        answer = yield from call.run()
    except TooLarge as error:
        if len(items) == 1:
            return [error]
        middle = len(items) // 2
        first = yield from _send_items(caller, items[:middle])
        return first + (yield from _send_items(caller, items[middle:]))
    answers = [form.decoded() for form in parse(_answers, answer)]
    if len(answers) != len(items):
        raise bad_answer(answer.status, answer.body)
    if call.unseen:
        yield from _find_unseen(caller, items, answers)
    return answers


def _find_unseen(caller: Caller, items: Sequence[_Item], answers: list[Task | JobpipeError]) -> Flow[None]:
    """Put the tasks that an unseen sending had enqueued in the place of their "exists"."""
    for place, item in enumerate(items):
        if item.ours and isinstance(answers[place], TaskExists):
            answers[place] = yield from get(caller, item.id)


def _item_or_error(caller: Caller, task: NewTask) -> _Item | JobpipeError:
    try:
        return _item(caller, task)
    except Invalid as error:
        return error


def _item(caller: Caller, task: NewTask) -> _Item:
    given: Mapping[str, Any] = task
    fields = {name: value for name, value in given.items() if value is not None}
    ours = "id" not in fields
    id = fields.setdefault("id", new_id(caller.clock.now()))
    if "payload" in fields:
        fields["payload"] = Raw(encoded(fields["payload"], "payload"))
    if isinstance(fields.get("run_at"), datetime):  # else it is JSON already, like the command line's
        fields["run_at"] = time_text(fields["run_at"], "run_at")
    return _Item(id, ours, encoded(fields, "task"))


def _chunks(items: Iterable[_Item | JobpipeError], max_bytes: int) -> Iterator[list[_Item | JobpipeError]]:
    chunk: list[_Item | JobpipeError] = []
    size = 2
    for item in items:
        more = len(item.body) + 1 if isinstance(item, _Item) else 0
        if chunk and (size + more > max_bytes or len(chunk) == MAX_ITEMS):
            yield chunk
            chunk, size = [], 2
        chunk.append(item)
        size += more
    if chunk:
        yield chunk
