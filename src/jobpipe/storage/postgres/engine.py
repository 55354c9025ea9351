"""PostgresStorage: the Storage contract over a few connections to one database that many servers share.

This file only carries calls to the right lane: accepting, runs (claims, settles and what people ask), questions,
and upkeep (listing and pruning), so that a long one holds up only its like.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from jobpipe.core.admission import Limits
from jobpipe.core.errors import (
    JobpipeError,
    LeaseLost,
    StorageBroken,
    StorageError,
    StorageInUse,
    StorageRefused,
)
from jobpipe.core.firing import Schedule
from jobpipe.core.gate import Held
from jobpipe.core.revision import Revision
from jobpipe.core.schedule_edits import Edit, Edited
from jobpipe.core.task import Attempt, NewTask, Status, Task
from jobpipe.core.unique import Known
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import (
    ANNOUNCED_S,
    MAX_ATTEMPTS,
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    CommitStats,
    Extended,
    Extension,
    LostClaim,
    Matches,
    Miscount,
    Page,
    QueueCounts,
    Record,
    SettleAnswer,
    Settlement,
    Summary,
    TaskFilter,
    Waiting,
)
from jobpipe.storage.calls import CLAIM, INSERT, READ, SETTLE, A, T
from jobpipe.storage.flow import Declaration, KeyUse, QueueRules
from jobpipe.storage.postgres import (
    intake,
    listing,
    migrations,
    moving,
    privileges,
    pruning,
    rows,
    runs,
    trial,
)
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_flow as flow_sql
from jobpipe.storage.postgres.address import Address, parse
from jobpipe.storage.postgres.audit import Audit
from jobpipe.storage.postgres.company import FORGOTTEN_S, Company
from jobpipe.storage.postgres.flow import Flow
from jobpipe.storage.postgres.hosts import Hosts
from jobpipe.storage.postgres.intake import Intake
from jobpipe.storage.postgres.lane import Lane, LaneCall, together
from jobpipe.storage.postgres.leases import Leases
from jobpipe.storage.postgres.lineage import Lineage
from jobpipe.storage.postgres.link import Link, Refused
from jobpipe.storage.postgres.partitions import Partitions
from jobpipe.storage.postgres.pruning import Pruning
from jobpipe.storage.postgres.runs import Runs
from jobpipe.storage.postgres.schedules import PostgresSchedules
from jobpipe.storage.postgres.shared import Shared
from jobpipe.storage.postgres.steering import Steering
from jobpipe.storage.schedules import Fired, ScheduleCounts

CHECK_S = 10.0
"""Within so long all that serves must have answered."""
PRIORITIES = 100
"""Of so many of a queue, the highest, it is asked since when a task of it is due."""


class PostgresStorage:
    """Tasks in a PostgreSQL database. See `storage.base.Storage` for the promises."""

    shared = True
    writes_local_claims_late = False

    def __init__(self, url: str, *, capacity: int, max_queues: int, clock: Clock) -> None:
        self._address: Address = parse(url)
        lineage, direct = Lineage(), self._address.direct
        self._hosts = Hosts(self._address, lineage)
        self._direct = self._hosts if direct is None else Hosts(direct, lineage)
        self._s = Shared(clock)
        self._commits = CommitStats()
        self._flow = Flow(self._s, max_queues)
        self._runs = Runs(self._s, self._flow)
        self._partitions = Partitions()
        self._make_lanes(Limits(capacity, max_queues, self._s.rulebook.capacities))
        self._company = Company(self._s, self._address.channel, self._direct.connect, self._fold, self._tidy)
        self._s.news, self._s.look_again = self._company.news, self._company.look_again
        self._flow.tell = self._company.rules

    def _make_lanes(self, limits: Limits) -> None:
        """The connections, and what is asked over each: what waits for one of them does not wait for another."""
        self._door = Intake(self._s, limits)
        self._schedules = PostgresSchedules(self._s, self._door)
        self._steering, self._leases = Steering(self._s), Leases(self._s)
        self._pruning = Pruning(self._s, self._partitions)
        self._audit = Audit()
        self._intake = self._lane(intake.LANE, counts=True)
        self._work = self._lane(runs.LANE, counts=True)
        self._questions = self._lane("questions")
        self._upkeep = self._lane(pruning.LANE, counts=True)
        self._insert = self._counted(self._door.insert, lambda call: len(call.argument[0]))
        self._settle = self._counted(self._runs.settle, lambda call: len(call.argument[0]))
        self._claim = self._counted(self._runs.claim, lambda call: len(call.answer.claims))
        self._get = together(_get)
        self._extend = together(self._leases.extend)

    # --- life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Reach the database, bring its schema up to date, and begin. Raises StorageRefused."""
        try:
            await self._direct.survey()
            link = await self._direct.connect(bare=True)
            try:
                await migrations.refuse_unsafe(link, self._address)
                await migrations.migrate(link, self._address)
                await privileges.refuse_missing(link, self._address)
                self._s.time.observe(await link.value(sql.NOW))
                await self._partitions.prepare(link, self._s.time.now())
            finally:
                await link.close()
            await asyncio.gather(*(lane.start() for lane in self._lanes()))
            await asyncio.gather(self._company.join(), self._questions.ask("look", self._look))
            await self.check()
        except StorageRefused:
            await self.close()
            raise
        except (StorageError, Refused) as error:
            await self.close()
            raise StorageRefused(str(error)) from error

    async def close(self) -> None:
        """Finish what was called, and close; safe when called twice or never opened."""
        await asyncio.gather(*(lane.stop() for lane in self._lanes()))
        await self._company.leave()

    async def wait_broken(self) -> StorageBroken:
        """Sleep for ever: a database that is away comes back, and what it holds can be trusted then."""
        for_ever: asyncio.Future[StorageBroken] = asyncio.get_running_loop().create_future()
        return await for_ever

    # --- the contract -------------------------------------------------------------------------------------------

    def insert(self, tasks: Sequence[NewTask], now: int) -> Awaitable[list[Task | Known | JobpipeError]]:
        return self._intake.gather("insert", INSERT, self._insert, (tasks, now), weight=len(tasks))

    def claim(self, request: ClaimRequest, now: int) -> Awaitable[ClaimAnswer]:
        return self._work.gather("claim", CLAIM, self._claim, request)

    def settle(self, settlements: Sequence[Settlement], now: int) -> Awaitable[list[SettleAnswer]]:
        return self._work.gather("settle", SETTLE, self._settle, (settlements, now))

    async def extend(self, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        return await self._questions.gather("extend", READ, self._extend, extensions)

    async def lost(self, limit: int) -> list[LostClaim]:
        return await self._questions.ask("lost", lambda link: self._leases.lost(link, limit))

    async def next_expiry(self) -> float | None:
        return await self._questions.ask("next_expiry", self._leases.next_expiry)

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        return await self._questions.gather("get", READ, self._get, ids)

    async def attempts(self, id: str) -> list[Attempt] | None:
        key = rows.searchable(id)
        return rows.attempts(
            await self._questions.ask("attempts", lambda link: link.rows(sql.ATTEMPTS, key, MAX_ATTEMPTS))
        )

    def cancel(self, ids: Sequence[str], now: int) -> Awaitable[list[Cancelled | JobpipeError]]:
        return self._work.call("cancel", lambda link: self._steering.cancel(link, ids))

    def retry(self, ids: Sequence[str], now: int) -> Awaitable[list[Task | JobpipeError]]:
        return self._work.call("retry", lambda link: self._steering.retry(link, ids))

    def revise(self, id: str, revision: Revision, now: int) -> Awaitable[Task | JobpipeError]:
        return self._work.call("revise", lambda link: self._steering.revise(link, id, revision, now))

    def expire(self, now: int, limit: int) -> Awaitable[list[Task]]:
        return self._work.call("expire", lambda link: self._steering.expire(link, limit))

    async def next_expiring(self) -> int | None:
        return await self._questions.ask("next_expiring", self._steering.next_expiring)

    def limited(self) -> frozenset[str]:
        return self._s.rulebook.obeyed

    async def say(
        self, queue: str, key: str | None, change: Mapping[str, Any], now: int, by: str | None
    ) -> JobpipeError | None:
        return await self._work.call("say", lambda link: self._flow.say(link, queue, key, change, (now, by)))

    async def unsay(self, queue: str, key: str | None) -> None:
        await self._work.call("unsay", lambda link: self._flow.unsay(link, queue, key))

    async def resume(self, queue: str, key: str | None, now: int, by: str | None) -> None:
        await self._work.call("resume", lambda link: self._flow.resume(link, queue, key, (now, by)))

    async def declare(self, declaration: Declaration, now: int) -> bool:
        answer = await self._work.call("declare", lambda link: self._flow.declare(link, declaration, now))
        if isinstance(answer, JobpipeError):
            raise answer
        return answer

    async def apps(self) -> list[tuple[str, bytes]]:
        return await self._questions.ask("apps", self._flow.apps)

    async def rules(self, queue: str | None, now: int) -> list[QueueRules]:
        return await self._questions.ask("rules", lambda link: self._flow.rules(link, queue))

    async def keys(self, queue: str, limit: int, after: str | None, now: int) -> list[KeyUse]:
        return await self._questions.ask("keys", lambda link: self._flow.keys(link, queue, limit, after))

    async def key(self, queue: str, key: str, now: int) -> KeyUse:
        return await self._questions.ask("key", lambda link: self._flow.key(link, queue, key))

    async def held(self, tasks: Sequence[Task], now: int) -> list[Held | None]:
        return await self._questions.ask("held", lambda link: self._flow.held(link, tasks))

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        return await self._work.call("delete", lambda link: self._steering.delete(link, ids))

    async def page(
        self, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int | None
    ) -> Page:
        return await self._upkeep.ask(
            "page", lambda link: listing.page(link, where, limit, before_seq, max_bytes)
        )

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None) -> Matches:
        return await self._upkeep.ask("match", lambda link: listing.match(link, where, limit, before_seq))

    async def counts(self) -> dict[Status, int]:
        await self._questions.ask("counts", self._s.counts.freshen)
        return self._s.counts.by_status()

    async def waiting(self, now: int, most: int) -> Waiting:
        return await self._upkeep.ask("waiting", lambda link: self._waiting(link, most))

    async def queues(self, now: int) -> list[QueueCounts]:
        return await self._upkeep.ask("queues", self._queues)

    async def prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        return await self._upkeep.call(
            "prune", lambda link: self._pruning.prune(link, finished_before, failed_before, limit)
        )

    async def audit(self) -> list[Miscount]:
        wrong = await self._upkeep.call("audit", self._audit.look)
        if wrong:
            self._hosts.leave()  # what memory holds of our own writers may be wrong too: others are made
            self._s.counts.leave()
        for lane in (self._intake, self._work, self._upkeep):
            await lane.ask("own counts", partial(self._s.counts.correct_own, lane.name))
        return wrong

    async def next_prunable(self) -> tuple[int | None, int | None]:
        return await self._upkeep.call("next_prunable", self._pruning.next_prunable)

    async def schedules(self, names: Sequence[str] | None = None) -> list[Schedule]:
        return await self._questions.ask("schedules", lambda link: self._schedules.read(link, names))

    async def edit_schedules(
        self, names: Sequence[str] | None, edit: Edit, now: int
    ) -> Edited | JobpipeError:
        return await self._questions.call(
            "edit schedules", lambda link: self._schedules.edit(link, names, edit)
        )

    async def fire(self, now: int, limit: int) -> Fired:
        return await self._intake.call("fire", lambda link: self._schedules.fire(link, limit))

    async def next_firing(self, now: int) -> int | None:
        return await self._questions.ask("next firing", self._schedules.next)

    async def schedule_counts(self, now: int) -> ScheduleCounts:
        return await self._questions.ask("schedule counts", self._schedules.counts)

    async def keep_summary(self, summary: Summary, forget_before: int) -> None:
        minute, server, data = summary.minute, summary.server, summary.data
        await self._upkeep.ask("keep_summary", lambda link: link.rows(sql.KEEP_SUMMARY, minute, server, data))
        await self._upkeep.ask(
            "forget_summaries", lambda link: link.rows(sql.FORGET_SUMMARIES, forget_before)
        )

    async def summaries(self, since: int, until: int) -> list[Summary]:
        found = await self._upkeep.ask("summaries", lambda link: link.rows(sql.SUMMARIES, since, until))
        return [Summary(row["minute"], row["server"], row["data"]) for row in found]

    async def export(self, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
        if self._s.others:
            await self._refuse_others()
        return await self._upkeep.ask("export", lambda link: moving.export(link, after_seq, limit, max_bytes))

    async def _refuse_others(self) -> None:
        forgotten = round(FORGOTTEN_S * 1000)
        (row,) = await self._upkeep.ask(
            "alone_in", lambda link: link.rows(sql.ALONE_IN, self._s.server, forgotten)
        )
        if row["ms"] is not None:
            seconds = max(1, math.ceil(row["ms"] / 1000))
            raise StorageInUse(
                "other servers use the store: stop them first; one that was killed is forgotten when it was not heard "
                f"of for {seconds} s more (--wait {seconds} waits for that)"
            )

    async def import_(self, records: Sequence[Record]) -> list[str]:
        return await self._intake.call("import", lambda link: self._door.import_(link, records))

    async def announce(self, server: str, data: bytes) -> None:
        await self._upkeep.ask("announce", lambda link: link.rows(sql.ANNOUNCE, server, data))
        await self._upkeep.ask(
            "forget_announced", lambda link: link.rows(sql.FORGET_ANNOUNCED, round(ANNOUNCED_S * 1000))
        )

    async def announced(self) -> list[bytes]:
        found = await self._upkeep.ask(
            "announced", lambda link: link.rows(sql.ANNOUNCED, round(ANNOUNCED_S * 1000))
        )
        return [row["data"] for row in found]

    def publish(self, data: bytes) -> None:
        self._company.publish(data)

    def listen(self, tell: Callable[[bytes | None], None]) -> None:
        self._company.listen(tell)

    async def cancelling(self) -> list[Cancelled]:
        found = await self._questions.ask(
            "cancelling", lambda link: link.rows(sql.CANCELLING, self._s.server)
        )
        return [Cancelled(rows.task_of(row), row["lease_id"]) for row in found]

    def clock_step(self) -> float:
        return self._s.time.step_s

    def commits(self) -> CommitStats:
        return self._commits

    async def check(self) -> None:
        """Try every statement of a server's life, over nothing; and see that nothing was refused just now."""
        serving = self._intake, self._work, self._questions
        try:
            async with asyncio.timeout(CHECK_S):
                await asyncio.gather(
                    *(lane.ask("readiness", partial(trial.run, lane=lane.name)) for lane in serving)
                )
        except TimeoutError as error:
            raise StorageError(f"the database did not answer within {CHECK_S:.0f} s") from error
        if (refused := self._s.refusals.fresh(trial.LIFE)) is not None:
            raise StorageError(str(refused)) from refused

    # --- inside -------------------------------------------------------------------------------------------------

    def _lanes(self) -> tuple[Lane, ...]:
        return self._intake, self._work, self._questions, self._upkeep

    def _lane(self, name: str, *, counts: bool = False) -> Lane:
        async def enter(link: Link) -> None:
            """A lane that writes counts is a new writer, known to all before it writes."""
            self._s.counts.enter(name, await link.value(sql.NEW_WRITER))
            await self._company.beat(link)

        return Lane(name, self._hosts.connect, enter if counts else None, self._s.refusals)

    def _counted(
        self,
        serve: Callable[[Lane, Sequence[LaneCall[A, T]]], Awaitable[None]],
        tasks: Callable[[LaneCall[A, T]], int],
    ) -> Callable[[Lane, Sequence[LaneCall[A, T]]], Awaitable[None]]:
        """The same, and its commit is counted with its tasks."""

        async def counted(lane: Lane, calls: Sequence[LaneCall[A, T]]) -> None:
            began = self._s.clock.monotonic()
            await serve(lane, calls)
            self._commits.add(self._s.clock.monotonic() - began, sum(map(tasks, calls)))

        return counted

    async def _fold(self) -> None:
        """What is to be done every second."""
        if self._s.others:
            await self._questions.ask("look", self._look)
        if self._s.counts.written:
            self._s.counts.written = 0
            writers = self._s.counts.writers
            await self._upkeep.ask("fold", lambda link: link.rows(sql.FOLD, writers))

    async def _look(self, link: Link) -> None:
        await self._s.rulebook.look(link, shared=True)

    async def _tidy(self) -> None:
        """What is to be done now and then, whichever server comes first."""
        await self._upkeep.ask("fold_gone", lambda link: link.rows(sql.FOLD_GONE))
        await self._upkeep.ask("forget_rested", lambda link: link.rows(flow_sql.FORGET_RESTED))
        await self._upkeep.ask("give_back_doubtful", self._runs.give_back_doubtful)
        await self._upkeep.ask("prepare", lambda link: self._partitions.prepare(link, self._s.time.now()))
        await self._direct.watch()

    async def _waiting(self, link: Link, most: int) -> Waiting:
        await self._s.counts.freshen(link)
        queues = [queue for queue, n in self._s.counts.by_queue().items() if n[Status.QUEUED]]
        return await listing.waiting(link, queues, PRIORITIES, most) if queues else Waiting(0, 0)

    async def _queues(self, link: Link) -> list[QueueCounts]:
        await self._s.counts.freshen(link)
        counts = self._s.counts.by_queue()
        waiting = [queue for queue, n in counts.items() if n[Status.QUEUED]]
        found = await link.rows(sql.OLDEST_READY, waiting, PRIORITIES) if waiting else []
        oldest = {row["queue"]: row["run_at"] for row in found}
        return [
            QueueCounts(queue, by_status, self._s.time.here(oldest.get(queue)))
            for queue, by_status in counts.items()
        ]


async def _get(link: Link, ids: Sequence[str]) -> list[Task | None]:
    wanted = [id_ for id_ in set(ids) if "\0" not in id_]
    found = {row["id"]: rows.task_of(row) for row in await link.rows(sql.BY_ID, wanted)} if wanted else {}
    return [found.get(id_) for id_ in ids]
