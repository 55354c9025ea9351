"""How much happened in the last minute: one bucket a second, nothing kept longer."""

from __future__ import annotations

from collections.abc import Callable

WINDOW_S = 60


class Rate:
    """Events per second over the last minute (or over the time since the start, while that is shorter).

    `monotonic` gives seconds and never goes back.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._started = monotonic()
        self._buckets = [0] * WINDOW_S
        self._second = int(self._started)

    def add(self, n: int = 1) -> None:
        """Count `n` events now."""
        self._forget(int(self._monotonic()))
        self._buckets[self._second % WINDOW_S] += n

    def per_second(self) -> float:
        """The mean over the window."""
        now = self._monotonic()
        self._forget(int(now))
        return sum(self._buckets) / max(1.0, min(float(WINDOW_S), now - self._started))

    def _forget(self, second: int) -> None:
        for stale in range(self._second + 1, min(second, self._second + WINDOW_S) + 1):
            self._buckets[stale % WINDOW_S] = 0
        self._second = max(second, self._second)
