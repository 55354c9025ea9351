"""The database's time as this server knows it: told with answers, carried on by the monotonic clock in between.

The database's clock judges. Callers give and get times of their own wall clock; only differences pass from one to the
other, so that a clock that is wrong, or jumps, moves nothing.
"""

from __future__ import annotations

from jobpipe.clock import Clock


class DatabaseTime:
    """An estimate that is at most as old as the last answer, and never judges."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset = 0.0

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
