"""What people ask of tasks: cancel, retry, delete."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence

from jobpipe.core.errors import JobpipeError, NotFound, StorageError
from jobpipe.core.expiry import EXPIRED, ended_by_expiry
from jobpipe.core.lifecycle import ALLOWED, Event
from jobpipe.core.revision import Revision, moved_by, revised
from jobpipe.core.steering import Standing, rises, steer
from jobpipe.core.task import Status, Task
from jobpipe.core.unique import name_of, retry_takes
from jobpipe.storage.base import Cancelled
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_once as once_sql
from jobpipe.storage.postgres import unique
from jobpipe.storage.postgres.counts import columns
from jobpipe.storage.postgres.flow import stir
from jobpipe.storage.postgres.link import Link, arrays
from jobpipe.storage.postgres.rows import Stored, error_text, rewritten, stored, task_of
from jobpipe.storage.postgres.runs import LANE
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.postgres.unique import Raced

MOVES = 5
"""So often a task that moves between the tables while it is looked for is looked for again."""


class Steering:
    """Writes what core.steering decides."""

    def __init__(self, shared: Shared) -> None:
        self._s = shared

    async def cancel(self, link: Link, ids: Sequence[str]) -> list[Cancelled | JobpipeError]:
        async with link.transaction():
            found = await self._locked(link, ids)
            running = _seqs(found, Status.RUNNING)
            at = await self._written(link, sql.CANCEL_QUEUED, _seqs(found, Status.QUEUED))
            if running:
                await link.rows(sql.CANCEL_RUNNING, running)
            answers, moved = await self._steer(link, Event.CANCEL, ids, found, at)
        self._changed(moved)
        if running:
            self._s.news()
        return [
            answer if isinstance(answer, JobpipeError) else _told(answer, found[answer.id].lease_id)
            for answer in answers
        ]

    async def retry(self, link: Link, ids: Sequence[str]) -> list[Task | JobpipeError]:
        for _ in range(MOVES):
            with contextlib.suppress(Raced):
                return await self._retried(link, ids)
        raise StorageError("the unique keys of these tasks change too fast")

    async def _retried(self, link: Link, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Raises Raced."""
        async with link.transaction():
            tasks = {id_: row.task for id_, row in (await self._locked(link, ids)).items()}
            now = int(await link.value(sql.NOW))
            names = {name for task in tasks.values() if (name := name_of(task)) is not None}
            living = await unique.holders(link, names)
            answers, moves = steer(Event.RETRY, ids, tasks, now, living)
            if moves:
                await link.rows(sql.RETRY, sorted(task.seq for task, _ in moves), now)
                await stir(self._s, link, [task for _, task in moves if task is not None])
            await unique.take(link, [task for task, _ in moves if retry_takes(task, now)])
            moved = rises(moves)
            await self._count(link, moved)
        self._changed(moved)
        for answer in answers:
            if isinstance(answer, Task):
                self._s.levels.add(answer.queue, answer.priority, answer.run_at, answer.seq)
        return answers

    async def expire(self, link: Link, limit: int) -> list[Task]:
        """End waiting tasks that must not be claimed any more."""
        async with link.transaction():
            rows = await link.rows(once_sql.EXPIRED, limit)
            if not rows:
                return []
            now = rows[0]["now"]
            tasks = [task_of(row) for row in rows]
            ended = [ended_by_expiry(task, now) for task in tasks]
            written = [(task.seq, error_text(task.last_error), EXPIRED, group) for task, group in ended]
            await link.rows(once_sql.EXPIRE, *arrays(written, 4), now)
            moved = rises(zip(tasks, [task for task, _ in ended], strict=True))
            await self._count(link, moved)
        self._changed(moved)
        return [task for task, _ in ended]

    async def next_expiring(self, link: Link) -> int | None:
        """On the caller's clock."""
        return self._s.time.here(await link.value(once_sql.NEXT_EXPIRING))

    async def revise(self, link: Link, id: str, revision: Revision, now: int) -> Task | JobpipeError:
        async with link.transaction():
            row = (await self._locked(link, [id])).get(id)
            if row is None:
                return NotFound(f"no task has the id '{id}'")
            there = await link.value(
                sql.NOW
            )  # what is said is of this server's clock, the row of the database's
            task = revised(row.task, moved_by(revision, there - now), there)
            if isinstance(task, JobpipeError):
                return task
            await link.rows(sql.REWRITE, *rewritten(task))
            await stir(self._s, link, [task])
            moved = rises([(row.task, task)])
            await self._count(link, moved)
        self._changed(moved)
        self._s.levels.add(task.queue, task.priority, task.run_at, task.seq)
        self._s.news()
        return task

    async def delete(self, link: Link, ids: Sequence[str]) -> list[Task | JobpipeError]:
        async with link.transaction():
            found = await self._locked(link, ids)
            seqs = _seqs(found, *ALLOWED[Event.DELETE])
            if seqs:
                await link.rows(sql.DELETE, seqs)
            answers, moved = await self._steer(link, Event.DELETE, ids, found, 0)
        self._changed(moved)
        return answers

    async def _written(self, link: Link, statement: str, seqs: list[int]) -> int:
        """When the database did it to these."""
        return int((await link.rows(statement, seqs))[0]["at"]) if seqs else 0

    async def _steer(
        self, link: Link, event: Event, ids: Sequence[str], found: dict[str, Stored], at: int
    ) -> tuple[list[Task | JobpipeError], Counter[Standing]]:
        """The answers, and what is counted with them."""
        answers, moves = steer(event, ids, {id_: row.task for id_, row in found.items()}, at)
        moved = rises(moves)
        await self._count(link, moved)
        return answers, moved

    async def _count(self, link: Link, moved: Counter[Standing]) -> None:
        if moved:
            await link.rows(sql.KEEP_COUNTS, self._s.counts.writer(LANE), *columns(moved))

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

    def _changed(self, moved: Counter[Standing]) -> None:
        if moved:
            self._s.counts.add_all(LANE, moved)
            self._s.news()


def _seqs(found: dict[str, Stored], *statuses: Status) -> list[int]:
    return sorted(row.task.seq for row in found.values() if row.task.status in statuses)


def _told(task: Task, lease_id: str | None) -> Cancelled:
    return Cancelled(task, lease_id if task.status is Status.RUNNING else None)
