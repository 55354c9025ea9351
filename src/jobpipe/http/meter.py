"""What was asked over HTTP and how it was answered, whichever lane did: for `/metrics`, and for the log at DEBUG.

Routes are told by their templates and never by what was sent: a path holds ids, a query may hold anything.
"""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger("jobpipe.requests")

NO_ROUTE: Final = "none"
"""Of requests to paths that do not exist, and of what was refused before it could be read."""


class Meter:
    """The answers of one edge, by route and status."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, int], int] = {}

    def begin(self) -> float:
        """When a request began, for `answered`; 0 while nobody logs requests."""
        return time.perf_counter() if log.isEnabledFor(logging.DEBUG) else 0.0

    def answered(self, method: str, route: str, status: int, began: float = 0.0) -> None:
        """A request was answered with `status`."""
        key = route, status
        answers = self.answers
        answers[key] = answers.get(key, 0) + 1
        if began:
            self._log(method, route, status, (time.perf_counter() - began) * 1000)

    def _log(self, method: str, route: str, status: int, ms: float) -> None:
        fields = {"method": method, "route": route, "status": status, "ms": round(ms, 3)}
        log.debug("%s %s %d in %.3f ms", method, route, status, ms, extra=fields)
