"""Accepting tasks: one statement when all surely fit, item by item near a bound or when an id is taken."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from jobpipe.core.admission import Limits, fit_surely, judge
from jobpipe.core.errors import StorageError, Upgrading
from jobpipe.core.once import Once, Taken
from jobpipe.core.task import NewTask, Status, Task, accepted
from jobpipe.core.unique import Answer, Known, may_replace, name_of
from jobpipe.storage.base import Record
from jobpipe.storage.calls import Call, hand_slices
from jobpipe.storage.postgres import moving, unique
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_flow as flow_sql
from jobpipe.storage.postgres import statements_once as once_sql
from jobpipe.storage.postgres.columns import given
from jobpipe.storage.postgres.flow import stir
from jobpipe.storage.postgres.lane import Lane
from jobpipe.storage.postgres.link import Again, Gone, Link
from jobpipe.storage.postgres.migrations import scripts
from jobpipe.storage.postgres.rows import STATUSES, delay, rewritten, task_of
from jobpipe.storage.postgres.session import STATEMENT_S
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.postgres.unique import Raced

LANE = "intake"
OLDER = "a server of an earlier version still serves the store"
RACES = 10
"""So often a batch is decided anew when ids of it were taken or freed by others in between."""


Inserting = Call[tuple[Sequence[NewTask], int], list[Answer]]
"""Tasks to be accepted, and the time."""
Item = tuple[NewTask, int]
"""A task to be accepted, its `expires_at` in ms from the caller's now, and its delay from then."""


class Intake:
    """The door of the store."""

    def __init__(self, shared: Shared, limits: Limits) -> None:
        self._s = shared
        self._limits = limits

    async def insert(self, lane: Lane, calls: Sequence[Inserting]) -> None:
        """Accept all tasks of all calls in one statement; each call gets its own slice of the answers."""
        items = [_item(new, call.argument[1]) for call in calls for new in call.argument[0]]
        answers: list[Answer] = []
        answers += await self._inserted(lane, items) if items else []
        hand_slices(calls, [len(call.argument[0]) for call in calls], answers)
        if any(isinstance(answer, Task) for answer in answers):
            self._s.news()

    async def within(self, link: Link, tasks: Sequence[NewTask], now: int) -> list[Answer]:
        """Accept tasks, in order, in the transaction that is under way. Raises Again for one to be begun anew."""
        if not tasks:
            return []
        await self._s.counts.freshen(link)
        await self._s.room.look(link, tasks)
        try:
            decided = await self._decide(link, [_item(new, now) for new in tasks])
            await self._rewrite(link, decided.once)
            stored = await self._put(link, decided.items, secrets.randbits(63)) if decided.items else []
            if stored is None:
                raise Raced
            await unique.take(link, stored)
        except Raced as raced:
            raise Again("an id or a key was taken meanwhile") from raced
        self._replaced(decided.once)
        return decided.with_stored(stored)

    async def statuses(self, link: Link, ids: Sequence[str]) -> dict[str, Status]:
        """Where the tasks with these ids stand, as far as there are any."""
        return {id_: taken.status for id_, taken in (await self._taken(link, ids)).items()} if ids else {}

    async def import_(self, link: Link, records: Sequence[Record]) -> list[str]:
        """Take over tasks of another store, those whose ids are free, whatever the bounds."""
        taken = await self._taken(link, [record.task.id for record in records])
        free = [record for record in records if record.task.id not in taken]
        seqs = await moving.write(link, free, self._s.counts.writer(LANE)) if free else {}
        new = [record for record in free if record.task.id in seqs]
        self._s.counts.add_all(LANE, moving.rises(new))
        self._s.levels.forget()
        await stir(self._s, link, [record.task for record in new])
        if new:
            self._s.news()
        return [record.task.id for record in records if record.task.id not in seqs]

    async def _inserted(self, lane: Lane, items: Sequence[Item]) -> list[Answer]:
        link = await lane.link()
        await self._s.counts.freshen(link)
        await self._s.rulebook.look(link, shared=False)
        await self._s.room.look(link, [new for new, _ in items])
        if any(_asks_more(new) for new, _ in items) and await beside_older(link):
            return await self._without_more(lane, items)
        return await self._accepted(lane, items)

    async def _accepted(self, lane: Lane, items: Sequence[Item]) -> list[Answer]:
        wanted = [new for new, _ in items]
        if (
            fit_surely(wanted, self._limits, self._s.room)
            and (tasks := await self._write(lane, items)) is not None
        ):
            return list(tasks)
        for _ in range(RACES):
            answers = await self._admitted(lane, items)
            if answers is not None:
                return answers
        raise StorageError("the ids of this batch change too fast")

    async def _without_more(self, lane: Lane, items: Sequence[Item]) -> list[Answer]:
        """Accept those that a server of an earlier version understands."""
        plain = [item for item in items if not _asks_more(item[0])]
        answers = iter(await self._accepted(lane, plain) if plain else [])
        return [Upgrading(OLDER) if _asks_more(new) else next(answers) for new, _ in items]

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
        source = flow_sql if self._s.rulebook.by_key else sql
        row = await link.row(
            source.INSERT_ALIKE if alike else source.INSERT,
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
            _stored(new, seq, now + late, now) for (new, late), seq in zip(items, row["seqs"], strict=True)
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
                    _stored(new, row["seq"], row["run_at"], row["created_at"])
                    for new, row in ((new, found[new.id]) for new, _ in items)
                ]
            if gone:
                return None
            if loop.time() > end:
                raise StorageError("whether the tasks were stored is not known yet")
            await asyncio.sleep(0.05)

    # --- deciding item by item ----------------------------------------------------------------------------------

    async def _admitted(self, lane: Lane, items: Sequence[Item]) -> list[Answer] | None:
        """Decide each, in order, and write what comes of it in one commit; None when it is to be decided anew."""
        accept, link = secrets.randbits(63), await lane.link()
        decided: Decided | None = None
        try:
            async with link.transaction():
                decided = await self._decide(link, items)
                await self._rewrite(link, decided.once)
                tasks = await self._put(link, decided.items, accept) if decided.items else []
                if tasks is None:
                    raise Raced
                await unique.take(link, tasks)
        except Raced:
            return None
        except Gone:
            # With nothing new it may be decided again whatever became of it: the same replacement twice is one.
            if decided is None or not decided.items:
                return None
            tasks = await self._written(lane, link.backend, decided.items, accept)
            if tasks is None:
                return None
        self._replaced(decided.once)
        return decided.with_stored(tasks)

    async def _decide(self, link: Link, items: Sequence[Item]) -> Decided:
        """What each is to become. Raises Raced."""
        now = self._s.time.now()
        wanted = [_told(new, now + late, now) for new, late in items]
        names = {name for new in wanted if (name := name_of(new)) is not None}
        replacing = {name for new in wanted if (name := name_of(new)) is not None and may_replace(new)}
        locked = await unique.hold(link, replacing)
        taken = await self._taken(link, [new.id for new in wanted])
        again = [
            new.id for new in wanted if new.digest and new.id in taken and taken[new.id].digest == new.digest
        ]
        replayed = {row["id"]: task_of(row) for row in (await link.rows(sql.BY_ID, again) if again else [])}
        once = Once(taken, await unique.holders(link, names), replayed, now)

        def accept(new: NewTask) -> Task:
            return accepted(new, -1 - len(once.accepted), new.run_at or now, now)

        answers = judge(wanted, once, self._limits, self._s.room, accept)
        if not (once.replaced.keys() <= locked and replayed.keys() >= set(again)):
            raise Raced
        return Decided(now, once, answers)

    async def _rewrite(self, link: Link, once: Once) -> None:
        for _, new in once.replaced.values():
            await link.rows(sql.REWRITE, *rewritten(new))
        await stir(self._s, link, [new for _, new in once.replaced.values()])

    def _replaced(self, once: Once) -> None:
        """Stored tasks were changed: they may be due earlier."""
        for _, new in once.replaced.values():
            self._s.levels.add(new.queue, new.priority, new.run_at, new.seq)
        if once.replaced:
            self._s.news()

    async def _taken(self, link: Link, ids: Sequence[str]) -> dict[str, Taken]:
        """Which of the ids have a task; those that only seem to are made free."""
        rows = await link.rows(sql.TAKEN, list(set(ids)))
        free = sorted((row["id"], row["seq"]) for row in rows if row["status"] is None)
        if free:
            await link.rows(sql.FREE, [id_ for id_, _ in free], [seq for _, seq in free])
        return {
            row["id"]: Taken(STATUSES[row["status"]], row["digest"])
            for row in rows
            if row["status"] is not None
        }


