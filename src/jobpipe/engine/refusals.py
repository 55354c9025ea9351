"""Enqueues that were refused: counted by queue and code since the start, and per second where a queue had no room."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from jobpipe.core.errors import JobpipeError
from jobpipe.engine.rates import Rate

OTHER = "other"
MOST_QUEUES = 1000
"""Names come from outside: past so many, refusals count under `other`."""
NO_ROOM = frozenset({"queue_full", "too_many_queues"})
"""The codes that tell of too little room, and not of what was sent."""


class _Named(Protocol):
    @property
    def queue(self) -> str: ...


class Refusals:
    """`by` counts by queue and code, and only ever rises. `monotonic` gives seconds and never goes back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.by: Counter[tuple[str, str]] = Counter()
        self._monotonic = monotonic
        self._all = Rate(monotonic)
        self._rates: dict[str, Rate] = {}
        self._queues: set[str] = set()

    def note(self, tasks: Sequence[_Named], answers: Sequence[object]) -> None:
        """The answers to these tasks, some of which are refusals."""
        for task, answer in zip(tasks, answers, strict=True):
            if isinstance(answer, JobpipeError):
                self.add(task.queue, answer.code)

    def add(self, queue: str, code: str) -> None:
        """One task for this queue was refused."""
        if queue not in self._queues:
            queue = queue if len(self._queues) < MOST_QUEUES else OTHER
            self._queues.add(queue)
        self.by[queue, code] += 1
        if code in NO_ROOM:
            self._all.add()
            self._rates.setdefault(queue, Rate(self._monotonic)).add()

    def per_second(self, queue: str | None = None) -> float:
        """Refusals for want of room, over the last minute; of one queue, or of all."""
        rate = self._all if queue is None else self._rates.get(queue)
        return 0.0 if rate is None else rate.per_second()

    def refusing(self) -> dict[str, float]:
        """The queues that refused for want of room within the last minute, and how often a second."""
        rates = {queue: rate.per_second() for queue, rate in self._rates.items()}
        return {queue: rate for queue, rate in rates.items() if rate > 0}
