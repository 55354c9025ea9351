"""Keeps a bounded number of workers busy with tasks from a TaskSource, and stops with a deadline.

A Pool never polls: one claim call at most is under way, and none while no worker is free, but for claiming ahead of
short runs. Each outcome is delivered at least once, however often the source fails, until the drain's end. What a run
comes to is the executor's matter.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim
from jobpipe.runtime import randomness
from jobpipe.work.ahead import Ahead, ClaimNow
from jobpipe.work.delivery import Deliveries, Pauses
from jobpipe.work.executor import Executor
from jobpipe.work.run import INFINITY, RELEASE_CLEANUP_S, Run
from jobpipe.work.source import TaskSource

logger = logging.getLogger(__name__)

_DONE = Kind.DONE

BACKOFF = RetryPolicy(base=0.1, jitter=0.1, cap=5.0)
SETTLE_GRACE_S = 5.0
SETTLES_PER_WORKER = 2


class Running(Struct, frozen=True):
    """A task that holds a worker; `started` in milliseconds since the epoch, None while it waits to run alone."""

    id: str
    handler: str
    started: int | None


class Watcher:
    """Who is told what a pool does, on the event loop. To be overridden; as it stands it takes no interest."""

    def on_begin(self, lease_ids: Sequence[str]) -> None:
        """The handlers of these claims start as soon as this returns."""

    def on_settled(self, lease_ids: Sequence[str]) -> None:
        """The outcomes of these claims were delivered, or given up."""

    def on_overstay(self, run: Run) -> bool:
        """A run timed out, and its handler goes on: its worker stays occupied, maybe for ever.

        True: this process ends, and who sees its end settles the run.
        """
        return False

    def on_spent(self) -> None:
        """The last of the tasks that this pool may take has begun."""


class Pool:
    """`workers` workers for tasks of `source`, run by `executor`, which the pool closes at its end.

    `backoff` says how long to wait after a failed call to the source. `settle_grace` is how many seconds after the
    end of a drain's deadline (and the handlers' clean-up time) the last settles may take. After `max_tasks` tasks
    (0: no limit) nothing more is claimed. With `claim_now` (claims up to so many tasks that are due, none when none is)
    a pool with a backlog of short runs claims ahead of them.
    """

    def __init__(
        self,
        source: TaskSource,
        executor: Executor,
        workers: int,
        *,
        backoff: RetryPolicy = BACKOFF,
        settle_grace: float = SETTLE_GRACE_S,
        max_tasks: int = 0,
        claim_now: ClaimNow | None = None,
        watcher: Watcher | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self.workers = workers
        self._source = source
        self._executor = executor
        self._pauses = Pauses(backoff, random)
        self._settle_grace = settle_grace
        self._left = max_tasks or None
        self._watcher = watcher or Watcher()
        self._runs: dict[str, Run] = {}
        self._open = 0
        self._ahead = Ahead(claim_now)
        self._alone: deque[Run] = deque()
        self._lone: Run | None = None
        self._deliveries = Deliveries(source, self._pauses, self._delivered)
        self._ended: list[Run] = []
        """Runs whose workers are freed at the end of this turn of the event loop."""
        self._context: contextvars.Context | None = None
        """Of no run: what a handler puts into its context must not be seen by the run that takes its place."""
        self._room = asyncio.Event()
        self._claiming: asyncio.Task[None] | None = None
        self._draining = False
        self._drained = asyncio.Event()
        self._deadline: asyncio.TimerHandle | None = None
        self._last: asyncio.TimerHandle | None = None

    @property
    def leaving(self) -> bool:
        """Whether it stops."""
        return self._draining

    @property
    def busy(self) -> int:
        """How many workers hold a task, those included whose handler outlives its timeout."""
        return len(self._runs)

    @property
    def running(self) -> list[Running]:
        """The tasks that hold a worker, in the order in which they were claimed."""
        return [
            Running(run.claim.task.id, run.claim.task.handler, run.started) for run in self._runs.values()
        ]

    @property
    def runs(self) -> list[Run]:
        """The runs that hold a worker. May be read from any thread."""
        return list(self._runs.values())

    @property
    def ahead(self) -> list[Run]:
        """The runs that were claimed ahead and hold no worker yet. May be read from any thread."""
        return self._ahead.runs()

    def claim(self, lease_id: str) -> Claim:
        """The claim of a run that holds a worker. Raises KeyError."""
        return self._runs[lease_id].claim

    def start(self) -> None:
        """Begin to claim, on the running event loop. Does nothing when started or drained before."""
        if self._claiming is None and not self._draining:
            # Not before the start: what the app's lifespan put into the context is for every run.
            self._context = contextvars.copy_context()
            self._claiming = asyncio.get_running_loop().create_task(self._claim(), name="jobpipe-pool")

    def cancel(self, lease_id: str) -> bool:
        """Ask the handler that runs under this lease to stop; False when none does (any more)."""
        run = self._runs.get(lease_id) or self._ahead.find(lease_id)
        if run is None or run.reported:
            return False
        run.cancel()
        return True

    async def drain(self, seconds: float) -> None:
        """Stop claiming, wait up to `seconds` for what runs, release the rest, and see the settles delivered.

        Safe before `start`, twice, and at the same time: the earliest deadline holds, and all calls return at the
        end. Tasks that only wait for a worker, or to run alone, are released at once.
        """
        if not self._draining:
            self._draining = True
            if self._claiming is not None:
                self._claiming.add_done_callback(self._check_drained)
                self._claiming.cancel()
            while self._alone:
                self._alone.popleft().release()
            self._ahead.release()
        self._release_in(seconds)
        self._check_drained()
        await self._drained.wait()

    # --- claiming ---

    async def _claim(self) -> None:
        failures = 0
        while not self._draining and self._left != 0:
            ahead = self._ahead.room
            limit = self._bounded(self.workers - len(self._runs) + ahead)
            if limit <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            self._deliveries.send()
            try:
                # Never for more than the free workers where the answer may come late: by then the pace is another.
                claims = await (self._ahead.claim(limit) if ahead else self._source.claim(limit))
            except Exception as error:  # noqa: BLE001  # a source that fails must not end the pool
                self._ahead.stop()
                failures += 1
                await self._pauses.after("claim", failures, error)
                continue
            if not claims and not ahead:
                logger.debug("the source gives no more tasks: claiming ends")
                return
            failures = 0
            self._take(claims, ahead=ahead > 0)

    def _bounded(self, claims: int) -> int:
        """So many claims, but none while a task has the process to itself, or too many settles wait."""
        if (
            self._alone
            or self._lone is not None
            or len(self._deliveries) >= SETTLES_PER_WORKER * (self.workers + self._ahead.most)
        ):
            return 0
        return claims if self._left is None else max(0, min(claims, self._left - len(self._ahead)))

    def _take(self, claims: Sequence[Claim], *, ahead: bool) -> None:
        together: list[Run] = []
        waiting: list[Run] = []
        for claim in claims:
            run = self._executor.prepare(claim, self)
            self._open += 1
            if self._draining or (claim.alone and ahead):
                # What came ahead of time and must run alone would wait here beside runs that may kill it.
                self._ahead.stop()
                run.release()
            elif claim.alone:
                self._runs[claim.lease_id] = run
                self._alone.append(run)
            elif len(self._runs) < self.workers:
                self._runs[claim.lease_id] = run
                together.append(run)
            else:
                waiting.append(run)
        self._ahead.put(waiting)
        self._begin(together)
        self._begin_alone()

    def _begin(self, runs: Sequence[Run]) -> None:
        if not runs or self._taken_apart():
            return
        # Told before: a handler may take the whole process down with its first line.
        self._watcher.on_begin([run.claim.lease_id for run in runs])
        for run in runs:
            run.begin()
            if run.claim.task.cancel_requested:  # cancelled while its claim was on the way to here
                run.cancel()
        self._spend(len(runs))

    def _begin_waiting(self) -> None:
        """Begin what was claimed ahead, as far as workers are free and no task needs the process to itself."""
        if self._ahead and not self._alone and self._lone is None:
            runs = self._ahead.take(self.workers - len(self._runs))
            self._runs.update((run.claim.lease_id, run) for run in runs)
            self._begin(runs)

    def _spend(self, begun: int) -> None:
        """What was only claimed is not counted: its claim may yet be given back."""
        if self._left is None:
            return
        self._left = max(0, self._left - begun)
        if self._left == 0:
            self._watcher.on_spent()

    def _begin_alone(self) -> None:
        """Begin the next task that must have the process to itself, once no other holds a worker."""
        if self._alone and self._lone is None and len(self._runs) == len(self._alone):
            self._lone = self._alone.popleft()
            self._begin([self._lone])

    # --- ending ---

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        """Hand the outcome to the source, without waiting."""
        self._open -= 1
        if outcome.kind is _DONE or not self._taken_apart():
            self._deliveries.hand_in(run, outcome, self._context)

    def _taken_apart(self) -> bool:
        """Whether a handler cancelled the process's own work, and its neighbours with it: that is no failure of theirs.

        The process is about to leave: what it had begun is then found lost, and nothing more may begin.
        """
        return self._claiming is not None and self._claiming.cancelling() > 0 and not self._draining

    def on_end(self, run: Run) -> None:
        """Free the worker, but after its settle was handed in."""
        if run.started is None:
            self._ahead.drop(run)
            if run in self._alone:
                self._alone.remove(run)
        if not self._ended:
            asyncio.get_running_loop().call_soon(self._free_workers, context=self._context)
        self._ended.append(run)

    def on_overstay(self, run: Run) -> bool:
        """Pass on that a worker may be occupied for ever: a pool cannot help it, its process's owner can."""
        handed_over = self._watcher.on_overstay(run)
        if handed_over:
            self._open -= 1
            self._check_drained()
        return handed_over

    def _free_workers(self) -> None:
        ended, self._ended = self._ended, []
        for run in ended:
            self._runs.pop(run.claim.lease_id, None)
        # Not those that never began: what is given back is none of the pace.
        self._ahead.ended(sum(run.started is not None for run in ended))
        self._check_alone()
        self._begin_waiting()
        self._room.set()

    def _delivered(self, runs: Sequence[Run]) -> None:
        self._watcher.on_settled([run.claim.lease_id for run in runs])
        if self._lone in runs:
            self._check_alone()
            self._begin_waiting()
        self._room.set()
        if self._draining:
            self._check_drained()

    def _check_alone(self) -> None:
        """A run that has the process to itself has it until its outcome is delivered: one that comes after it and kills
        the process would otherwise count it out, although it had succeeded."""
        lone = self._lone
        if lone is not None and lone.claim.lease_id not in self._runs and lone not in self._deliveries:
            self._lone = None
        self._begin_alone()

    # --- draining ---

    def _release_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if self._drained.is_set() or when == INFINITY or (self._deadline and self._deadline.when() <= when):
            return
        if self._deadline:
            self._deadline.cancel()
        self._deadline = loop.call_at(when, self._release)

    def _release(self) -> None:
        for run in list(self._runs.values()):
            if not run.reported:
                run.release()
        # The handlers' clean-up time comes first, then the settles' own.
        last = min(self._executor.cleanup, RELEASE_CLEANUP_S) + self._settle_grace
        self._last = asyncio.get_running_loop().call_later(last, self._give_up)

    def _check_drained(self, _: object = None) -> None:
        claiming = self._claiming is not None and not self._claiming.done()
        if not (claiming or self._open or self._deliveries):
            self._finish()

    def _give_up(self) -> None:
        """The drain ends although the source does not answer."""
        self._deliveries.give_up()
        self._finish()

    def _finish(self) -> None:
        for timer in (self._deadline, self._last):
            if timer is not None:
                timer.cancel()
        self._executor.close()
        self._drained.set()
