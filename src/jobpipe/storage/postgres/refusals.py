"""What the database refuses now: the first refusal of each kind is logged, and its recovery; what was refused a moment
ago tells readiness that the job is not done, whatever a probe says."""

from __future__ import annotations

import logging
import time

from jobpipe.core.errors import StorageError
from jobpipe.storage.postgres.link import Refused

log = logging.getLogger("jobpipe.storage")

FRESH_S = 10.0
"""So long after a refusal calls of its kind are not expected to be served."""
QUIET_S = 60.0
"""A kind that comes and goes is logged so often at most."""


class Refusals:
    """By kind of call, and by what the database said of it."""

    def __init__(self) -> None:
        self._standing: dict[str, dict[str, str]] = {}
        self._latest: dict[str, tuple[float, StorageError]] = {}
        self._logged: dict[tuple[str, str], float] = {}

    def refused(self, kind: str, error: StorageError) -> None:
        """A call of this kind was not served."""
        cause = error.__cause__ or error
        if isinstance(cause, Refused):  # for a value of its own: no matter of the database's
            return
        name, now = type(cause).__name__, time.monotonic()
        self._latest[kind] = (now, error)
        standing = self._standing.setdefault(kind, {})
        if name not in standing and now - self._logged.get((kind, name), -QUIET_S) >= QUIET_S:
            self._logged[kind, name] = now
            standing[name] = str(error)
            log.warning("%s is refused: %s", kind, error)

    def served(self, kind: str) -> None:
        """A call of this kind was."""
        if self._latest:
            self._latest.pop(kind, None)
            if self._standing.pop(kind, None):
                log.info("%s is served again", kind)

    def fresh(self, kinds: frozenset[str]) -> StorageError | None:
        """The error of a call of these kinds that was refused a moment ago and not served since."""
        since = time.monotonic() - FRESH_S
        return next(
            (error for kind, (at, error) in self._latest.items() if kind in kinds and at > since), None
        )
