"""What the parts of the engine share: the kept counts, the levels, the database's time, what it
refuses, and whom to tell of news."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from jobpipe.clock import Clock
from jobpipe.storage.postgres.counts import Counts
from jobpipe.storage.postgres.dbtime import DatabaseTime
from jobpipe.storage.postgres.levels import Levels
from jobpipe.storage.postgres.refusals import Refusals


class Shared:
    """One server's memory of the database; the database alone is the truth."""

    def __init__(self, clock: Clock) -> None:
        self.server = secrets.token_hex(8)
        """This server's start: new each time."""
        self.clock = clock
        self.time = DatabaseTime(clock)
        self.counts = Counts()
        self.levels = Levels(self.time)
        self.news: Callable[[], None] = _nobody
        """Called when something was committed that another server may wait for."""
        self.look_again: Callable[[], None] = _nobody
        """Called when something may be claimed, or must be ended, that this server was not told of."""
        self.refusals = Refusals()
        self.alive_ms = 15_000
        """Without a sign for so long, a server's own workers have lost their claims."""
        self.longest_lease_ms = 60_000
        """The longest lease that this server gave or prolonged, or a usual one."""
        self.others = 0
        """How many other servers share the database, as far as is known."""


def _nobody() -> None:
    """There is nobody to tell."""