async def beside_older(link: Link) -> bool:
    """Whether a server is here that would not honour what came after its version."""
    return bool(await link.value(once_sql.OLDER, len(scripts())))


class Decided:
    """A batch as it was decided, at a time of the database that was about right; new tasks have seqs below 0."""

    def __init__(self, now: int, once: Once, answers: Sequence[Answer]) -> None:
        self._now = now
        self._answers = answers
        self.once = once
        self.items = [(_new(task, now), max(0, task.run_at - now)) for task in once.accepted.values()]
        """The new tasks, as they are once all of the batch was decided."""

    def with_stored(self, tasks: Sequence[Task]) -> list[Answer]:
        """The answers, with the places and times that new tasks got."""
        stored = dict(zip(self.once.accepted, tasks, strict=True))
        return [self._with(answer, stored) for answer in self._answers]

    def _with(self, answer: Answer, stored: Mapping[int, Task]) -> Answer:
        if isinstance(answer, Known):
            return replace(answer, task=self._placed(answer.task, stored.get(answer.task.seq)))
        return self._placed(answer, stored.get(answer.seq)) if isinstance(answer, Task) else answer

    def _placed(self, task: Task, stored: Task | None) -> Task:
        if stored is None:
            return task
        later = stored.created_at - self._now
        expires_at = None if task.expires_at is None else task.expires_at + later
        return replace(
            task,
            seq=stored.seq,
            created_at=stored.created_at,
            run_at=task.run_at + later,
            expires_at=expires_at,
        )


def _item(new: NewTask, now: int) -> Item:
    late = delay(new.run_at, now)
    return (new if new.expires_at is None else replace(new, expires_at=new.expires_at - now)), late


def _asks_more(new: NewTask) -> bool:
    """Whether it uses what servers of an earlier version know nothing of."""
    return bool(new.uniqueness or new.digest or new.expires_at or new.key)


def _told(new: NewTask, run_at: int, now: int) -> NewTask:
    """The same with its times, which are delays here, on the database's clock."""
    expires_at = None if new.expires_at is None else now + new.expires_at
    return replace(new, run_at=run_at, expires_at=expires_at)


def _new(task: Task, now: int) -> NewTask:
    """The task as it is given, its expiry as a delay again."""
    given = {name: getattr(task, name) for name in NewTask.__struct_fields__}
    return NewTask(**given | {"expires_at": None if task.expires_at is None else task.expires_at - now})


def _stored(new: NewTask, seq: int, run_at: int, created_at: int) -> Task:
    """The task as it was stored, its expiry a time."""
    task = accepted(new, seq, run_at, created_at)
    return task if task.expires_at is None else replace(task, expires_at=created_at + task.expires_at)
