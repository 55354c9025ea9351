"""Answers that many ask for at once: made once, and given to all who ask within a moment.

What is asked for is rounded by the caller, so that a hundred dashboards ask for the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

MOST = 64
"""Answers that are kept at a time."""


class SharedAnswers:
    """Bodies by what was asked. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._made: dict[object, tuple[float, asyncio.Task[bytes]]] = {}

    async def get(
        self, asked: object, make: Callable[[], Coroutine[Any, Any, bytes]], good_for: float
    ) -> bytes:
        """The body for `asked`, as it was at most `good_for` seconds ago. Raises what `make` raises."""
        now = self._monotonic()
        until, making = self._made.get(asked, (0.0, None))
        if making is None or (making.done() and (now >= until or _failed(making))):
            self._forget(now)
            making = asyncio.get_running_loop().create_task(make())
            making.add_done_callback(_failed)  # nobody may be left to take its failure
            self._made[asked] = (now + good_for, making)
        # Shielded: who asked first may go away, the others wait on.
        return await asyncio.shield(making)

    def _forget(self, now: float) -> None:
        """Forget what is stale, and at the bound what was made first."""
        for asked, (until, making) in list(self._made.items()):
            if making.done() and (now >= until or len(self._made) >= MOST):
                del self._made[asked]


def _failed(made: asyncio.Task[bytes]) -> bool:
    return made.cancelled() or made.exception() is not None
