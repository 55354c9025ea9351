"""One outage is two lines in the log, however many attempts it takes and however many connections notice it.

A key that is refused is told too, also amid an outage: that does not pass by itself.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from jobpipe.core.errors import Forbidden, RateLimited, Unauthorized
from jobpipe.core.retry import RetryPolicy
from jobpipe.runtime.clock import Clock

logger = logging.getLogger(__name__)

BACKOFF: Final = RetryPolicy(base=0.1, jitter=0.0, cap=5.0)


LONGEST_S: Final = 60.0
"""The most that a Retry-After is believed."""


def pause(failures: int, random: Callable[[], float], error: Exception | None = None) -> float:
    """Seconds to wait after so many failures in a row: up to half of the backoff is left to chance.

    The share, and not a fixed jitter, spreads the return of many workers also when the backoff has grown. A server that
    was asked too often says itself, in the last `error`, how long to wait at least.
    """
    least = min(error.retry_after, LONGEST_S) if isinstance(error, RateLimited) else 0.0
    return max(least, BACKOFF.delay(failures, random) * (1 - random() / 2))


class Outage:
    """What the connections of one worker know of the server's state. May be used from any thread."""

    def __init__(self, server: str, clock: Clock) -> None:
        self._server = server
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        self._since = 0.0
        self._told = False
        """Whether it was said that the key is refused."""

    def failed(self, call: str, error: Exception) -> int:
        """Note that `call` failed; how often it did in a row."""
        with self._lock:
            refused = isinstance(error, Unauthorized | Forbidden) and not self._told
            if not self._failures:
                self._since = self._clock.monotonic()
            if not self._failures or refused:
                logger.warning("%s of %s failed, trying on: %s", call, self._server, error)
            self._told = self._told or refused
            self._failures[call] = self._failures.get(call, 0) + 1
            return self._failures[call]

    def succeeded(self, call: str) -> None:
        """Note that `call` was answered."""
        if (
            call not in self._failures
        ):  # the usual case, without the lock: only the caller itself adds this key
            return
        with self._lock:
            del self._failures[call]
            if not self._failures:
                self._told = False
                lasted = self._clock.monotonic() - self._since
                logger.info("%s answers again, after %.1f s", self._server, lasted)
