"""From reports to settles: decide purely over what is known of a run, write if its claim still holds, tell who waits.

When a cancel came between deciding and writing, nothing is written and it is decided again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from jobpipe.core.errors import Invalid, JobpipeError, LeaseLost, NotFound
from jobpipe.core.lifecycle import Kind, Policy, Transition, decide
from jobpipe.core.task import Status, Task
from jobpipe.engine.carrying import carried_out
from jobpipe.engine.ends import Ends
from jobpipe.engine.observing import Observer
from jobpipe.engine.running import Running
from jobpipe.engine.tally import Tally
from jobpipe.engine.values import Report
from jobpipe.engine.waiters import ClaimWaiters
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import CancelChanged, Settled, Settlement
from jobpipe.storage.contract import TaskLife

log = logging.getLogger("jobpipe.tasks")

_CANCELLED = Kind.CANCELLED
_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING


class Settling:
    """The one place where runs end. `forget(lease_id)` is called for each claim that holds no more, `freed(ends)` for
    runs that ended."""

    def __init__(
        self,
        storage: TaskLife,
        running: Running,
        waiters: ClaimWaiters,
        ends: Ends,
        *,
        policy: Policy,
        clock: Clock,
        random: Callable[[], float],
        forget: Callable[[str], object],
        freed: Callable[[Sequence[tuple[Task, Transition]]], object],
        observers: Sequence[Observer],
        tally: Tally,
    ) -> None:
        self._storage = storage
        self._policy = policy
        self._clock = clock
        self._random = random
        self._running = running
        self._waiters = waiters
        self._ends = ends
        self._forget = forget
        self._freed = freed
        self._observers = observers
        self._tally = tally

    async def settle(self, reports: Sequence[Report], *, rescue: bool) -> list[Settled | JobpipeError]:
        """Write what became of runs, each if its claim still holds. `rescue` as in Settlement."""
        tasks = await self._tasks_of(reports)
        written = await self._write(reports, tasks, rescue)
        answers: list[Settled | JobpipeError] = []
        for report, answer in zip(reports, written, strict=True):
            if isinstance(answer, CancelChanged):
                self._running.end(report.lease_id)  # what was known is old: read it, and decide again
                answers += await self.settle([report], rescue=rescue)
            else:
                answers.append(answer)
        return answers

    async def _tasks_of(self, reports: Sequence[Report]) -> list[Task | None]:
        tasks = [self._running.task(report.id, report.lease_id) for report in reports]
        # Another server may have been asked to cancel, and this one not have heard of it before the worker did.
        missing = [
            i
            for i, (report, task) in enumerate(zip(reports, tasks, strict=True))
            if task is None or (report.outcome.kind is _CANCELLED and not task.cancel_requested)
        ]
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
            await carried_out(
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
        ends: list[tuple[Task, Transition]] = []
        for task, settlement, answer in zip(tasks, settlements, answers, strict=True):
            if self._is_over(settlement, answer) and task is not None and settlement.transition is not None:
                ends.append((task, settlement.transition))
        if ends:
            self._tell(ends)

    def _settlement(
        self, report: Report, task: Task | None, now: int, rescue: bool
    ) -> Settlement | JobpipeError:
        if task is None:
            return NotFound(f"no task has the id '{report.id}'")
        if task.status is not _RUNNING:
            return Settlement(report.id, report.lease_id, None)
        if report.outcome.kind is _CANCELLED and not task.cancel_requested:
            return Invalid(f"nobody asked to cancel task '{task.id}'", field="outcome")
        transition = decide(task, report.outcome, now, self._policy, self._random)
        return Settlement(report.id, report.lease_id, transition, task.cancel_requested, rescue)

    def _is_over(self, settlement: Settlement, answer: Settled | CancelChanged | JobpipeError) -> bool:
        """Whether this settle ended the run; one that is answered in whatever way is not under way any more."""
        if isinstance(answer, CancelChanged):
            return False
        self._running.end(settlement.lease_id)
        self._forget(settlement.lease_id)
        if isinstance(answer, LeaseLost) and not settlement.rescue:
            self._tally.leases_lost += 1
        return isinstance(answer, Settled) and not answer.repeated

    def _tell(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        self._ends.tell([end for end in ends if end[1].status is not _QUEUED])
        for task, transition in ends:
            if transition.status is _QUEUED:
                self._queued_again(task, transition)
        self._freed(ends)
        for observer in self._observers:
            observer.settled(ends)

    def _queued_again(self, task: Task, transition: Transition) -> None:
        if transition.run_at <= self._clock.now():
            self._waiters.ready(task.queue, 1)
        else:
            self._waiters.later(task.queue, transition.run_at)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("task %s %s, queued again", task.id, transition.kind, extra={"task_id": task.id})
