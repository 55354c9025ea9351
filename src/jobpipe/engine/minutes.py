"""What happened in one minute, counted in plain integers: the charts' memory.

A minute is counted by one server and kept as JSON; those of several servers, or of one before and after its restart,
add up. Other versions read it too: they leave aside a field that they do not know, and take a missing one for zero.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from jobpipe.core.histogram import SECONDS, Histogram
from jobpipe.core.lifecycle import Kind, Transition
from jobpipe.core.shape import message_shape
from jobpipe.core.task import Claim, Status, Task

MOST_GROUPS = 50
"""Groups of errors in a minute: those that come later in it are counted as failures, but not shown as errors."""
TYPE_LIMIT = 200
"""Characters of an error's type that are kept."""
COUNTS = ("enqueued", "done", "failed", "cancelled", "retried", "rescued")

_MS = tuple(round(bound * 1000) for bound in SECONDS)
_DONE = Kind.DONE
_CANCELLED, _FAILED, _QUEUED = Status.CANCELLED, Status.FAILED, Status.QUEUED


class Failures(Struct, array_like=True):
    """One group of errors: how often, when first and last (milliseconds), and the task that failed last."""

    handler: str
    type: str
    shape: str
    count: int
    first: int
    last: int
    example: str

    def add(self, other: Failures) -> None:
        """Take in another count of the same group."""
        self.count += other.count
        self.first = min(self.first, other.first)
        if other.last >= self.last:
            self.last, self.example = other.last, other.example


class _Kept(Struct, omit_defaults=True):
    """A minute as it is stored: counts, (bucket, n) pairs of waits and runs, groups of errors by name."""

    enqueued: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    retried: int = 0
    rescued: int = 0
    queued: int = 0
    looked: int = 0
    waits: list[tuple[int, int]] = []
    runs: list[tuple[int, int]] = []
    errors: dict[str, Failures] = {}


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Kept).decode


class Minute:
    """The counts of one minute (since the epoch). `waits` and `runs` are in milliseconds."""

    __slots__ = (*COUNTS, "errors", "looked", "minute", "queued", "runs", "waits")

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.enqueued = self.done = self.failed = self.cancelled = self.retried = self.rescued = 0
        self.queued = self.looked = 0
        """How many tasks waited at `looked` (milliseconds), the latest look of the minute."""
        self.waits = Histogram(_MS)
        self.runs = Histogram(_MS)
        self.errors: dict[str, Failures] = {}

    # --- counting: the way of every task, so without a call for each ---

    def began(self, claims: Sequence[Claim]) -> None:
        """Runs began; what counts as waiting starts when a task is due."""
        counts = self.waits.counts
        for claim in claims:
            task = claim.task
            due = task.created_at if task.created_at > task.run_at else task.run_at
            counts[bisect_left(_MS, (task.started_at or due) - due)] += 1

    def ended(self, ends: Sequence[tuple[Task, Transition]], now: int) -> None:
        """Runs came to their end."""
        counts = self.runs.counts
        done = 0
        for task, to in ends:
            if to.kind is _DONE:
                done += 1
                counts[bisect_left(_MS, now - (task.started_at or now))] += 1
            else:
                self._unsuccessful(task, to, now)
        self.done += done

    def _unsuccessful(self, task: Task, to: Transition, now: int) -> None:
        self.cancelled += to.status is _CANCELLED
        self.failed += to.status is _FAILED
        self.retried += to.retried
        self.rescued += to.rescued
        if to.ran:
            self.runs.add(now - (task.started_at or now))
        if to.error_group is not None:
            self._failed_as(to.error_group, task, to, now)

    def _failed_as(self, group: str, task: Task, to: Transition, now: int) -> None:
        known = self.errors.get(group)
        if known is not None:
            known.count += 1
            known.last, known.example = now, task.id
        elif to.error is not None and len(self.errors) < MOST_GROUPS:
            shape, type_ = message_shape(to.error.message), to.error.type[:TYPE_LIMIT]
            self.errors[group] = Failures(task.handler, type_, shape, 1, now, now, task.id)

    def steered(self, tasks: Sequence[Task]) -> None:
        """Tasks were cancelled before they ran, or queued again by hand; a mark on a running one is no end yet."""
        self.cancelled += sum(task.status is _CANCELLED for task in tasks)
        self.retried += sum(task.status is _QUEUED for task in tasks)

    # --- keeping ---

    def encoded(self) -> bytes:
        """The minute as it is kept."""
        counts = {name: getattr(self, name) for name in COUNTS}
        waits, runs = _sparse(self.waits), _sparse(self.runs)
        return _encode(
            _Kept(
                **counts, queued=self.queued, looked=self.looked, waits=waits, runs=runs, errors=self.errors
            )
        )

    def merge(self, data: bytes) -> None:
        """Add what was kept of this minute. Raises ValueError for what is no minute."""
        kept = _decode(data)
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(kept, name))
        if kept.looked >= self.looked:
            self.queued, self.looked = kept.queued, kept.looked
        _fill(self.waits, kept.waits)
        _fill(self.runs, kept.runs)
        for group, failures in kept.errors.items():
            known = self.errors.setdefault(group, failures)
            if known is not failures:
                known.add(failures)


def _sparse(histogram: Histogram) -> list[tuple[int, int]]:
    return [(bucket, n) for bucket, n in enumerate(histogram.counts) if n]


def _fill(histogram: Histogram, pairs: Sequence[tuple[int, int]]) -> None:
    last = len(histogram.counts) - 1
    for bucket, n in pairs:
        histogram.counts[min(bucket, last)] += n
