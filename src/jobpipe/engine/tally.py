"""What a server did since its start, as plain numbers for `/metrics`: counted once per batch, read when somebody asks.

Names of queues and handlers come from outside: past a bound they are counted under `other`, so that nobody can fill the
memory of this server, or of who collects its metrics, with names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from jobpipe.clock import Clock
from jobpipe.core.histogram import Histogram
from jobpipe.core.lifecycle import Kind, Transition
from jobpipe.core.task import Claim, Status, Task

OTHER = "other"
MOST_QUEUES = 1000
MOST_HANDLERS = 100
MOST_PAIRS = 2000
"""Of a queue and a handler."""

K = TypeVar("K")

Ended = tuple[str, str, str]
"""Queue, handler and outcome."""


class Tally:
    """An Observer of one queue; its attributes are to be read, and only ever rise."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._queues: dict[str, str] = {}
        self._handlers: dict[str, str] = {}
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self.enqueued: Counter[str] = Counter()
        """Tasks accepted, by queue."""
        self.finished: Counter[Ended] = Counter()
        """Tasks that came to their end: `done` or `cancelled`, or how the last run of a failed one ended."""
        self.retried = 0
        """Unsuccessful runs after which the task was queued again."""
        self.rescued = 0
        """Runs whose worker was lost."""
        self.leases_lost = 0
        """Outcomes that changed nothing, because their lease held no more."""
        self.waits: dict[str, Histogram] = {}
        """Seconds from when a task was due until it was claimed, by handler."""
        self.runs: dict[str, Histogram] = {}
        """Seconds of each run that was not released, by handler."""

    def accepted(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        for queue, n in Counter([task.queue for task in tasks]).items():
            self.enqueued[_bounded(self._queues, queue, MOST_QUEUES, OTHER)] += n

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See Observer."""
        for claim in claims:
            task = claim.task
            if task.started_at is not None:
                self._add(self.waits, task.handler, task.started_at - task.run_at)

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        now = self._clock.now()
        for task, transition in ends:
            kind = transition.kind
            if kind is Kind.RELEASED:
                continue
            if task.started_at is not None:
                self._add(self.runs, task.handler, now - task.started_at)
            self.rescued += kind is Kind.LOST
            if transition.status is Status.QUEUED:
                self.retried += 1
            else:
                self._end(task, kind if transition.status is Status.FAILED else transition.status)

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        for task in tasks:
            if task.status is Status.CANCELLED:
                self._end(task, Status.CANCELLED)

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer: they had their ends before."""

    def _end(self, task: Task, outcome: str) -> None:
        pair = task.queue, task.handler
        self.finished[*_bounded(self._pairs, pair, MOST_PAIRS, (OTHER, OTHER)), str(outcome)] += 1

    def _add(self, histograms: dict[str, Histogram], handler: str, ms: int) -> None:
        handler = _bounded(self._handlers, handler, MOST_HANDLERS, OTHER)
        histogram = histograms.get(handler)
        if histogram is None:
            histogram = histograms[handler] = Histogram()
        histogram.add(max(0, ms) / 1000)


def _bounded(known: dict[K, K], name: K, most: int, other: K) -> K:
    """The name, or `other` when it is new and there are as many as there may be."""
    if (found := known.get(name)) is not None:
        return found
    if len(known) >= most:
        return other
    known[name] = name
    return name
