"""Whose time counts: a store goes by the clocks of its server, or by that of a database that many servers share."""

from __future__ import annotations

from pathlib import Path

from jobpipe.runtime.clock import ManualClock


class DatabaseClock(ManualClock):
    """A manual clock that a database reads from `file`, and goes by. A jump of the wall clock is the server's alone."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._there = self.now()
        self._tell()

    def there(self) -> int:
        """The database's time in milliseconds since the epoch."""
        return self._there

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._there += round(seconds * 1000)
        self._tell()

    def step(self, seconds: float) -> None:
        """The database's clock is set to another time, while time goes on as ever."""
        self._there += round(seconds * 1000)
        self._tell()

    def _tell(self) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(str(self._there))
        beside.chmod(0o644)
        beside.replace(self._file)


class Times:
    """The times that a store writes and judges by, beside those of its callers' wall clock."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._database = clock if isinstance(clock, DatabaseClock) else None

    def now(self) -> int:
        """What is stored for this moment, in milliseconds."""
        return self._clock.now() if self._database is None else self._database.there()

    def there(self, at: int) -> int:
        """A moment of the caller's wall clock as it is stored."""
        return at - self._clock.now() + self.now()

    def here(self, at: int | None) -> int | None:
        """A stored moment as the caller is told it."""
        return None if at is None else at + self._clock.now() - self.now()

    def seconds(self) -> float:
        """The clock that leases are judged by."""
        return self._clock.monotonic() if self._database is None else self._database.there() / 1000

    def after(self, lease_s: float) -> float:
        """When a lease ends that begins now, on that clock. Exact: a database counts whole milliseconds."""
        if self._database is None:
            return self._clock.monotonic() + lease_s
        return (self._database.there() + round(lease_s * 1000)) / 1000
