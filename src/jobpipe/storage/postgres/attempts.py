"""When a claim is worth its look at a queue with rules, so that claims beside one that may start nothing pay nothing.

A look that finds a queue shut says what can open it: time, or the end of a run. What only comes to wait there is no
reason for another look until then. Times are the database's, in ms.
"""

from __future__ import annotations

from collections.abc import Collection

AGAIN_MS = 20
"""After a look in vain: the news of other servers are no reason for another one earlier."""
BUSY_MS = 5
"""When to look again for a queue that another server claims from."""
SHUT = 1 << 62
"""Only the end of a run, or other rules, can let another start."""


class Attempts:
    """What is known of the queues that obey rules."""

    def __init__(self) -> None:
        self._due: dict[str, int] = {}
        self._opens: dict[str, int] = {}
        """What comes to wait is no reason for a look before then."""
        self._tried: dict[str, int] = {}
        self._woken: list[tuple[str, int]] | None = None

    def wake(self, queue: str, at: int) -> None:
        """A task waits there that is due at `at`."""
        self._lower(queue, max(at, self._opens.get(queue, 0)))

    def open(self, queue: str) -> None:
        """A run ended, or other rules hold: whatever was known does not count any more."""
        self._opens.pop(queue, None)
        self._lower(queue, 0)

    def heard(self, queue: str, at: int) -> None:
        """Another server did something, and a task that is due at `at` waits."""
        opens = self._opens.get(queue, 0)
        self._lower(queue, max(at, self._tried.get(queue, 0) + AGAIN_MS, 0 if opens == SHUT else opens))

    def keep(self, obeyed: Collection[str]) -> None:
        """These alone obey rules."""
        for known in (self._due, self._opens, self._tried):
            for queue in known.keys() - set(obeyed):
                del known[queue]

    def due(self, queues: frozenset[str] | None, now: int) -> list[str]:
        """Those of `queues` (None: all) that are worth a look."""
        return sorted(
            queue for queue, at in self._due.items() if at <= now and (queues is None or queue in queues)
        )

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """When the next of `queues` (None: all) is worth a look."""
        return min((at for queue, at in self._due.items() if queues is None or queue in queues), default=None)

    def watch(self) -> None:
        """A look begins: what comes from here on may not be seen by it."""
        self._woken = []

    def looked(self, queue: str, now: int, next_due: int | None, opens: int) -> None:
        """A look, begun with `watch`, found when the next task may start, and that none can before `opens`."""
        self._tried[queue] = now
        self._opens[queue] = opens
        if next_due is None:
            self._due.pop(queue, None)
        else:
            self._due[queue] = next_due

    def seen(self) -> None:
        """The look is over: what came meanwhile is told again."""
        woken, self._woken = self._woken or [], None
        for queue, at in woken:
            if at:
                self.wake(queue, at)
            else:
                self.open(queue)

    def _lower(self, queue: str, at: int) -> None:
        if self._woken is not None:
            self._woken.append((queue, at))
        if at < SHUT and at < self._due.get(queue, SHUT):
            self._due[queue] = at
