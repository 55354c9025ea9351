"""Answers that many ask for at once: made once, and given to all who ask within a moment.

The moment is a second, or longer for what takes long to make, so that making answers takes a twentieth of the time at
most. What is asked for is rounded by the caller, so that a hundred dashboards ask for the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

GOOD_FOR_S = 1.0
TIMES_AS_LONG = 20
"""An answer is given for so many times as long as it took to make."""
MOST = 64
"""Answers that are kept at a time."""


class SharedAnswers:
    """Bodies by what was asked. `monotonic` gives seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._made: dict[object, _Answer] = {}

    async def get(self, asked: object, make: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        """The body for `asked`, as it was a moment ago at most. Raises what `make` raises."""
        answer = self._made.get(asked)
        if answer is None or answer.stale(self._monotonic()):
            self._forget()
            answer = self._made[asked] = _Answer(make(), self._monotonic)
        # Shielded: who asked first may go away, the others wait on.
        return await asyncio.shield(answer.making)

    def _forget(self) -> None:
        """Forget what is stale, and at the bound what was made first."""
        now = self._monotonic()
        for asked, answer in list(self._made.items()):
            if answer.stale(now) or (answer.making.done() and len(self._made) >= MOST):
                del self._made[asked]


class _Answer:
    """An answer that is being made, or was."""

    def __init__(self, make: Coroutine[Any, Any, bytes], monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self._until: float | None = None
        self.making = asyncio.get_running_loop().create_task(make)
        self.making.add_done_callback(self._ended)

    def stale(self, now: float) -> bool:
        """Whether it must be made anew."""
        return self._until is not None and now >= self._until

    def _ended(self, made: asyncio.Task[bytes]) -> None:
        now = self._monotonic()
        # Asked for its failure here too: nobody else may be left to take it.
        failed = made.cancelled() or made.exception() is not None
        self._until = now if failed else now + max(GOOD_FOR_S, TIMES_AS_LONG * (now - self._began))
