"""The database's time as this server knows it: told with answers, carried on by the monotonic clock in between.

The database's clock judges. Callers give and get times of their own wall clock; only differences pass from one to the
other, so that a clock that is wrong, or jumps, moves nothing.
"""

from __future__ import annotations

from jobpipe.runtime.clock import Clock

APART_MS = 1000
"""A step is more than that."""
DRIFT_MS = 1.0
"""In a second two clocks may go so far apart."""


class DatabaseTime:
    """An estimate that is at most as old as the last answer, and never judges."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0
        self._known: tuple[float, float, int] | None = None
        self.step_s = 0.0
        """The latest step of the database's clock, 0 while there was none."""

    def measured(self, began: float, ended: float, now: int) -> int:
        """The database said `now` between these two monotonic seconds; by how many ms its clock has stepped.

        What a slow answer, or clocks that run a little apart, may explain is none.
        """
        known, self._known = self._known, (began, ended, now)
        self.observe(now)
        if known is None:
            return 0
        early, late, before = known
        least, most = before + (began - late) * 1000, before + (ended - early) * 1000
        some = APART_MS + (ended - early) * DRIFT_MS
        step = now - most if now > most + some else now - least if now < least - some else 0.0
        if step:
            self.step_s = step / 1000
        return round(step)

    def observe(self, now: int) -> None:
        """The database's time was told."""
        self._offset = now - self._clock.monotonic() * 1000

    def now(self) -> int:
        """The database's time, about."""
        return round(self._clock.monotonic() * 1000 + self._offset)

    def here(self, at: int | None) -> int | None:
        """A time of the database as one of the caller's wall clock."""
        return None if at is None else at - self.now() + self._clock.now()

    def there(self, at: int | None) -> int | None:
        """A time of the caller's wall clock as one of the database."""
        return None if at is None else at - self._clock.now() + self.now()
