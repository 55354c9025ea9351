"""Enqueues of several coroutines share requests: what is handed in while one is under way goes with the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from jobpipe.client.batch import GATHER_S, MOST_REQUESTS, Outcome, deliver, is_full, take, to_each
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.flow import Flow, Item, lost


class _Seat:
    """A coroutine that waits for what became of its item."""

    __slots__ = ("came", "item", "outcome")

    def __init__(self, item: Item, loop: asyncio.AbstractEventLoop) -> None:
        self.item = item
        self.came = loop.time()
        self.outcome: asyncio.Future[Outcome] = loop.create_future()

    def tell(self, outcome: Outcome) -> None:
        """Unless nobody waits for it any more."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)


class AsyncGathering:
    """Sends items by `run`, which carries out a flow. `timeout` is how long one waits unsent at most, in seconds."""

    def __init__(
        self, run: Callable[[Flow[Sequence[Outcome]]], Awaitable[Sequence[Outcome]]], timeout: float
    ) -> None:
        self._run = run
        self._timeout = timeout
        self._waiting: deque[_Seat] = deque()
        self._under_way: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    async def enqueue(self, item: Item) -> Outcome:
        """Send the item, at once when no other is under way; what became of it.

        Cancelling that ends the waiting alone: a request with others' items goes on.
        """
        loop = asyncio.get_running_loop()
        seat = _Seat(item, loop)
        self._waiting.append(seat)
        if not self._under_way or (is_full(self._waiting) and len(self._under_way) < 2):
            self._begin()
        elif self._timer is None:
            self._timer = loop.call_later(GATHER_S, self._look)
        return await seat.outcome

    def close(self) -> None:
        """Send nothing more."""
        for task in self._under_way:
            task.cancel()
        self._give_up(len(self._waiting), "closed here")
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        # Its first step comes after all that is ready to run now: what is enqueued at one moment goes together.
        task = asyncio.get_running_loop().create_task(self._send_all(), name="jobpipe-enqueue")
        self._under_way.add(task)

    async def _send_all(self) -> None:
        task = asyncio.current_task()
        try:
            while self._waiting:
                await self._send([seat for seat in take(self._waiting) if not seat.outcome.done()])
        finally:
            # At once: who hears of its outcome in the next turn may send the next by then.
            self._under_way.discard(task)

    async def _send(self, batch: Sequence[_Seat]) -> None:
        sent: Sequence[Outcome] = ()
        try:
            if batch:
                sent = await self._run(deliver([seat.item for seat in batch]))
        finally:
            given_up = lost(ConnectionFailed("given up", maybe_sent=True))
            for seat, outcome in zip(batch, sent or to_each(given_up, len(batch)), strict=True):
                seat.tell(outcome)

    def _look(self) -> None:
        """Let those who wait go by themselves when the request under way takes long; give up when too many do."""
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._waiting and len(self._under_way) < MOST_REQUESTS:
            if loop.time() - self._waiting[0].came >= GATHER_S / 2:
                self._begin()
        else:
            oldest = loop.time() - self._timeout
            self._give_up(
                sum(seat.came < oldest for seat in self._waiting), f"not sent in {self._timeout:g} s"
            )
        if self._waiting:
            self._timer = loop.call_later(GATHER_S, self._look)

    def _give_up(self, count: int, reason: str) -> None:
        for _ in range(count):
            self._waiting.popleft().tell(lost(ConnectionFailed(reason)))
