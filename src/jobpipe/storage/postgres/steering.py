"""What people ask of tasks: cancel, retry, delete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotFound
from jobpipe.core.lifecycle import Event, refusal
from jobpipe.core.task import Status, Task
from jobpipe.storage.base import Cancelled
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.counts import Standing, columns
from jobpipe.storage.postgres.link import Link
from jobpipe.storage.postgres.rows import Stored, stored
from jobpipe.storage.postgres.runs import LANE
from jobpipe.storage.postgres.shared import Shared

MOVES = 5
"""So often a task that moves between the tables while it is looked for is looked for again."""


class Steering:
    """Each verb answers every id in order; an id that comes twice is met the second time as the first left it."""

    def __init__(self, shared: Shared) -> None:
        self._s = shared

    async def cancel(self, link: Link, ids: Sequence[str]) -> list[Cancelled | JobpipeError]:
        moved: Counter[Standing] = Counter()
        async with link.transaction():
            found = await self._locked(link, ids)
            queued = _seqs(found, Status.QUEUED)
            running = _seqs(found, Status.RUNNING)
            at = (await link.rows(sql.CANCEL_QUEUED, queued))[0]["at"] if queued else 0
            if running:
                await link.rows(sql.CANCEL_RUNNING, running)
            answers = [_cancelled(id_, found, at, moved) for id_ in ids]
            await self._count(link, moved)
        self._changed(moved)
        if running:
            self._s.news()
        return answers

    async def retry(self, link: Link, ids: Sequence[str]) -> list[Task | JobpipeError]:
        moved: Counter[Standing] = Counter()
        async with link.transaction():
            found = await self._locked(link, ids)
            seqs = _seqs(found, Status.FAILED, Status.CANCELLED)
            at = (await link.rows(sql.RETRY, seqs))[0]["at"] if seqs else 0
            answers = [_queued_again(id_, found, at, moved) for id_ in ids]
            await self._count(link, moved)
        self._changed(moved)
        for answer in answers:
            if isinstance(answer, Task):
                self._s.levels.add(answer.queue, answer.priority, answer.run_at)
        return answers

    async def delete(self, link: Link, ids: Sequence[str]) -> list[Task | JobpipeError]:
        answers: list[Task | JobpipeError] = []
        moved: Counter[Standing] = Counter()
        async with link.transaction():
            found = await self._locked(link, ids)
            seqs = _seqs(found, Status.DONE, Status.FAILED, Status.CANCELLED)
            if seqs:
                await link.rows(sql.DELETE, seqs)
            for id_ in ids:
                task = _refused(Event.DELETE, id_, found)
                if isinstance(task, Task):
                    del found[id_]
                    moved[(task.queue, task.priority, task.status)] -= 1
                answers.append(task)
            await self._count(link, moved)
        self._changed(moved)
        return answers

    async def _locked(self, link: Link, ids: Sequence[str]) -> dict[str, Stored]:
        """The tasks of these ids, which nobody else can change until the commit."""
        wanted = sorted({id_ for id_ in ids if "\0" not in id_})
        found: dict[str, Stored] = {}
        for _ in range(MOVES):
            # Waiting ones first: what ends between the two looks is seen by the second.
            for statement in (sql.HOT_FOR_UPDATE, sql.COLD_FOR_UPDATE):
                missing = [id_ for id_ in wanted if id_ not in found]
                for row in await link.rows(statement, missing) if missing else ():
                    found[row["id"]] = stored(row)
            # What was retried by somebody between them was seen by neither, and is there.
            missing = [id_ for id_ in wanted if id_ not in found]
            if not missing or not await link.rows(sql.BY_ID, missing):
                break
        return found

    async def _count(self, link: Link, moved: Counter[Standing]) -> None:
        if moved:
            await link.rows(sql.KEEP_COUNTS, self._s.counts.writer(LANE), *columns(moved))

    def _changed(self, moved: Counter[Standing]) -> None:
        if moved:
            self._s.counts.add_all(LANE, moved)
            self._s.news()


def _seqs(found: dict[str, Stored], *statuses: Status) -> list[int]:
    return sorted(row.task.seq for row in found.values() if row.task.status in statuses)


def _refused(event: Event, task_id: str, found: dict[str, Stored]) -> Task | JobpipeError:
    """The task, when the event is allowed for it; else why not."""
    row = found.get(task_id)
    if row is None:
        return NotFound(f"no task has the id '{task_id}'")
    return refusal(event, task_id, row.task.status) or row.task


def _cancelled(
    id_: str, found: dict[str, Stored], at: int, moved: Counter[Standing]
) -> Cancelled | JobpipeError:
    task = _refused(Event.CANCEL, id_, found)
    if isinstance(task, JobpipeError):
        return task
    if task.status is Status.RUNNING:
        return Cancelled(replace(task, cancel_requested=True), found[id_].lease_id)
    ended = replace(task, status=Status.CANCELLED, finished_at=at)
    found[id_] = replace(found[id_], task=ended)
    moved[(task.queue, task.priority, Status.QUEUED)] -= 1
    moved[(task.queue, task.priority, Status.CANCELLED)] += 1
    return Cancelled(ended)


def _queued_again(
    id_: str, found: dict[str, Stored], at: int, moved: Counter[Standing]
) -> Task | JobpipeError:
    task = _refused(Event.RETRY, id_, found)
    if isinstance(task, JobpipeError):
        return task
    again = replace(
        task, status=Status.QUEUED, attempts=0, failures=0, lost=0, run_at=at, started_at=None,
        finished_at=None, cancel_requested=False, worker=None, result=None,
    )  # fmt: skip
    found[id_] = replace(found[id_], task=again)
    moved[(task.queue, task.priority, task.status)] -= 1
    moved[(task.queue, task.priority, Status.QUEUED)] += 1
    return again
