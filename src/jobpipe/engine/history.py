"""The history of the charts: every minute in which something happened, counted here, kept in the store for days.

It observes the queue, writes a minute once it is over (by an alarm that only an event sets: an idle server writes
nothing), and at close the one that runs. A minute that cannot be written stays in memory and is tried again. Reading
adds up what is stored, by all servers, and what is still in memory.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Claim, Status, Task
from jobpipe.engine.minutes import Minute
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import Summary
from jobpipe.storage.contract import Past

log = logging.getLogger("jobpipe.history")

MINUTE_MS = 60_000
KEPT_MINUTES = 7 * 24 * 60
MOST_WAITING = 24 * 60
"""Minutes that wait in memory for a store that takes none: the oldest go first."""
STEP = 120
"""Minutes that are read at a time, so that a week of them does not hold the loop."""
AGAIN_S = 15.0
"""After the store took none: there is no hurry, and every try of it may be a line in the log."""
LATE_S = 0.05
"""After the turn of the minute: timers may ring a little early."""


class History:
    """An Observer of one queue, and what it saw."""

    def __init__(self, storage: Past, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._server = secrets.token_hex(6)
        self._now: Minute | None = None
        self._unkept: dict[tuple[int, str], Minute] = {}
        """All that the store does not hold as it is here, the running minute included, the oldest first."""
        self.on_begin: Callable[[float], object] = _nothing
        """Called when something happens in a new minute, with the seconds until that is over."""

    # --- told by the queue ---

    def accepted(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        self._minute(self._clock.now()).enqueued += len(tasks)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See Observer."""
        self._minute(self._clock.now()).began(claims)

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        now = self._clock.now()
        self._minute(now).ended(ends, now)

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        self._minute(self._clock.now()).steered(tasks)

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer: what is deleted by hand had its end before."""

    def _minute(self, now: int) -> Minute:
        number = now // MINUTE_MS
        if self._now is not None and self._now.minute == number:
            return self._now
        if self._now is not None and self._now.minute > number:
            # The wall clock was set back: under another name, what is counted now does not replace what was kept then.
            self._server = secrets.token_hex(6)
        minute = self._now = Minute(number)
        self._unkept[number, self._server] = minute
        while len(self._unkept) > MOST_WAITING:
            del self._unkept[next(iter(self._unkept))]
        self.on_begin(_left_s(now))
        return minute

    # --- keeping ---

    async def run_once(self, now: int) -> float | None:
        """Keep what is over; answer the seconds until there is more to keep, None when nothing happened since."""
        over = [key for key, minute in self._unkept.items() if minute.minute != now // MINUTE_MS]
        try:
            await self._keep(over)
        except StorageError as error:
            log.info("%d minutes of the charts wait for the store: %s", len(over), error)
            return AGAIN_S
        return _left_s(now) if self._unkept else None

    async def close(self) -> None:
        """Keep all, the running minute too, so that the charts outlive a restart. A failure is only logged."""
        try:
            await self._keep(list(self._unkept))
        except StorageError as error:
            log.warning("the latest minutes of the charts are lost: %s", error)
        self._unkept.clear()
        self._now, self._server = None, secrets.token_hex(6)

    async def _keep(self, keys: Sequence[tuple[int, str]]) -> None:
        for key in keys:
            minute = self._unkept[key]
            await self._look(minute)
            summary = Summary(*key, minute.encoded())
            await self._storage.keep_summary(summary, minute.minute - KEPT_MINUTES)
            self._unkept.pop(key, None)
            if minute is self._now:
                self._now = None

    async def _look(self, minute: Minute) -> None:
        """How many tasks wait is looked up once a minute, and when somebody asks: counting along would cost more."""
        minute.queued = (await self._storage.counts()).get(Status.QUEUED, 0)
        minute.looked = self._clock.now()

    # --- reading ---

    async def minutes(self, since: int, until: int) -> AsyncIterator[list[Minute]]:
        """The minutes in which something happened, from `since` to before `until`, in order, some at a time.

        Raises StorageError.
        """
        # Before the first look into the store: what is kept meanwhile is neither missed nor counted twice.
        here = dict(self._unkept)
        since = max(since, self._clock.now() // MINUTE_MS - KEPT_MINUTES)
        for start in range(since, until, STEP):
            end = min(start + STEP, until)
            yield await self._read(start, end, here)

    async def _read(self, start: int, end: int, here: dict[tuple[int, str], Minute]) -> list[Minute]:
        found: dict[int, Minute] = {}
        for summary in await self._storage.summaries(start, end):
            if (summary.minute, summary.server) not in here:
                _merge(found, summary.minute, summary.data)
        for (number, _), minute in here.items():
            if start <= number < end:
                await self._look(minute)
                _merge(found, number, minute.encoded())
        return [found[number] for number in sorted(found)]


def _merge(found: dict[int, Minute], number: int, data: bytes) -> None:
    minute = found.get(number) or Minute(number)
    try:
        minute.merge(data)
    except ValueError:
        log.debug("a minute of the charts cannot be read", exc_info=True)
    else:
        found[number] = minute


def _left_s(now: int) -> float:
    """Seconds until the minute of `now` is over."""
    return (MINUTE_MS - now % MINUTE_MS) / 1000 + LATE_S


def _nothing(_: float) -> None:
    """The alarm that nobody set."""
