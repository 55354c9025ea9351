"""A store and the model side by side: every verb is asked of both, and the answers are compared.

A driver (Hypothesis, or a seeded random one) chooses the verbs. Claims are remembered for ever, also those that hold no
more, so that stale ones are tried as well.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.revision import Revision, moved_by
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.core.unique import Known, OnConflict, Unique, text_of
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import (
    Cancelled,
    ClaimRequest,
    Extended,
    Extension,
    Settlement,
    TaskFilter,
)
from jobpipe.storage.contract import Storage
from prove.model import Lease, Model
from prove.timely import Timely, Wish
from prove.times import Times

CAPACITY = 6
MAX_QUEUES = 3
IDS = 14
QUEUES = ("q0", "q1", "q2", "q3")
POLICY = Policy(retry=RetryPolicy(base=1.0, jitter=0.0, cap=8.0), max_lost=3)
REMEMBERED = 60
UNIQUE = (
    *(None,) * 6,
    *map(text_of, (
        Unique("k"), Unique("k", "start"), Unique("k", 2.0), Unique("k", on_conflict=OnConflict.REJECT),
        Unique("k", "start", OnConflict.REPLACE, 3.0), Unique("l", on_conflict=OnConflict.REPLACE), Unique("l", 5.0),
    )),
)  # fmt: skip
"""Unique keys with their rules, and as often none."""
ALIVE_S = 15.0
"""So long after a server's last sign the leases of its own workers end, where others go on."""
TOLERANCE_S = 0.002
EVERYTHING = TaskFilter()

Reopen = Callable[[Storage], Awaitable[tuple[Storage, int | None]]]
"""Let the server die and open its store again. Where other servers may have it too, leases go on, and it tells when
those of the dead server's own workers end (milliseconds on the store's clock), else None."""
Cut = Callable[[Storage], Awaitable[None]]
"""Take the store's connections away; the server lives."""


class Difference(AssertionError):
    """The store and the model disagree."""


class Held(Struct, frozen=True):
    """A claim as its holder knows it: the task as it was claimed."""

    task: Task
    lease_id: str


