"""Accepting tasks: one statement when all surely fit, item by item near a bound or when an id is taken."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jobpipe.core.admission import Limits, fit_surely, judge
from jobpipe.core.errors import Invalid, StorageError
from jobpipe.core.once import Once, Taken
from jobpipe.core.task import NewTask, Status, Task, accepted
from jobpipe.core.unique import Answer
from jobpipe.storage.base import Record
from jobpipe.storage.calls import Call, hand_slices
from jobpipe.storage.postgres import moving
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.columns import given
from jobpipe.storage.postgres.lane import Lane
from jobpipe.storage.postgres.link import Gone, Link
from jobpipe.storage.postgres.rows import STATUSES, delay
from jobpipe.storage.postgres.session import STATEMENT_S
from jobpipe.storage.postgres.shared import Shared

LANE = "intake"
RACES = 10
"""So often a batch is decided anew when ids of it were taken or freed by others in between."""


Inserting = Call[tuple[Sequence[NewTask], int], list[Answer]]
"""Tasks to be accepted, and the time."""
Item = tuple[NewTask, int]
"""A task to be accepted, and its delay in ms from the caller's now."""


class Intake:
    """The door of the store."""

    def __init__(self, shared: Shared, limits: Limits) -> None:
        self._s = shared
        self._limits = limits

    async def insert(self, lane: Lane, calls: Sequence[Inserting]) -> None:
        """Accept all tasks of all calls in one statement; each call gets its own slice of the answers."""
        items = [(new, delay(new.run_at, call.argument[1])) for call in calls for new in call.argument[0]]
        answers: list[Answer] = []
        answers += await self._inserted(lane, items) if items else []
        hand_slices(calls, [len(call.argument[0]) for call in calls], answers)
        if any(isinstance(answer, Task) for answer in answers):
            self._s.news()

    async def import_(self, link: Link, records: Sequence[Record]) -> list[str]:
        """Take over tasks of another store, those whose ids are free, whatever the bounds."""
        taken = await self._taken(link, [record.task.id for record in records])
        free = [record for record in records if record.task.id not in taken]
        seqs = await moving.write(link, free, self._s.counts.writer(LANE)) if free else {}
        new = [record for record in free if record.task.id in seqs]
        self._s.counts.add_all(LANE, moving.rises(new))
        self._s.levels.forget()
        if new:
            self._s.news()
        return [record.task.id for record in records if record.task.id not in seqs]

    async def _inserted(self, lane: Lane, items: Sequence[Item]) -> list[Answer]:
        await self._s.counts.freshen(await lane.link())
        wanted = [new for new, _ in items]
        if (
            fit_surely(wanted, self._limits, self._s.counts)
            and (tasks := await self._write(lane, items)) is not None
        ):
            return list(tasks)
        for _ in range(RACES):
            answers = await self._admitted(lane, items)
            if answers is not None:
                return answers
        raise StorageError("the ids of this batch change too fast")

    # --- writing ------------------------------------------------------------------------------------------------

    async def _write(self, lane: Lane, items: Sequence[Item]) -> list[Task] | None:
        """Store all and count them; None, and nothing stored, when an id of them is taken."""
        accept = secrets.randbits(63)
        link = await lane.link()
        try:
            return await self._put(link, items, accept)
        except Gone:
            written = await self._written(lane, link.backend, items, accept)
            return written if written is not None else await self._put(await lane.link(), items, accept)

    async def _put(self, link: Link, items: Sequence[Item], accept: int) -> list[Task] | None:
        shaped = [(late, *given(new)) for new, late in items]
        shapes = {shape: new for shape, (new, _) in zip(shaped, items, strict=True)}
        rises = Counter((new.queue, 0, Status.QUEUED) for new, _ in items)
        alike = len(shapes) == 1
        row = await link.row(
            sql.INSERT_ALIKE if alike else sql.INSERT,
            [new.id for new, _ in items],
            [new.payload for new, _ in items],
            accept,
            [queue for queue, _, _ in rises],
            list(rises.values()),
            self._s.counts.writer(LANE),
            *(shaped[0] if alike else map(list, zip(*shaped, strict=True))),
        )
        now = row["now"]
        self._s.time.observe(now)
        if row["seqs"] is None:
            return None
        self._s.counts.add_all(LANE, rises)
        tasks = [
            accepted(new, seq, now + late, now) for (new, late), seq in zip(items, row["seqs"], strict=True)
        ]
        for (late, *_), new in shapes.items():
            self._s.levels.add(new.queue, new.priority, now + late, row["seqs"][0])
        return tasks

    async def _written(
        self, lane: Lane, backend: tuple[int, Any] | None, items: Sequence[Item], accept: int
    ) -> list[Task] | None:
        """What a writing of unknown outcome stored: all or, once its backend is certainly gone, nothing (None)."""
        link = await lane.link()
        loop = asyncio.get_running_loop()
        end = loop.time() + STATEMENT_S
        while True:
            # In this order: what it wrote before it went is seen by the look that follows.
            gone = not await link.rows(sql.STILL_THERE, *backend) if backend else loop.time() > end
            rows = await link.rows(sql.WRITTEN, [new.id for new, _ in items], accept)
            if rows:
                found = {row["id"]: row for row in rows}
                return [
                    accepted(new, row["seq"], row["run_at"], row["created_at"])
                    for new, row in ((new, found[new.id]) for new, _ in items)
                ]
            if gone:
                return None
            if loop.time() > end:
                raise StorageError("whether the tasks were stored is not known yet")
            await asyncio.sleep(0.05)

    # --- deciding item by item ----------------------------------------------------------------------------------

    async def _admitted(self, lane: Lane, items: Sequence[Item]) -> list[Answer] | None:
        """Decide each, in order, and write those accepted; None when somebody took or freed one of the ids."""
        taken = await self._taken(await lane.link(), [new.id for new, _ in items])
        now, late = self._s.time.now(), {new.id: late for new, late in items}
        once = Once(taken, {}, {}, now)

        def accept(new: NewTask) -> Task:
            return accepted(new, -1 - len(once.accepted), now + late[new.id], now)

        answers = judge([new for new, _ in items], once, self._limits, self._s.counts, accept)
        chosen = [item for item, answer in zip(items, answers, strict=True) if isinstance(answer, Task)]
        tasks = await self._write(lane, chosen) if chosen else []
        if tasks is None:
            return None
        stored = iter(tasks)
        return [next(stored) if isinstance(answer, Task) else answer for answer in answers]

    async def _taken(self, link: Link, ids: Sequence[str]) -> dict[str, Taken]:
        """Which of the ids have a task; those that only seem to are made free."""
        rows = await link.rows(sql.TAKEN, list(set(ids)))
        free = sorted((row["id"], row["seq"]) for row in rows if row["status"] is None)
        if free:
            await link.rows(sql.FREE, [id_ for id_, _ in free], [seq for _, seq in free])
        return {row["id"]: Taken(STATUSES[row["status"]]) for row in rows if row["status"] is not None}


_NOT_YET = Invalid("unique, expires and Idempotency-Key are not served on PostgreSQL yet")


def _beyond(new: NewTask) -> bool:
    return bool(new.uniqueness or new.digest or new.expires_at)
