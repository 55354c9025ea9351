"""TaskQueue: the one door to the queue, for the HTTP edge, for pools and for people who embed Jobpipe.

It accepts, hands out, settles and steers tasks. Rules come from `core.lifecycle`, the writing from a Storage; this file
adds what stands between them: draining, waking those who wait, and telling of what happened. All methods belong to the
event loop that called `open`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

from jobpipe.core.errors import Degraded, Draining, JobpipeError, LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome, Policy
from jobpipe.core.revision import Revision
from jobpipe.core.task import Attempt, Claim, NewTask, Status, Task
from jobpipe.core.unique import Known
from jobpipe.engine.arrivals import Arrivals
from jobpipe.engine.carrying import carried_out
from jobpipe.engine.claiming import Claiming
from jobpipe.engine.ends import Ends
from jobpipe.engine.flow import Flow
from jobpipe.engine.handlers import Handlers
from jobpipe.engine.heartbeats import Heartbeats
from jobpipe.engine.history import History
from jobpipe.engine.missing import MissingHandlers
from jobpipe.engine.news import News
from jobpipe.engine.observing import Observer
from jobpipe.engine.rates import Rate
from jobpipe.engine.refusals import Refusals
from jobpipe.engine.running import Running
from jobpipe.engine.schedules import Schedules
from jobpipe.engine.settling import Settling
from jobpipe.engine.tally import Tally
from jobpipe.engine.values import Heartbeat, Rates, Report
from jobpipe.engine.waiters import ClaimWaiters
from jobpipe.engine.waiting import WaitCounts
from jobpipe.engine.workers import Workers
from jobpipe.runtime import randomness
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    Cancelled,
    ClaimRequest,
    CommitStats,
    Extended,
    LostClaim,
    Matches,
    Page,
    QueueCounts,
    Settled,
    TaskFilter,
)
from jobpipe.storage.contract import Storage

log = logging.getLogger("jobpipe.queue")

LIST_BYTES = MAX_CLAIM_BYTES


class TaskQueue:
    """A bounded, durable queue over a Storage.

    `policy` decides retries; `default_timeout` (seconds, inf for none) bounds runs of tasks without their own.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        policy: Policy | None = None,
        default_timeout: float = 3600.0,
        clock: Clock | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._storage = storage
        self._policy = policy or Policy()
        self._clock = clock or SystemClock()
        self._waiters = ClaimWaiters(self._clock.now)
        self._running = Running(self._clock.monotonic, default_timeout)
        self.default_timeout = default_timeout
        self.waiting = WaitCounts(storage, self._clock)
        self._ends = Ends(self._clock.monotonic)
        self._cancel_listeners: list[Callable[[str, str], None]] = [self._wake_cancel_waits]
        self._cancel_waits: dict[str, set[asyncio.Future[None]]] = {}
        self._observers: list[Observer] = []
        self._draining = False
        self._enqueued = Rate(self._clock.monotonic)
        self.refusals = Refusals(self._clock.monotonic)
        self.on_refusal: Callable[[], object] = _nothing
        """Called when a task was not accepted: perhaps for the sake of counts that cannot be."""
        self.on_lease: Callable[[float], object] = _nothing
        """Called with the seconds of a lease that was given: the rescuer's alarm may have to ring earlier."""
        self.on_expiring: Callable[[Sequence[Task], int], object] = _nothing
        """Called with tasks that were accepted or changed, and the time: some of them may expire."""
        self.on_news: Callable[[], object] = _nothing
        """Called when other servers did something."""
        self.tally = Tally(self._clock)
        """What this server did since its start."""
        self._make_parts(random)
        self._arrivals = Arrivals(self._insert)
        self._make_views()

    def _make_views(self) -> None:
        """What operators see and rule: who works, the past, schedules and handlers."""
        self.workers = Workers(self._storage, self._running, self._clock)
        """Who works, for operators."""
        self.history = History(self._storage, self._clock)
        """What happened, minute by minute, for the charts."""
        self.schedules = Schedules(self._storage, self._clock, enqueue=self.enqueue, accepted=self.accepted)
        """Stored rules that make tasks at times."""
        self.observe(self.history)
        self.observe(self.tally)
        self.handlers = Handlers(self._clock, self.workers.release_of)
        self.observe(self.handlers)
        self.observe(MissingHandlers(self._clock, self._policy.handler_wait))

    def _make_parts(self, random: Callable[[], float]) -> None:
        """What begins runs, what ends them, what prolongs them, and what hears of other servers."""
        self.flow = Flow(self._storage, self._waiters, self._clock)
        """What people and apps say of queues and keys."""
        self._claiming = Claiming(
            self._storage, self._running, self._waiters, policy=self._policy, clock=self._clock,
            release=self.release, on_lease=self._rescue_within, observers=self._observers,
        )  # fmt: skip
        self._settling = Settling(
            self._storage, self._running, self._waiters, self._ends,
            policy=self._policy, clock=self._clock, random=random, forget=self._claiming.forget,
            freed=self.flow.ended,
            observers=self._observers, tally=self.tally,
        )  # fmt: skip
        self._heartbeats = Heartbeats(self._storage, self._running)
        self._news = News(
            self._storage, self._waiters, self._ends.waiters,
            cancelled=self._cancelled_elsewhere, ring=self._ring,
        )  # fmt: skip

    @property
    def draining(self) -> bool:
        """Whether new tasks are refused."""
        return self._draining

    @property
    def writes_local_claims_late(self) -> bool:
        """Whether claims of this server's own workers are stored a moment after they are answered.

        Then these workers may claim ahead: what they give back at once was never claimed, and keeps its place.
        """
        return self._storage.writes_local_claims_late

    def drain(self) -> None:
        """Refuse new tasks from now on, and answer all who wait: claims with nothing, `wait_finished` with what is."""
        self._draining = True
        for waits in self._cancel_waits.values():
            for waiting in waits:
                if not waiting.done():
                    waiting.set_result(None)
        self._claiming.drain()
        self._ends.waiters.give_up()

    async def open(self) -> None:
        """Open the storage. Raises StorageRefused when it cannot be served."""
        self._storage.listen(self._news.tell)
        await self._storage.open()

    async def close(self) -> None:
        """Drain, and close the storage; safe when called twice or never opened."""
        self.drain()
        self._waiters.close()
        await self._news.close()
        await self._claiming.settled()
        await self.history.close()
        await self._storage.close()

    def listen_to_ends(self, tell: Callable[[], object]) -> None:
        """Have `tell` called whenever tasks finished, once a batch: the pruner may have work."""
        self._ends.on_finish = tell

    async def wait_cancel(self, worker: str, seconds: float) -> None:
        """Return when cancelling a task that `worker` runs is requested, or the queue drains; at the latest then."""
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._cancel_waits.setdefault(worker, set()).add(waiting)
        try:
            if not self._draining:
                await asyncio.wait((waiting,), timeout=seconds)
        finally:
            waits = self._cancel_waits.get(worker, set())
            waits.discard(waiting)
            if not waits:
                self._cancel_waits.pop(worker, None)

    def _wake_cancel_waits(self, task_id: str, lease_id: str) -> None:
        task = self._running.task(task_id, lease_id)
        worker = "" if task is None or task.worker is None else task.worker
        for waiting in self._cancel_waits.get(worker, ()):
            if not waiting.done():
                waiting.set_result(None)

    def listen_to_cancels(self, tell: Callable[[str, str], None]) -> None:
        """Have `tell(task_id, lease_id)` called when cancelling a running task is requested."""
        self._cancel_listeners.append(tell)

    def observe(self, observer: Observer) -> None:
        """Have `observer` told of all that happens from now on."""
        self._observers.append(observer)

    def unobserve(self, observer: Observer) -> None:
        """Have `observer` told of nothing any more."""
        self._observers.remove(observer)

    # --- entering -----------------------------------------------------------------------------------------------

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Task | Known | JobpipeError]:
        """Accept tasks; those in the answer are committed. A Known one stands for what was not accepted anew. Refused
        items are TaskExists, IdempotencyMismatch, NotUnique, QueueFull, TooManyQueues.

        Raises Draining, and StorageError when nothing could be stored.
        """
        return await self._insert(tasks)

    def enqueue_soon(self, task: NewTask, tell: Callable[[Task | Known | Exception], None]) -> None:
        """As `enqueue` for one task, together with the others of this turn of the event loop.

        `tell` hears in a later turn what became of it: what `enqueue` raises, too.
        """
        self._arrivals.add(task, tell)

    def _insert(self, tasks: Sequence[NewTask]) -> asyncio.Future[list[Task | Known | JobpipeError]]:
        if self._draining:
            self.refusals.note(tasks, [Draining()] * len(tasks))
            raise Draining()
        now = self._clock.now()
        return carried_out(self._storage.insert(tasks, now), partial(self.accepted, now, tasks))

    def accepted(
        self, now: int, tasks: Sequence[NewTask], answers: Sequence[Task | Known | JobpipeError]
    ) -> None:
        """Tell of what the store said to tasks that came at `now`."""
        ready: dict[str, int] = {}
        accepted = [answer for answer in answers if isinstance(answer, Task)]
        for answer in accepted:
            # What the task was told to wait: a store may go by a clock of its own.
            delay = answer.run_at - answer.created_at
            if delay <= 0:
                ready[answer.queue] = ready.get(answer.queue, 0) + 1
            else:
                self._waiters.later(answer.queue, now + delay)
        for queue, n in ready.items():
            self._waiters.ready(queue, n)
        if len(accepted) < len(answers):
            self.refusals.note(tasks, answers)
            self.on_refusal()
            self._changed([known.task for known in answers if isinstance(known, Known) and known.replaced])
        if accepted:
            self.on_expiring(accepted, now)
            self._enqueued.add(len(accepted))
            for observer in self._observers:
                observer.accepted(accepted)

    # --- working ------------------------------------------------------------------------------------------------

    async def claim(
        self,
        worker: str,
        limit: int,
        *,
        queues: frozenset[str] | None = None,
        lease_s: float | None = None,
        local: bool = True,
        wait: float | None = 0.0,
        total: int | None = None,
        free: int | None = None,
    ) -> list[Claim]:
        """Claim up to `limit` due tasks, waiting up to `wait` seconds (None: for ever) for the first.

        Of a queue with limits come only tasks that can begin at once: as many as `free`, or as the worker's `total`
        leaves beside what it runs; without either, all. None are given once the queue drains. `lease_s` None makes a
        claim without end, `local` is as in ClaimRequest. When this call is cancelled, what was claimed for it is
        released. Raises StorageError.
        """
        request = ClaimRequest(
            limit=limit, worker=worker, queues=queues, lease_s=lease_s, local=local, free=free
        )
        return await self._claiming.claim(request, wait, total)

    async def settle(self, reports: Sequence[Report]) -> list[Settled | JobpipeError]:
        """Write what became of runs; a report whose claim no longer holds changes nothing and is LeaseLost.

        The same report sent again gets the same answer until the task is claimed again. A cancelled run that nobody
        asked to cancel is Invalid. Raises StorageError.
        """
        return await self._settling.settle(reports, rescue=False)

    def dismiss(self, worker: str) -> None:
        """Answer the waiting claims of a worker with nothing: its lease ran out, and it may be gone or stopped."""
        self._waiters.dismiss(worker)

    async def rescue(self, reports: Sequence[Report]) -> list[Settled | JobpipeError]:
        """Settle claims whose holder is gone; that holder's own settle is LeaseLost from then on."""
        return await self._settling.settle(reports, rescue=True)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back that nobody could take; their attempts are taken back."""
        released = Outcome(Kind.RELEASED)
        await self.settle([Report(claim.task.id, claim.lease_id, released) for claim in claims])

    async def extend(self, beats: Sequence[Heartbeat]) -> list[Extended | LeaseLost]:
        """Prolong leases; the answer says whether cancelling was requested meanwhile.

        No lease is prolonged past the run's timeout plus one lease: a run that has used that up is LeaseLost.
        """
        return await self._heartbeats.extend(beats)

    def claims_of(self, worker: str) -> list[tuple[str, str]]:
        """Id and lease id of all tasks that this server's own `worker` claimed and did not settle."""
        return list(self._running.of_worker(worker))

    def is_local(self, lease_id: str) -> bool:
        """Whether a worker of this server holds the claim: whoever gives its id to others does not."""
        return self._running.is_local(lease_id)

    def overran(self, id: str, lease_id: str) -> bool:
        """Whether a run that this server handed out has used up its time."""
        return self._running.overran(id, lease_id)

    def outlasted(self, claim: LostClaim) -> bool:
        """Whether a lost run had used up its time by the store's clock, whichever server handed it out."""
        return claim.ran_s is not None and self._running.outlasted(claim.task, claim.lease_id, claim.ran_s)

    # --- reading and steering -----------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Each task as it is now, None for an id that is not known."""
        return await self._storage.get(ids)

    async def attempts(self, task_id: str) -> list[Attempt] | None:
        """The unsuccessful attempts of a task, oldest first; None for an id that is not known."""
        return await self._storage.attempts(task_id)

    async def wait_finished(self, task_id: str, timeout: float) -> Task | None:
        """The task when it is finished, or after `timeout` seconds (or at a drain) what it is then; None if unknown."""
        future = self._ends.waiters.join(
            task_id
        )  # before the first look, so that an end in between is not missed
        try:
            (task,) = await self._storage.get([task_id])
            if task is None or task.finished or timeout <= 0 or self._draining:
                return task
            try:
                final = await asyncio.wait_for(future, timeout)
            except TimeoutError:
                final = None
        finally:
            self._ends.waiters.leave(task_id, future)
        return final or (await self._storage.get([task_id]))[0]

    async def page(
        self, where: TaskFilter, limit: int, before_seq: int | None = None, *, slim: bool = False
    ) -> Page:
        """Matching tasks, newest first, a page at a time; slim ones without payload and result."""
        return await self._storage.page(where, limit, before_seq, None if slim else LIST_BYTES)

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None = None) -> Matches:
        """The ids of matching tasks, newest first, a slice at a time."""
        return await self._storage.match(where, limit, before_seq)

    async def cancel(self, ids: Sequence[str]) -> list[Cancelled | JobpipeError]:
        """Cancel queued tasks at once; tell the workers of running ones. Else AlreadyFinished or NotFound."""
        return await carried_out(self._storage.cancel(ids, self._clock.now()), self._cancelled)

    def _cancelled(self, answers: Sequence[Cancelled | JobpipeError]) -> None:
        cancelled = [answer for answer in answers if isinstance(answer, Cancelled)]
        for answer in cancelled:
            if answer.lease_id is not None:
                self._claiming.cancelled(answer.lease_id, answer.task)
                for tell in self._cancel_listeners:
                    tell(answer.task.id, answer.lease_id)
        self._ends.tell([(answer.task, None) for answer in cancelled if answer.lease_id is None])
        self._tell_steered([answer.task for answer in cancelled])

    def _rescue_within(self, seconds: float) -> None:
        self.on_lease(seconds)  # as it is by then: it is set after the queue was made

    def _ring(self, seconds: float) -> None:
        self._rescue_within(seconds)
        self.on_news()

    def _cancelled_elsewhere(self, requests: Sequence[Cancelled]) -> None:
        """Another server was asked to cancel runs of this one: tell those workers that do not know yet."""
        for asked in requests:
            known = None if asked.lease_id is None else self._running.task(asked.task.id, asked.lease_id)
            if asked.lease_id is None or known is None or known.cancel_requested:
                continue
            self._running.update(asked.lease_id, asked.task)
            for tell in self._cancel_listeners:
                tell(asked.task.id, asked.lease_id)

    async def retry(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Queue failed or cancelled tasks again, with their accounting cleared; never refused for fullness."""
        return await carried_out(self._storage.retry(ids, self._clock.now()), self._queued_again)

    def _queued_again(self, answers: Sequence[Task | JobpipeError]) -> None:
        for answer in answers:
            if isinstance(answer, Task):
                self._waiters.ready(answer.queue, 1)
        self._tell_steered([answer for answer in answers if isinstance(answer, Task)])

    def _tell_steered(self, tasks: Sequence[Task]) -> None:
        for observer in self._observers if tasks else ():
            observer.steered(tasks)

    async def revise(self, task_id: str, revision: Revision) -> Task | JobpipeError:
        """Change a task that is queued; else NotWaiting, AlreadyFinished, NotFound, or Invalid."""
        return await carried_out(self._storage.revise(task_id, revision, self._clock.now()), self._revised)

    def _revised(self, answer: Task | JobpipeError) -> None:
        self._changed([answer] if isinstance(answer, Task) else [])

    def _changed(self, tasks: Sequence[Task]) -> None:
        """These may be due earlier than they were, or expire."""
        for task in tasks:
            self._waiters.ready(task.queue, 1)
        self.on_expiring(tasks, self._clock.now())
        self._tell_steered(tasks)

    async def expire(self, limit: int) -> int:
        """End waiting tasks whose time to be claimed is over; answers how many did."""
        ended = await carried_out(self._storage.expire(self._clock.now(), limit), self._expired)
        return len(ended)

    def _expired(self, tasks: list[Task]) -> None:
        self._ends.tell([(task, None) for task in tasks])
        self._tell_steered(tasks)

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Forget finished tasks. Else NotFinished or NotFound."""
        answers = await self._storage.delete(ids)
        deleted = [answer for answer in answers if isinstance(answer, Task)]
        for observer in self._observers if deleted else ():
            observer.deleted(deleted)
        return answers

    async def counts(self) -> dict[Status, int]:
        """How many tasks have each status."""
        return await self._storage.counts()

    def clock_step(self) -> float:
        """The latest step of the database's clock, in seconds; 0 without one."""
        return self._storage.clock_step()

    def commits(self) -> CommitStats:
        """What the commits of this server took, and held, since its start."""
        return self._storage.commits()

    async def queues(self) -> Sequence[QueueCounts]:
        """The counts of each queue that holds tasks."""
        return await self._storage.queues(self._clock.now())

    async def check(self) -> None:
        """Raise Draining or StorageError when no task could be accepted now, and Degraded when none would be run."""
        if self._draining:
            raise Draining()
        await self._storage.check()
        if (trouble := self.workers.trouble()) is not None:
            raise Degraded(trouble)

    def rates(self) -> Rates:
        """What this server did in the last minute."""
        return Rates(
            self._enqueued.per_second(),
            self._ends.finished.per_second(),
            self._ends.failed.per_second(),
            self.refusals.per_second(),
        )


def _nothing(*_: object) -> None:
    """The alarm that nobody set."""
