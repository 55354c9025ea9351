"""When runs are past their time: one timer of the event loop for all of them.

Most runs end long before their timeout, and a timer of its own for each costs more than a short run. Runs that have
the same timeout are due in the order in which they began, so the first of each length is all that must be looked at.
"""

from __future__ import annotations

import asyncio
from typing import Protocol


class Timed(Protocol):
    """Something that may take `timeout` seconds."""

    @property
    def timeout(self) -> float: ...

    def time_out(self) -> None:
        """The time is up. Called once, on the event loop."""
        ...


class Deadlines:
    """The runs that have a timeout, for one event loop."""

    def __init__(self) -> None:
        self._by_length: dict[float, dict[Timed, float]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings = float("inf")

    def add(self, run: Timed) -> None:
        """`run.timeout` begins to count; the same run is not added again before it is removed."""
        loop = asyncio.get_running_loop()
        when = loop.time() + run.timeout
        runs = self._by_length.get(run.timeout)
        if runs is None:
            runs = self._by_length[run.timeout] = {}
        runs[run] = when
        if when < self._rings:
            self._ring_at(when, loop)

    def remove(self, run: Timed) -> None:
        """The run ended, or is no longer bounded; safe for one that never was."""
        runs = self._by_length.get(run.timeout)
        if runs is not None:
            runs.pop(run, None)
            if not runs:
                del self._by_length[run.timeout]

    def close(self) -> None:
        """Forget all: nobody is told any more."""
        self._by_length.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._rings = float("inf")

    def _ring_at(self, when: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = when
        self._timer = loop.call_at(when, self._ring)

    def _ring(self) -> None:
        """Tell those whose time is up, and ring again for the next; one that finds nobody rang for a run that ended."""
        loop = asyncio.get_running_loop()
        self._timer, self._rings = None, float("inf")
        now = loop.time()
        over = [run for runs in self._by_length.values() for run in _until(runs, now)]
        for run in over:
            self.remove(run)
        earliest = min((next(iter(runs.values())) for runs in self._by_length.values()), default=None)
        if earliest is not None:
            self._ring_at(earliest, loop)
        for run in over:
            run.time_out()


def _until(runs: dict[Timed, float], now: float) -> list[Timed]:
    found = []
    for run, when in runs.items():
        if when > now:
            break
        found.append(run)
    return found
