"""Handing tasks to those who ask for work: at once, or as soon as one is due.

A claim that nobody took any more, because who asked went away, is given back; `settled` waits for that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from msgspec.structs import replace

from jobpipe.core.lifecycle import Policy
from jobpipe.core.task import Claim, Task
from jobpipe.engine.observing import Observer
from jobpipe.engine.running import Running
from jobpipe.engine.waiters import ClaimWaiters
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import ClaimAnswer, ClaimRequest
from jobpipe.storage.contract import Storage

log = logging.getLogger("jobpipe.queue")


class Claiming:
    """The one place where runs begin. `on_lease` is called with the seconds of each lease that is given."""

    def __init__(
        self,
        storage: Storage,
        running: Running,
        waiters: ClaimWaiters,
        *,
        policy: Policy,
        clock: Clock,
        release: Callable[[Sequence[Claim]], Awaitable[None]],
        on_lease: Callable[[float], object],
        observers: Sequence[Observer],
    ) -> None:
        self._storage = storage
        self._running = running
        self._waiters = waiters
        self._policy = policy
        self._clock = clock
        self._release = release
        self._on_lease = on_lease
        self._observers = observers
        self._draining = False
        self._cancelled_early: dict[str, Task] = {}
        """Running tasks that were cancelled before their claim was answered, by lease id."""
        self._pending: set[asyncio.Future[Any]] = set()
        """What must come to its end before the storage closes, although nobody waits for it any more."""

    def drain(self) -> None:
        """Give nothing from now on, and answer all who wait."""
        self._draining = True
        self._waiters.wake_all()

    async def settled(self) -> None:
        """Sleep until all that nobody took is given back."""
        while self._pending:
            await asyncio.wait(self._pending)

    async def claim(self, request: ClaimRequest, wait: float | None, total: int | None = None) -> list[Claim]:
        """As TaskQueue.claim."""
        end = None if wait is None else self._clock.monotonic() + wait
        waiter = self._waiters.join(request.worker, request.queues)
        try:
            while not (self._draining or waiter.dismissed):
                waiter.look()
                if total is not None and self._storage.limited():
                    request = replace(request, free=max(0, total - self._running.count_of(request.worker)))
                    waiter.occupied = request.free == 0
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

    def cancelled(self, lease_id: str, task: Task) -> None:
        """The task of a run that is under way was marked as to be cancelled; its claim may not be answered yet."""
        if not self._running.update(lease_id, task):
            self._cancelled_early[lease_id] = task

    def forget(self, lease_id: str) -> None:
        """The claim holds no more."""
        self._cancelled_early.pop(lease_id, None)

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
            releasing = asyncio.ensure_future(self._release(claiming.result().claims))
            self._pending.add(releasing)
            releasing.add_done_callback(self._gave_back)

    def _gave_back(self, releasing: asyncio.Future[None]) -> None:
        self._pending.discard(releasing)
        if not releasing.cancelled() and (error := releasing.exception()) is not None:
            log.warning("an unused claim could not be released: %s", error)

    def _claimed(self, answer: ClaimAnswer, request: ClaimRequest) -> list[Claim]:
        claims = self._marked(answer.claims)
        self._running.begin(claims, request.local)
        if answer.next_due is not None and answer.next_due <= self._clock.now():
            self._waiters.pass_on(request.queues)
        if request.lease_s is not None:
            self._on_lease(request.lease_s)
        for observer in self._observers:
            observer.claimed(claims)
        return claims

    def _marked(self, claims: list[Claim]) -> list[Claim]:
        """A task that may take its worker down for the last time runs alone, so that no neighbour is lost with it."""
        lost = self._policy.max_lost - 1
        if not self._cancelled_early and all(claim.task.lost < lost for claim in claims):
            return claims
        tasks = [self._cancelled_early.pop(claim.lease_id, claim.task) for claim in claims]
        return [
            replace(claim, task=task, alone=task.lost >= lost)
            for claim, task in zip(claims, tasks, strict=True)
        ]