class World:
    """One store under one clock. Every method is one step."""

    def __init__(
        self, store: Storage, clock: ManualClock, reopen: Reopen | None = None, cut: Cut | None = None
    ) -> None:
        self.store, self.clock = store, clock
        self._times = Times(clock)
        self.model = Model(CAPACITY, MAX_QUEUES)
        self.schedules = Timely(self.model, self._check, self._same)
        self.claims: list[Held] = []
        self.can_restart, self.can_be_cut = reopen is not None, cut is not None
        self._reopen, self._cut = reopen, cut
        self._opened_at = self.stored_now
        self.steps = self.restarts = self.cuts = 0

    # --- the verbs ---

    async def insert(self, tasks: Sequence[NewTask]) -> None:
        """Accept a batch."""
        expected = [self.model.insert(self._due_there(task), self.stored_now) for task in tasks]
        self._same("insert", await self.store.insert(tasks, self._now), expected)

    def _due_there(self, task: NewTask) -> NewTask:
        times = {"run_at": task.run_at, "expires_at": task.expires_at}
        return replace(task, **{name: self._times.there(at) for name, at in times.items() if at is not None})

    async def claim(
        self, limit: int, queues: frozenset[str] | None, lease_s: float | None, local: bool
    ) -> None:
        """Claim; the order is the model's, the lease ids are the store's."""
        due = self.model.due(queues, self.stored_now)[:limit]
        answer = await self.store.claim(ClaimRequest(limit, "w", queues, lease_s, local), self._now)
        self._check(
            [claim.task.id for claim in answer.claims] == [task.id for task in due], "claim", answer, due
        )
        for claim in answer.claims:
            self._claimed(claim, lease_s, local)
        if len(answer.claims) < limit:
            self._check_next_due(answer.next_due, queues)

    def _claimed(self, claim: Claim, lease_s: float | None, local: bool) -> None:
        ends = None if lease_s is None else self._times.after(lease_s)
        lease = Lease(claim.lease_id, lease_s, local, ends)
        task = self.model.claim(claim.task.id, "w", lease, self.stored_now)
        self._same("claimed task", [claim.task], [task])
        until = None if lease_s is None else self._now + round(lease_s * 1000)
        self._check(claim.lease_until == until, "lease_until", claim.lease_until, until)
        fresh = all(claim.lease_id != held.lease_id for held in self.claims)
        self._check(fresh, "a lease id is new", claim.lease_id, None)
        self.claims = [*self.claims[-REMEMBERED:], Held(task, claim.lease_id)]

    def _check_next_due(self, next_due: int | None, queues: frozenset[str] | None) -> None:
        """The store may look too early (a cancelled task was the next), never too late, and never at once again."""
        late = self.model.late(self.stored_now)
        left = [task for task in self.model.waiting(queues) if task.id not in late]
        waiting = [self._times.here(task.run_at) or 0 for task in left]
        in_time = next_due is not None and next_due <= min(waiting, default=next_due)
        self._check(in_time or not waiting, "next_due is not late", next_due, waiting)
        self._check(next_due is None or next_due > self._now, "next_due is not now", next_due, self._now)

    async def settle(self, outcomes: Sequence[tuple[Held, Kind, bool]], *, rescue: bool = False) -> None:
        """Settle claims, as the task is now or (True) as the holder remembers it."""
        asked = [
            settlement for settlement in (self._settlement(*item, rescue) for item in outcomes) if settlement
        ]
        expected = [self.model.settle(self._written_there(it), self.stored_now) for it in asked]
        self._same("settle", await self.store.settle(asked, self._now), expected)

    def _settlement(self, held: Held, kind: Kind, remembered: bool, rescue: bool) -> Settlement | None:
        row = self.model.rows.get(held.task.id)
        task = held.task if remembered or row is None else row.task
        if task.status is not Status.RUNNING:
            return Settlement(held.task.id, held.lease_id, None)
        if kind is Kind.CANCELLED and not task.cancel_requested:
            return None
        outcome = Outcome(
            kind, result=b"1.10" if kind is Kind.DONE else None, error_type=f"E{task.attempts % 2}"
        )
        to = decide(task, outcome, self._now, POLICY, random.random)
        return Settlement(held.task.id, held.lease_id, to, task.cancel_requested, rescue)

    def _written_there(self, settlement: Settlement) -> Settlement:
        """What the store must write: moments that were decided on, told in its own time."""
        to = settlement.transition
        if to is None:
            return settlement
        if to.finished_at is None:
            if to.kind is not Kind.RELEASED:  # a place that is kept is the store's own time
                to = replace(to, run_at=self._times.there(to.run_at))
        else:
            to = replace(to, finished_at=self._times.there(to.finished_at))
        return replace(settlement, transition=to)

    async def extend(self, beats: Sequence[tuple[Held, float]]) -> None:
        """Prolong claims."""
        expected = [self._extended(held, lease_s) for held, lease_s in beats]
        asked = [Extension(held.task.id, held.lease_id, lease_s) for held, lease_s in beats]
        self._same("extend", await self.store.extend(asked), expected)

    def _extended(self, held: Held, lease_s: float) -> Extended | type[JobpipeError]:
        row = self.model.held(held.task.id, held.lease_id)
        if row is None or row.lease is None:
            return LeaseLost
        if row.lease.lease_s is None:
            return Extended(None, row.task.cancel_requested)
        row.lease.ends = self._times.after(lease_s)
        return Extended(self._now + round(lease_s * 1000), row.task.cancel_requested)

    async def rescue(self, limit: int) -> None:
        """Find what is lost, and settle it as the rescuer does."""
        lost = await self.store.lost(limit)
        expected = self.model.lost(self._times.seconds())
        found = [claim.task.id for claim in lost]
        self._check(
            len(found) == min(limit, len(expected)) and set(found) <= set(expected), "lost", found, expected
        )
        for claim in lost:
            row = self.model.held(claim.task.id, claim.lease_id)
            self._check(row is not None and row.lease is not None, "a lost claim holds", claim, row)
            self._same("lost task", [claim.task], [self.model.rows[claim.task.id].task])
        await self.settle(
            [(Held(claim.task, claim.lease_id), Kind.LOST, False) for claim in lost], rescue=True
        )

    async def cancel(self, ids: Sequence[str]) -> None:
        """Cancel."""
        expected = [self.model.cancel(id_, self.stored_now) for id_ in ids]
        self._same("cancel", await self.store.cancel(ids, self._now), expected)

    async def retry(self, ids: Sequence[str]) -> None:
        """Queue again by hand."""
        expected = [self.model.retry(id_, self.stored_now) for id_ in ids]
        self._same("retry", await self.store.retry(ids, self._now), expected)

    async def revise(self, id: str, revision: Revision) -> None:
        """Change what waits."""
        there = moved_by(revision, self.stored_now - self._now)
        expected = self.model.revise(id, there, self.stored_now)
        self._same("revise", [await self.store.revise(id, revision, self._now)], [expected])

    async def expire(self, limit: int) -> None:
        """End what nobody took in time; which of it goes first is the store's to say."""
        late = self.model.late(self.stored_now)
        ended = await self.store.expire(self._now, limit)
        ids = [task.id for task in ended]
        self._check(len(ids) == min(limit, len(late)) and set(ids) <= set(late), "expired", ids, late)
        self._same("expired", ended, [self.model.expire(id_, self.stored_now) for id_ in ids])

    async def delete(self, ids: Sequence[str]) -> None:
        """Forget."""
        expected = [self.model.delete(id_) for id_ in ids]
        self._same("delete", await self.store.delete(ids), expected)

    async def prune(self, done_s: float | None, failed_s: float | None, limit: int) -> None:
        """Prune what finished so many seconds ago; which of them goes first is the store's to say."""
        done, failed = (None if age is None else self._now - round(age * 1000) for age in (done_s, failed_s))
        there = [None if at is None else self._times.there(at) for at in (done, failed)]
        may_go = self.model.prunable(*there)
        pruned = await self.store.prune(done, failed, limit)
        self._check(pruned == min(limit, len(may_go)), "pruned", pruned, may_go)
        left = {
            task.id
            for task, id_ in zip(await self.store.get(may_go), may_go, strict=True)
            if task is not None
        }
        self._check(len(left) == len(may_go) - pruned, "left after pruning", left, may_go)
        for id_ in set(may_go) - left:
            del self.model.rows[id_]

    async def schedule(self, wish: Wish) -> None:
        """Make a schedule, or change it."""
        await self.schedules.put(self.store, wish, self.stored_now, self._now)

    async def pause_schedule(self, name: str, *, paused: bool) -> None:
        """Pause a schedule, or let it go on."""
        await self.schedules.pause(self.store, name, paused, self.stored_now, self._now)

    async def delete_schedule(self, name: str) -> None:
        """Forget a schedule."""
        await self.schedules.delete(self.store, name, self._now)

    async def fire(self, limit: int) -> None:
        """Make the tasks of schedules that are due."""
        await self.schedules.fire(self.store, limit, self.stored_now, self._now)

    async def advance(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    async def jump(self, seconds: float) -> None:
        """The wall clock is set, and no lease may care."""
        self.clock.jump(seconds)

    async def restart(self) -> None:
        """The server dies without a goodbye, and comes again."""
        if self._reopen is None:
            return
        self.store, ends = await self._reopen(self.store)
        self.restarts += 1
        if ends is None:
            self.model.restart(self._times.seconds())
        else:
            earliest, latest = (at + round(ALIVE_S * 1000) for at in (self._opened_at, self.stored_now))
            self._check(earliest <= ends <= latest, "a dead server's leases", ends, (earliest, latest))
            self.model.outlive(ends / 1000)
        self._opened_at = self.stored_now
        await self.look()

    async def cut(self) -> None:
        """The server loses its connections, and nothing else changes."""
        if self._cut is not None:
            await self._cut(self.store)
            self.cuts += 1
            await self.look()

    async def look(self) -> None:
        """Compare everything that can be seen."""
        store, model = self.store, self.model
        ids = sorted({*(f"t{n}" for n in range(IDS)), *model.rows})
        rows = [model.rows.get(id_) for id_ in ids]
        self._same("get", await store.get(ids), [row and row.task for row in rows])
        histories = await asyncio.gather(*(store.attempts(id_) for id_ in ids))
        self._check(histories == [row and row.attempts for row in rows], "attempts", histories, rows)
        kept, by_queue = await asyncio.gather(store.counts(), store.queues(self._now))
        self._check(kept == model.counts(), "counts", kept, model.counts())
        queues = {counts.queue: counts.by_status for counts in by_queue}
        self._check(queues == model.queues(), "queues", queues, model.queues())
        for counts in by_queue:
            oldest = self._times.here(model.oldest_ready(counts.queue, self.stored_now))
            self._check(counts.oldest_ready == oldest, "oldest_ready", counts, oldest)
        prunable = tuple(self._times.here(at) for at in model.next_prunable())
        self._check(await store.next_prunable() == prunable, "next_prunable", None, prunable)
        expiring = self._times.here(model.next_expiring())
        self._check(await store.next_expiring() == expiring, "next_expiring", None, expiring)
        expiry, expected = await store.next_expiry(), model.next_expiry(self._times.seconds())
        await self.schedules.look(store)
        await self.schedules.look_ahead(store, self.stored_now, self._now)
        near = expiry is not None and expected is not None and abs(expiry - expected) <= TOLERANCE_S
        self._check(near or expiry == expected, "next_expiry", expiry, expected)

    async def list(self, where: TaskFilter, limit: int) -> None:
        """Compare a listing, page by page."""
        tasks: list[Task] = []
        ids: list[str] = []
        before: int | None = None
        while True:
            page = await self.store.page(where, limit, before, 1 << 30)
            matches = await self.store.match(where, limit, before)
            tasks, ids = tasks + page.tasks, ids + matches.ids
            self._check(page.next_seq == matches.next_seq, "next_seq", page.next_seq, matches.next_seq)
            before = page.next_seq
            if before is None:
                break
        expected = self.model.matching(where)
        self._same("page", tasks, expected)
        self._check(ids == [task.id for task in expected], "match", ids, expected)

    # --- comparing ---

    @property
    def stored_now(self) -> int:
        """This moment as the store writes it."""
        return self._times.now()

    @property
    def _now(self) -> int:
        """This moment as the caller says it."""
        return self.clock.now()

    def _same(self, what: str, answers: Sequence[Any], expected: Sequence[Any]) -> None:
        found = [_plain(answer) for answer in answers]
        wanted = [_plain(answer) for answer in expected]
        self._check(found == wanted, what, found, wanted)

    def _check(self, is_so: bool, what: str, found: object, expected: object) -> None:
        if not is_so:
            raise Difference(f"step {self.steps}: {what}:\n  store: {found}\n  model: {expected}")


def _plain(answer: Any) -> Any:
    """An answer without what engines may choose: the numbers of their order, and the words of errors."""
    if isinstance(answer, JobpipeError):
        return type(answer)
    if isinstance(answer, Task):
        return replace(answer, seq=0)
    if isinstance(answer, Cancelled | Known):
        return replace(answer, task=_plain(answer.task))
    return answer
