"""The upkeep: rescuing lost tasks and pruning old ones. Each is one `run_once`, driven by an alarm, never by polling.

`run_once` does what is due now and tells how long nothing will be; `Alarm` sleeps that long or until rung. The rescuer
gives lost tasks back in small, spaced groups, so that a thousand leases that end together do not start together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from jobpipe.core.errors import LeaseLost, StorageError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import LostClaim, Settled
from jobpipe.storage.contract import Upkeep

log = logging.getLogger("jobpipe.maintenance")

RESCUE_SLICE = 100
PRUNE_SLICE = 500
PAUSE_S = 0.02
"""Between two slices of one sweep, so that requests come between."""
FAILED_PAUSE_S = 1.0
"""After the storage refused: long enough not to hammer it, short enough to heal by itself."""


class Rescuer:
    """Settles claims whose holder is gone: as lost, or as timed out when the run had used up its time."""

    def __init__(self, queue: TaskQueue, storage: Upkeep) -> None:
        self._queue = queue
        self._storage = storage
        self.rescued = 0
        self.on_rescue: Callable[[LostClaim], object] = _nothing
        """Called with each claim that was found lost."""
        self.vouch: Callable[[LostClaim], Heartbeat | None] = _nothing
        """Gives a heartbeat in the name of a holder that could send none, but is known to live."""

    async def run_once(self, now: int) -> float | None:
        """Rescue one slice; answer the seconds until there may be more to do, None for not before a new lease."""
        lost = await self._storage.lost(RESCUE_SLICE)
        if gone := await self._gone(lost):
            await self._rescue(gone)
        if len(lost) == RESCUE_SLICE:
            return PAUSE_S
        return await self._storage.next_expiry()

    async def _gone(self, lost: Sequence[LostClaim]) -> Sequence[LostClaim]:
        """Those of `lost` that nobody vouches for, or that are past their timeout."""
        beats = {claim.lease_id: beat for claim in lost if (beat := self.vouch(claim)) is not None}
        if not beats:
            return lost
        answers = await self._queue.extend(list(beats.values()))
        kept = {
            lease_id
            for lease_id, answer in zip(beats, answers, strict=True)
            if not isinstance(answer, LeaseLost)
        }
        return [claim for claim in lost if claim.lease_id not in kept]

    async def _rescue(self, lost: Sequence[LostClaim]) -> None:
        for claim in lost:
            if claim.task.worker is not None and not claim.orphaned:
                self._queue.dismiss(claim.task.worker)  # or it might be the first to get the task back
        own = {claim.lease_id for claim in lost if self._queue.is_local(claim.lease_id)}
        answers = await self._queue.rescue([self._report(claim) for claim in lost])
        # A holder may have settled while its claim was looked at: that one was not lost.
        rescued = [
            claim
            for claim, answer in zip(lost, answers, strict=True)
            if isinstance(answer, Settled) and not answer.repeated
        ]
        self.rescued += len(rescued)
        for claim in rescued:
            if claim.lease_id in own:
                self.on_rescue(claim)
        if rescued:
            log.warning("rescued %d tasks whose worker was lost", len(rescued))

    def _report(self, claim: LostClaim) -> Report:
        return Report(claim.task.id, claim.lease_id, self._outcome(claim))

    def _outcome(self, claim: LostClaim) -> Outcome:
        if claim.orphaned:
            return Outcome(Kind.LOST, message="the server that ran it stopped without a goodbye")
        if self._queue.outlasted(claim) or self._queue.overran(claim.task.id, claim.lease_id):
            return Outcome(Kind.TIMED_OUT, message="it ran past its timeout, and its worker did not end it")
        return Outcome(Kind.LOST, message="its lease ran out without a sign from its worker")


class Pruner:
    """Deletes finished tasks older than the retention, in slices.

    `retention` is for done and cancelled tasks, `retention_failed` for failed ones; seconds, inf keeps all.
    """

    def __init__(self, storage: Upkeep, retention: float, retention_failed: float) -> None:
        self._storage = storage
        self._retention = retention
        self._retention_failed = retention_failed
        self.pruned = 0
        self.on_prune: Callable[[], object] = _nothing
        """Called when tasks were pruned."""

    async def run_once(self, now: int) -> float | None:
        """Prune one slice; answer the seconds until there may be more to do, None when nothing ever will be."""
        limits = (_before(now, self._retention), _before(now, self._retention_failed))
        pruned = await self._storage.prune(*limits, PRUNE_SLICE)
        self.pruned += pruned
        if pruned:
            self.on_prune()
        if pruned == PRUNE_SLICE:
            return PAUSE_S
        return self._until_next(now, *await self._storage.next_prunable())

    def _until_next(self, now: int, done: int | None, failed: int | None) -> float | None:
        waits = [
            max(0.0, (oldest - now) / 1000 + kept)
            for oldest, kept in ((done, self._retention), (failed, self._retention_failed))
            if oldest is not None and kept != float("inf")
        ]
        if not waits:
            return None
        # Tasks end all the time: gather a second's worth instead of waking for each.
        gather = min(1.0, max(PAUSE_S, min(self._retention, self._retention_failed)))
        return min(waits) + gather


def _before(now: int, retention: float) -> int | None:
    return None if retention == float("inf") else now - round(retention * 1000) + 1


class Alarm:
    """Calls `run_once(now)` whenever it said that there may be something to do, or earlier when told."""

    def __init__(self, name: str, run_once: Callable[[int], Awaitable[float | None]], clock: Clock) -> None:
        self._name = name
        self._run_once = run_once
        self._clock = clock
        self._bell = asyncio.Event()
        self._timer: asyncio.Handle | None = None
        self._rings_at = 0.0
        self._runner: asyncio.Task[None] | None = None
        self._failing = False

    def start(self) -> None:
        """Begin; the first run is at once."""
        self._runner = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    def ring_within(self, seconds: float) -> None:
        """Run again `seconds` from now at the latest; costs next to nothing when that was planned already."""
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._timer is not None:
            if self._rings_at <= at:
                return
            self._timer.cancel()
        self._rings_at = at
        self._timer = loop.call_at(at, self._bell.set)

    async def stop(self) -> None:
        """End; safe when called twice or never started."""
        if self._timer is not None:
            self._timer.cancel()
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.wait([self._runner])
            self._runner = None

    async def _run(self) -> None:
        while True:
            self._bell.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            pause = await self._guarded()
            if pause is not None:
                self.ring_within(pause)
            await self._bell.wait()

    async def _guarded(self) -> float | None:
        try:
            pause = await self._run_once(self._clock.now())
        except StorageError as error:
            # Said once: a database may be away for hours.
            log.log(
                logging.DEBUG if self._failing else logging.WARNING, "%s: %s; trying again", self._name, error
            )
            self._failing = True
        except Exception:
            log.exception("%s failed; trying again", self._name)
        else:
            self._failing = False
            return pause
        return FAILED_PAUSE_S


def _nothing(*_: object) -> None:
    """Nobody asked to be told."""
