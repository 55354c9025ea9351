"""What a server did since its start, as plain numbers for `/metrics`: counted once per batch, read when somebody asks.

Names of queues and handlers come from outside: past a bound they are counted under `other`, so that nobody can fill the
memory of this server, or of who collects its metrics, with names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

from jobpipe.core.histogram import Histogram
from jobpipe.core.lifecycle import Kind, Transition
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import Clock

OTHER = "other"
MOST_QUEUES = 1000
MOST_HANDLERS = 100
MOST_PAIRS = 2000
"""Of a queue and a handler."""

K = TypeVar("K")

_DONE = Kind.DONE

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
        """Tasks that were queued again, after an unsuccessful run or by hand."""
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
        waits: dict[str, list[float]] = {}
        for claim in claims:
            task = claim.task
            if task.started_at is not None:
                waits.setdefault(task.handler, []).append(_seconds(task.run_at, task.started_at))
        self._add(self.waits, waits)

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        now = self._clock.now()
        runs: dict[str, list[float]] = {}
        done: dict[tuple[str, str], int] = {}
        for task, transition in ends:
            succeeded = transition.kind is _DONE
            if (succeeded or transition.ran) and task.started_at is not None:
                runs.setdefault(task.handler, []).append(_seconds(task.started_at, now))
            if succeeded:
                pair = task.queue, task.handler
                done[pair] = done.get(pair, 0) + 1
            else:
                self._unsuccessful(task, transition)
        for pair, n in done.items():
            self._end(pair, Status.DONE, n)
        self._add(self.runs, runs)

    def _unsuccessful(self, task: Task, to: Transition) -> None:
        self.rescued += to.rescued
        self.retried += to.retried
        if (outcome := to.finished_as) is not None:
            self._end((task.queue, task.handler), outcome, 1)

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        for task in tasks:
            self.retried += task.status is Status.QUEUED
            if task.status is Status.CANCELLED:
                self._end((task.queue, task.handler), Status.CANCELLED, 1)

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer: they had their ends before."""

    def _end(self, pair: tuple[str, str], outcome: str, n: int) -> None:
        self.finished[*_bounded(self._pairs, pair, MOST_PAIRS, (OTHER, OTHER)), str(outcome)] += n

    def _add(self, histograms: dict[str, Histogram], seconds: dict[str, list[float]]) -> None:
        for name, values in seconds.items():
            handler = _bounded(self._handlers, name, MOST_HANDLERS, OTHER)
            histogram = histograms.get(handler)
            if histogram is None:
                histogram = histograms[handler] = Histogram()
            histogram.add_all(values)


def _seconds(since: int, until: int) -> float:
    """Between two times in milliseconds, of which a clock may have been set back."""
    return (until - since) / 1000 if until > since else 0.0


def _bounded(known: dict[K, K], name: K, most: int, other: K) -> K:
    """The name, or `other` when it is new and there are as many as there may be."""
    if (found := known.get(name)) is not None:
        return found
    if len(known) >= most:
        return other
    known[name] = name
    return name
