"""Enqueues of several threads share requests: one thread sends for all who came while the last request was under way.

No thread of our own: nothing to start, to stop, or to lose in a fork. The main thread sends for nobody but itself,
since a signal's exception (Ctrl+C) may end its call anywhere.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from jobpipe.client.batch import GATHER_S, MOST_REQUESTS, Outcome, deliver, take
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.flow import Flow, Item, lost


class _Seat:
    """A thread that waits: for what became of its item, or for its turn to send."""

    __slots__ = ("is_main", "item", "leads", "outcome", "turn")

    def __init__(self, item: Item, is_main: bool) -> None:
        self.item = item
        self.is_main = is_main
        self.leads = False
        self.outcome: Outcome | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class Gathering:
    """Sends items by `run`, which carries out a flow. `timeout` is how long one waits unsent at most, in seconds."""

    def __init__(self, run: Callable[[Flow[Sequence[Outcome]]], Sequence[Outcome]], timeout: float) -> None:
        self._run = run
        self._timeout = timeout
        # A signal's handler may enqueue while its own thread is in here.
        self._lock = threading.RLock()
        self._waiting: deque[_Seat] = deque()
        self._leaders = 0

    def enqueue(self, item: Item) -> Outcome:
        """Send the item, at once when no other is under way; what became of it."""
        seat = _Seat(item, threading.current_thread() is threading.main_thread())
        with self._lock:
            if self._leaders:
                self._waiting.append(seat)
            else:
                seat.leads = True
                self._leaders = 1
        if not seat.leads:
            self._wait(seat)
        if seat.leads:
            self._lead(seat)
        return seat.outcome or lost(ConnectionFailed("the request was given up", maybe_sent=True))

    def _lead(self, seat: _Seat) -> None:
        batch = [seat]
        try:
            if not seat.is_main:
                with self._lock:
                    self._waiting.appendleft(seat)
                    batch = take(self._waiting)
            sent = self._run(deliver([one.item for one in batch]))
            for one, outcome in zip(batch, sent, strict=True):
                one.outcome = outcome
        finally:
            self._hand_over()
            for one in batch[1:]:
                one.turn.release()

    def _hand_over(self) -> None:
        with self._lock:
            following = next((one for one in self._waiting if not one.is_main), None)
            if following is None and self._waiting:
                following = self._waiting[0]
            if following is None:
                self._leaders -= 1
                return
            self._waiting.remove(following)
            following.leads = True
        following.turn.release()

    def _wait(self, seat: _Seat) -> None:
        end = time.monotonic() + self._timeout
        try:
            while not seat.turn.acquire(timeout=GATHER_S):
                if self._is_left_behind(seat, end):
                    return
        except BaseException:
            with self._lock:
                if seat in self._waiting:
                    self._waiting.remove(seat)
                elif seat.leads:
                    self._hand_over()
            raise

    def _is_left_behind(self, seat: _Seat, end: float) -> bool:
        """Let it go by itself when the request under way takes long; give up when too many do."""
        with self._lock:
            if seat not in self._waiting:
                return False
            if self._leaders < MOST_REQUESTS:
                seat.leads = True
                self._leaders += 1
            elif time.monotonic() >= end:
                seat.outcome = lost(ConnectionFailed(f"could not be sent in {self._timeout:g} s"))
            else:
                return False
            self._waiting.remove(seat)
            return True
