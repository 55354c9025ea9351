"""What the parts of the engine share: the kept counts, the levels, the rules, the database's time, what it
refuses, and whom to tell of news."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection

from jobpipe.runtime.clock import Clock
from jobpipe.storage.postgres.attempts import Attempts
from jobpipe.storage.postgres.counts import Counts
from jobpipe.storage.postgres.dbtime import DatabaseTime
from jobpipe.storage.postgres.levels import Levels
from jobpipe.storage.postgres.refusals import Refusals
from jobpipe.storage.postgres.room import Room
from jobpipe.storage.postgres.rulebook import RuleBook


class Shared:
    """One server's memory of the database; the database alone is the truth."""

    def __init__(self, clock: Clock) -> None:
        self.server = secrets.token_hex(8)
        """This server's start: new each time."""
        self.clock = clock
        self.time = DatabaseTime(clock)
        self.counts = Counts()
        self.levels = Levels(self.time)
        self.rulebook = RuleBook()
        self.attempts = Attempts()
        self.levels.came, self.levels.heard = self.attempts.wake, self.attempts.heard
        self.rulebook.told = self._ruled
        self.room = Room(self.counts, self.rulebook)
        self.news: Callable[..., None] = _nobody
        """Called when something was committed that another server may wait for: as Company.news."""
        self.look_again: Callable[[], None] = _nobody
        """Called when something may be claimed, or must be ended, that this server was not told of."""
        self.refusals = Refusals()
        self.alive_ms = 15_000
        """Without a sign for so long, a server's own workers have lost their claims."""
        self.longest_lease_ms = 60_000
        """The longest lease that this server gave or prolonged, or a usual one."""
        self.others = 0
        """How many other servers share the database, as far as is known."""

    def _ruled(self, changed: Collection[str]) -> None:
        """The rules of these queues are others than before."""
        obeyed = self.rulebook.obeyed
        self.levels.rule(obeyed)
        self.attempts.keep(obeyed)
        for queue in obeyed.intersection(changed):
            self.attempts.open(queue)
        self.look_again()


def _nobody(*, old: bool = False) -> None:
    """There is nobody to tell."""
