"""How each handler does, on this server since its start: by hour over a day, lately, and by the release of its workers.

Names come from outside: past a bound, handlers, releases and queues are not looked at one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from msgspec import Struct

from jobpipe.core.histogram import Histogram
from jobpipe.core.lifecycle import Kind, Transition
from jobpipe.core.task import Claim, Task, TaskError
from jobpipe.runtime.clock import Clock

MOST_HANDLERS = 200
MOST_RELEASES = 8
MOST_QUEUES = 20
MOST_ERRORS = 10
HOURS = 24
LATELY_MIN = 5
HOUR_MS, MINUTE_MS = 3_600_000, 60_000

_DONE = Kind.DONE


class Runs:
    """Runs that ended within some time: how many, how many of them not well, and their seconds."""

    __slots__ = ("failed", "runs", "seconds", "waits")

    def __init__(self) -> None:
        self.runs = self.failed = 0
        self.seconds = Histogram()
        self.waits = Histogram()

    def add(self, other: Runs) -> None:
        """Take in the runs of another time."""
        self.runs += other.runs
        self.failed += other.failed
        self.seconds.merge(list(other.seconds.counts), other.seconds.sum)
        self.waits.merge(list(other.waits.counts), other.waits.sum)


class Failure(Struct, frozen=True):
    """An unsuccessful run: of which task, and why."""

    task_id: str
    error: TaskError


class Handler:
    """What is known of one handler. Hours and minutes are counted since the epoch, the oldest first."""

    def __init__(self) -> None:
        self.hours: dict[int, Runs] = {}
        self.minutes: dict[int, list[int]] = {}
        """Of the last minutes: [runs, failed]."""
        self.releases: dict[int, tuple[int, Runs]] = {}
        """By release: since when (ms), and its runs."""
        self.queues: dict[str, None] = {}
        self.errors: deque[Failure] = deque(maxlen=MOST_ERRORS)

    def hour(self, now: int) -> Runs:
        """The hour that it is; of those of more than a day ago nothing stays."""
        at = now // HOUR_MS
        found = self.hours.get(at)
        if found is None:
            found = self.hours[at] = Runs()
            self.hours = {hour: runs for hour, runs in self.hours.items() if hour > at - HOURS}
        return found

    def lately(self, now: int) -> tuple[int, int]:
        """Runs, and those of them that failed, in the last minutes."""
        since = now // MINUTE_MS - LATELY_MIN
        kept = [counts for minute, counts in self.minutes.items() if minute > since]
        return sum(counts[0] for counts in kept), sum(counts[1] for counts in kept)

    def day(self, now: int) -> Runs:
        """All runs of the last day."""
        day = Runs()
        for hour, runs in self.hours.items():
            if hour > now // HOUR_MS - HOURS:
                day.add(runs)
        return day

    def ended(self, now: int, runs: int, failed: int) -> None:
        """Count runs of this minute."""
        minute = now // MINUTE_MS
        counts = self.minutes.get(minute)
        if counts is None:
            counts = self.minutes[minute] = [0, 0]
            self.minutes = {at: kept for at, kept in self.minutes.items() if at > minute - LATELY_MIN}
        counts[0] += runs
        counts[1] += failed


class Handlers:
    """An Observer. `release_of` gives the release of a worker by its id, None where it is not known."""

    def __init__(self, clock: Clock, release_of: Callable[[str], int | None]) -> None:
        self.known: dict[str, Handler] = {}
        self._clock = clock
        self._release_of = release_of

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See Observer."""
        now = self._clock.now()
        waits: dict[str, list[float]] = {}
        for claim in claims:
            task = claim.task
            if task.started_at is not None:
                waits.setdefault(task.handler, []).append(max(0, task.started_at - task.run_at) / 1000)
        for name, values in waits.items():
            handler = self._of(name)
            if handler is not None:
                handler.hour(now).waits.add_all(values)

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        now = self._clock.now()
        alike: dict[tuple[str, str | None, str], list[tuple[Task, Transition]]] = {}
        for task, to in ends:
            if to.kind is _DONE or to.ran:
                alike.setdefault((task.handler, task.worker, task.queue), []).append((task, to))
        for (name, worker, queue), group in alike.items():
            handler = self._of(name)
            if handler is not None:
                _note(handler, self._release_of(worker or ""), queue, group, now)

    def accepted(self, tasks: Sequence[Task]) -> None:
        """See Observer: nothing ran."""

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer: nothing ran."""

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer: nothing ran."""

    def _of(self, name: str) -> Handler | None:
        found = self.known.get(name)
        if found is None and len(self.known) < MOST_HANDLERS:
            found = self.known[name] = Handler()
        return found


def _note(
    handler: Handler, release: int | None, queue: str, ends: Sequence[tuple[Task, Transition]], now: int
) -> None:
    """Runs of one queue by one worker."""
    failures = [Failure(task.id, to.error) for task, to in ends if to.error is not None]
    seconds = [max(0, now - (task.started_at or now)) / 1000 for task, _ in ends]
    handler.ended(now, len(ends), len(failures))
    for runs in (handler.hour(now), _of_release(handler, release, now)):
        if runs is not None:
            runs.runs += len(ends)
            runs.failed += len(failures)
            runs.seconds.add_all(seconds)
    if queue not in handler.queues and len(handler.queues) < MOST_QUEUES:
        handler.queues[queue] = None
    handler.errors.extend(failures)


def _of_release(handler: Handler, release: int | None, now: int) -> Runs | None:
    if release is None:
        return None
    found = handler.releases.get(release)
    if found is None:
        found = handler.releases[release] = now, Runs()
        if len(handler.releases) > MOST_RELEASES:
            del handler.releases[min(handler.releases)]
    return found[1]
