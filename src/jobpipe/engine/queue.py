"""TaskQueue: the one door to the queue, for the HTTP edge, for pools and for people who embed Jobpipe.

It accepts, hands out, settles and steers tasks. Rules come from `core.lifecycle`, the writing from a Storage; this file
adds what stands between them: draining, waking those who wait, and telling of what happened. All methods belong to the
event loop that called `open`.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.clock import Clock, SystemClock
from jobpipe.core.errors import Draining, Invalid, JobpipeError, LeaseLost, NotFound
from jobpipe.core.lifecycle import Kind, Outcome, Policy, Transition, decide
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.rates import Rate
from jobpipe.engine.running import Running
from jobpipe.engine.waiters import ClaimWaiters, FinishWaiters
from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    CancelChanged,
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    Extended,
    Extension,
    Matches,
    Page,
    QueueCounts,
    Settled,
    Settlement,
    Storage,
    TaskFilter,
)

log = logging.getLogger("jobpipe.tasks")

T = TypeVar("T")

LIST_BYTES = MAX_CLAIM_BYTES


class Report(Struct, frozen=True):
    """The outcome of a claim, as its holder tells it."""

    id: str
    lease_id: str
    outcome: Outcome


class Heartbeat(Struct, frozen=True):
    """A claim's holder lives: prolong its lease to `lease_s` seconds. `timeout` is the handler's own, in seconds."""

    id: str
    lease_id: str
    lease_s: float
    timeout: float | None = None


class Rates(Struct, frozen=True):
    """What this server did in the last minute, per second."""

    enqueued: float
    finished: float
    failed: float


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
        random: Callable[[], float] = random.random,
    ) -> None:
        self._storage = storage
        self._policy = policy or Policy()
        self._clock = clock or SystemClock()
        self._random = random
        self._waiters = ClaimWaiters(self._clock.now)
        self._finish = FinishWaiters()
        self._running = Running(self._clock.monotonic, default_timeout)
        self._cancelled_early: dict[str, Task] = {}
        """Running tasks that were cancelled before their claim was answered, by lease id."""
        self._pending: set[asyncio.Future[Any]] = set()
        """What must come to its end before the storage closes, although nobody waits for it any more."""
        self._cancel_listeners: list[Callable[[str, str], None]] = []
        self._draining = False
        self._enqueued = Rate(self._clock.monotonic)
        self._finished = Rate(self._clock.monotonic)
        self._failed = Rate(self._clock.monotonic)
        self.on_lease: Callable[[float], object] = _nothing
        """Called with the seconds of a lease that was given: the rescuer's alarm may have to ring earlier."""
        self.on_finish: Callable[[], object] = _nothing
        """Called when a task finished: the pruner may have work."""

    @property
    def draining(self) -> bool:
        """Whether new tasks are refused."""
        return self._draining

    def drain(self) -> None:
        """Refuse new tasks from now on, and answer all who wait: claims with nothing, `wait_finished` with what is."""
        self._draining = True
        self._waiters.wake_all()
        self._finish.give_up()

    async def open(self) -> None:
        """Open the storage. Raises StorageRefused when it cannot be served."""
        await self._storage.open()

    async def close(self) -> None:
        """Drain, and close the storage; safe when called twice or never opened."""
        self.drain()
        self._waiters.close()
        while self._pending:
            await asyncio.wait(self._pending)
        await self._storage.close()

    def listen_to_cancels(self, tell: Callable[[str, str], None]) -> None:
        """Have `tell(task_id, lease_id)` called when cancelling a running task is requested."""
        self._cancel_listeners.append(tell)

    # --- entering -----------------------------------------------------------------------------------------------

    async def enqueue(self, tasks: Sequence[NewTask]) -> list[Task | JobpipeError]:
        """Accept tasks; those in the answer are committed. Refused items are TaskExists, QueueFull, TooManyQueues.

        Raises Draining, and StorageError when nothing could be stored.
        """
        if self._draining:
            raise Draining()
        now = self._clock.now()
        return await _carried_out(self._storage.insert(tasks, now), partial(self._accepted, now))

    def _accepted(self, now: int, answers: Sequence[Task | JobpipeError]) -> None:
        ready: dict[str, int] = {}
        accepted = 0
        for answer in answers:
            if isinstance(answer, Task):
                accepted += 1
                if answer.run_at <= now:
                    ready[answer.queue] = ready.get(answer.queue, 0) + 1
                else:
                    self._waiters.later(answer.queue, answer.run_at)
        for queue, n in ready.items():
            self._waiters.ready(queue, n)
        if accepted:
            self._enqueued.add(accepted)

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
    ) -> list[Claim]:
        """Claim up to `limit` due tasks, waiting up to `wait` seconds (None: for ever) for the first.

        None are given once the queue drains. `lease_s` None makes a claim without end, `local` is as in ClaimRequest.
        When this call is cancelled, what was claimed for it is released. Raises StorageError.
        """
        request = ClaimRequest(limit=limit, worker=worker, queues=queues, lease_s=lease_s, local=local)
        end = None if wait is None else self._clock.monotonic() + wait
        waiter = self._waiters.join(worker, queues)
        try:
            while not (self._draining or waiter.dismissed):
                waiter.look()
                answer = await self._claim_now(request)
                waiter.looked()
                if answer.claims:
                    self._waiters.learn(waiter, answer.next_due)
                    return self._claimed(answer, request)
                left = None if end is None else end - self._clock.monotonic()
                if (left is not None and left <= 0) or self._draining:
                    break
                if not await self._waiters.wait(waiter, answer.next_due, left):
                    break
            return []
        finally:
            self._waiters.leave(waiter)

    async def settle(self, reports: Sequence[Report]) -> list[Settled | JobpipeError]:
        """Write what became of runs; a report whose claim no longer holds changes nothing and is LeaseLost.

        The same report sent again gets the same answer until the task is claimed again. A cancelled run that nobody
        asked to cancel is Invalid. Raises StorageError.
        """
        return await self._settle(reports, rescue=False)

    def dismiss(self, worker: str) -> None:
        """Answer the waiting claims of a worker with nothing: its lease ran out, and it may be gone or stopped."""
        self._waiters.dismiss(worker)

    async def rescue(self, reports: Sequence[Report]) -> list[Settled | JobpipeError]:
        """Settle claims whose holder is gone; that holder's own settle is LeaseLost from then on."""
        return await self._settle(reports, rescue=True)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Give claims back that nobody could take; their attempts are taken back."""
        released = Outcome(Kind.RELEASED)
        await self.settle([Report(claim.task.id, claim.lease_id, released) for claim in claims])

    async def extend(self, beats: Sequence[Heartbeat]) -> list[Extended | LeaseLost]:
        """Prolong leases; the answer says whether cancelling was requested meanwhile.

        No lease is prolonged past the run's timeout plus one lease: a run that has used that up is LeaseLost.
        """
        await self._adopt(beats)
        extensions = [self._extension(beat) for beat in beats]
        answers = iter(await self._storage.extend([asked for asked in extensions if asked is not None]))
        return [
            self._extended(beat, _overran(beat) if asked is None else next(answers))
            for beat, asked in zip(beats, extensions, strict=True)
        ]

    def claims_of(self, worker: str) -> list[tuple[str, str]]:
        """Id and lease id of all tasks that `worker` claimed through this server and did not settle."""
        return list(self._running.of_worker(worker))

    def overran(self, id: str, lease_id: str) -> bool:
        """Whether a run that this server handed out has used up its time."""
        return self._running.overran(id, lease_id)

    # --- reading and steering -----------------------------------------------------------------------------------

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Each task as it is now, None for an id that is not known."""
        return await self._storage.get(ids)

    async def wait_finished(self, task_id: str, timeout: float) -> Task | None:
        """The task when it is finished, or after `timeout` seconds (or at a drain) what it is then; None if unknown."""
        future = self._finish.join(task_id)  # before the first look, so that an end in between is not missed
        try:
            (task,) = await self._storage.get([task_id])
            if task is None or task.finished or timeout <= 0 or self._draining:
                return task
            try:
                final = await asyncio.wait_for(future, timeout)
            except TimeoutError:
                final = None
        finally:
            self._finish.leave(task_id, future)
        return final or (await self._storage.get([task_id]))[0]

    async def page(self, where: TaskFilter, limit: int, before_seq: int | None = None) -> Page:
        """Matching tasks, newest first, a page at a time."""
        return await self._storage.page(where, limit, before_seq, LIST_BYTES)

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None = None) -> Matches:
        """The ids of matching tasks, newest first, a slice at a time."""
        return await self._storage.match(where, limit, before_seq)

    async def cancel(self, ids: Sequence[str]) -> list[Cancelled | JobpipeError]:
        """Cancel queued tasks at once; tell the workers of running ones. Else AlreadyFinished or NotFound."""
        return await _carried_out(self._storage.cancel(ids, self._clock.now()), self._cancelled)

    def _cancelled(self, answers: Sequence[Cancelled | JobpipeError]) -> None:
        for answer in answers:
            if isinstance(answer, JobpipeError):
                continue
            if answer.lease_id is None:
                self._ended(answer.task, None)
                continue
            if not self._running.update(answer.lease_id, answer.task):
                self._cancelled_early[answer.lease_id] = answer.task
            for tell in self._cancel_listeners:
                tell(answer.task.id, answer.lease_id)

    async def retry(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Queue failed or cancelled tasks again, with their accounting cleared; never refused for fullness."""
        return await _carried_out(self._storage.retry(ids, self._clock.now()), self._queued_again)

    def _queued_again(self, answers: Sequence[Task | JobpipeError]) -> None:
        for answer in answers:
            if isinstance(answer, Task):
                self._waiters.ready(answer.queue, 1)

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Forget finished tasks. Else NotFinished or NotFound."""
        return await self._storage.delete(ids)

    async def counts(self) -> dict[Status, int]:
        """How many tasks have each status."""
        return await self._storage.counts()

    async def queues(self) -> Sequence[QueueCounts]:
        """The counts of each queue that holds tasks."""
        return await self._storage.queues(self._clock.now())

    async def check(self) -> None:
        """Raise Draining or StorageError when no task could be accepted now."""
        if self._draining:
            raise Draining()
        await self._storage.check()

    def rates(self) -> Rates:
        """What this server did in the last minute."""
        return Rates(self._enqueued.per_second(), self._finished.per_second(), self._failed.per_second())

    # --- claiming, inside ---------------------------------------------------------------------------------------

    async def _claim_now(self, request: ClaimRequest) -> ClaimAnswer:
        claiming = asyncio.ensure_future(self._storage.claim(request, self._clock.now()))
        try:
            return await asyncio.shield(claiming)
        except asyncio.CancelledError:
            self._pending.add(claiming)
            claiming.add_done_callback(self._give_back)
            raise

    def _give_back(self, claiming: asyncio.Future[ClaimAnswer]) -> None:
        """Nobody took what was claimed: release it."""
        self._pending.discard(claiming)
        if not claiming.cancelled() and claiming.exception() is None and claiming.result().claims:
            releasing = asyncio.ensure_future(self.release(claiming.result().claims))
            self._pending.add(releasing)
            releasing.add_done_callback(self._gave_back)

    def _gave_back(self, releasing: asyncio.Future[None]) -> None:
        self._pending.discard(releasing)
        if not releasing.cancelled() and (error := releasing.exception()) is not None:
            logging.getLogger("jobpipe.queue").warning("an unused claim could not be released: %s", error)

    def _claimed(self, answer: ClaimAnswer, request: ClaimRequest) -> list[Claim]:
        claims = [self._marked(claim) for claim in answer.claims]
        for claim in claims:
            self._running.begin(claim)
        if answer.next_due is not None and answer.next_due <= self._clock.now():
            self._waiters.pass_on(request.queues)
        if request.lease_s is not None:
            self.on_lease(request.lease_s)
        return claims

    def _marked(self, claim: Claim) -> Claim:
        """A task that may take its worker down for the last time runs alone, so that no neighbour is lost with it."""
        task = self._cancelled_early.pop(claim.lease_id, claim.task)
        alone = task.lost >= self._policy.max_lost - 1
        return replace(claim, task=task, alone=alone) if alone or task is not claim.task else claim

    # --- extending, inside --------------------------------------------------------------------------------------

    async def _adopt(self, beats: Sequence[Heartbeat]) -> None:
        """Learn of runs that were handed out before a restart, so that their timeouts hold again."""
        unknown = [beat for beat in beats if self._running.task(beat.id, beat.lease_id) is None]
        if unknown:
            tasks = await self._storage.get([beat.id for beat in unknown])
            found = zip(unknown, tasks, strict=True)
            self._running.adopt(
                {beat.lease_id: task for beat, task in found if task and task.status is Status.RUNNING}
            )

    def _extension(self, beat: Heartbeat) -> Extension | None:
        """What to ask of the storage; None when the run's time is over."""
        left = self._running.time_left(beat.id, beat.lease_id, beat.timeout)
        lease_s = beat.lease_s if left is None else min(beat.lease_s, left + beat.lease_s)
        return Extension(beat.id, beat.lease_id, lease_s) if lease_s > 0 else None

    def _extended(self, beat: Heartbeat, answer: Extended | LeaseLost) -> Extended | LeaseLost:
        if isinstance(answer, LeaseLost) and not self._running.overran(beat.id, beat.lease_id):
            self._running.end(beat.lease_id)
        return answer

    # --- settling, inside ---------------------------------------------------------------------------------------

    async def _settle(self, reports: Sequence[Report], *, rescue: bool) -> list[Settled | JobpipeError]:
        tasks = await self._tasks_of(reports)
        written = await self._write(reports, tasks, rescue)
        answers: list[Settled | JobpipeError] = []
        for report, answer in zip(reports, written, strict=True):
            if isinstance(answer, CancelChanged):
                self._running.end(report.lease_id)  # what was known is old: read it, and decide again
                answers += await self._settle([report], rescue=rescue)
            else:
                answers.append(answer)
        return answers

    async def _tasks_of(self, reports: Sequence[Report]) -> list[Task | None]:
        tasks = [self._running.task(report.id, report.lease_id) for report in reports]
        missing = [i for i, task in enumerate(tasks) if task is None]
        if missing:
            read = await self._storage.get([reports[i].id for i in missing])
            for i, task in zip(missing, read, strict=True):
                tasks[i] = task
        return tasks

    async def _write(
        self, reports: Sequence[Report], tasks: Sequence[Task | None], rescue: bool
    ) -> list[Settled | CancelChanged | JobpipeError]:
        now = self._clock.now()
        decided = [
            self._settlement(report, task, now, rescue) for report, task in zip(reports, tasks, strict=True)
        ]
        settlements = [settlement for settlement in decided if isinstance(settlement, Settlement)]
        known = [task for task, item in zip(tasks, decided, strict=True) if isinstance(item, Settlement)]
        written = iter(
            await _carried_out(
                self._storage.settle(settlements, now), partial(self._settled_all, known, settlements)
            )
            if settlements
            else []
        )
        return [next(written) if isinstance(item, Settlement) else item for item in decided]

    def _settled_all(
        self,
        tasks: Sequence[Task | None],
        settlements: Sequence[Settlement],
        answers: Sequence[Settled | CancelChanged | JobpipeError],
    ) -> None:
        for task, settlement, answer in zip(tasks, settlements, answers, strict=True):
            self._settled(task, settlement, answer)

    def _settlement(
        self, report: Report, task: Task | None, now: int, rescue: bool
    ) -> Settlement | JobpipeError:
        if task is None:
            return NotFound(f"no task has the id '{report.id}'")
        if task.status is not Status.RUNNING:
            return Settlement(report.id, report.lease_id, None)
        if report.outcome.kind is Kind.CANCELLED and not task.cancel_requested:
            return Invalid(f"nobody asked to cancel task '{task.id}'", field="outcome")
        transition = decide(task, report.outcome, now, self._policy, self._random)
        return Settlement(report.id, report.lease_id, transition, task.cancel_requested, rescue)

    def _settled(
        self, task: Task | None, settlement: Settlement, answer: Settled | CancelChanged | JobpipeError
    ) -> None:
        if isinstance(answer, CancelChanged):
            return
        self._running.end(settlement.lease_id)
        self._cancelled_early.pop(settlement.lease_id, None)
        transition = settlement.transition
        if not isinstance(answer, Settled) or answer.repeated or transition is None or task is None:
            return
        if transition.status is not Status.QUEUED:
            self._ended(task, transition)
        elif transition.run_at <= self._clock.now():
            self._waiters.ready(task.queue, 1)
        else:
            self._waiters.later(task.queue, transition.run_at)
        if log.isEnabledFor(logging.DEBUG) and transition.status is Status.QUEUED:
            log.debug("task %s %s, queued again", task.id, transition.kind, extra={"task_id": task.id})

    def _ended(self, task: Task, transition: Transition | None) -> None:
        """A task came to its end: by a transition, or (None) by cancelling it while it was queued."""
        status = task.status if transition is None else transition.status
        self._finished.add()
        if status is Status.FAILED:
            self._failed.add()
        if task.id in self._finish:
            self._finish.finished(task if transition is None else _final(task, transition))
        if log.isEnabledFor(logging.INFO):
            _log_end(task, transition)
        self.on_finish()


def _carried_out(call: Awaitable[T], then: Callable[[T], None]) -> asyncio.Future[T]:
    """The answer of a storage call. `then` is told of it also when the caller goes away while it is under way."""
    carrying = asyncio.ensure_future(call)
    answer: asyncio.Future[T] = carrying.get_loop().create_future()

    def tell(carried: asyncio.Future[T]) -> None:
        if carried.cancelled():
            answer.cancel()
        elif (error := carried.exception()) is None:
            try:
                then(carried.result())
            except Exception:  # what was committed must be answered, whatever listens to it
                logging.getLogger("jobpipe.queue").exception("telling of a commit failed")
            if not answer.done():
                answer.set_result(carried.result())
        elif not answer.done():
            answer.set_exception(error)

    carrying.add_done_callback(tell)
    return answer


def _overran(beat: Heartbeat) -> LeaseLost:
    return LeaseLost(f"task '{beat.id}' ran past its timeout")


def _final(task: Task, transition: Transition) -> Task:
    """The task as the settle left it."""
    return replace(
        task,
        status=transition.status,
        attempts=transition.attempts,
        failures=transition.failures,
        lost=transition.lost,
        run_at=transition.run_at,
        finished_at=transition.finished_at,
        result=transition.result,
        last_error=transition.error or task.last_error,
    )


def _log_end(task: Task, transition: Transition | None) -> None:
    """One line per end of a task. Messages of errors are people's data and stay out of it."""
    if transition is None:
        _log_line("task %s cancelled before it ran", (task.id,), task)
        return
    finished = transition.finished_at or 0
    took = max(0, finished - (task.started_at or finished)) / 1000
    error = f" ({transition.error.type})" if transition.error is not None else ""
    words = (task.id, transition.status.value, error, took, transition.attempts)
    _log_line("task %s %s%s after %.3f s, attempt %d", words, task)


def _log_line(text: str, words: tuple[object, ...], task: Task) -> None:
    # Without the search for the caller that `log.info` makes: a third of a line's cost, thousands of times a second.
    fields = {"task_id": task.id, "handler": task.handler, "queue": task.queue}
    log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, text, words, None, extra=fields))


def _nothing(*_: object) -> None:
    """The alarm that nobody set."""
