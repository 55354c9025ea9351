"""Counting how long things take: fixed buckets, plain integers, cheap enough for every task.

Bounds grow by the same factor, so that a percentile is off by at most that factor. Histograms with the same bounds add
up: over minutes, and over servers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

SECONDS = (
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
    100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0,
)  # fmt: skip
"""Upper bounds for waits and runs, in seconds: a millisecond to about three hours, each inclusive."""


class Histogram:
    """How many values fell under each of the rising `bounds`; the last count is of what lies above all."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, values: Iterable[float]) -> None:
        """Count many, for less."""
        bounds, counts, total = self.bounds, self.counts, 0.0
        for value in values:
            counts[bisect_left(bounds, value)] += 1
            total += value
        self.sum += total

    def merge(self, counts: Sequence[int], total: float = 0.0) -> None:
        """Add the counts (and the sum) of another with the same bounds."""
        for i, n in enumerate(counts):
            self.counts[i] += n
        self.sum += total

    @property
    def count(self) -> int:
        """How many values were counted."""
        return sum(self.counts)

    def percentile(self, share: float) -> float | None:
        """The value that `share` (0 to 1) of all lie at or below, linear within its bucket; None without values."""
        wanted = share * self.count
        if not wanted:
            return None
        below, low = 0, 0.0
        for bound, n in zip(self.bounds, self.counts, strict=False):
            if n and below + n >= wanted:
                return low + (bound - low) * (wanted - below) / n
            below, low = below + n, bound
        return self.bounds[-1]
