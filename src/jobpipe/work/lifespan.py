"""What an app needs while its handlers run: made before the first task, undone after the last.

A lifespan is an async context manager function that takes the app; what it yields is every handler's `ctx.deps`.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, TypeVar

from jobpipe.core.errors import JobpipeError
from jobpipe.work.groups import leaf_of

A = TypeVar("A")
T = TypeVar("T")


class LifespanFailed(JobpipeError):
    """An app's lifespan raised; one line that says what and where."""

    code: ClassVar[str] = "lifespan_failed"
    sentence: ClassVar[str] = "the app's lifespan failed"


@asynccontextmanager
async def entered(lifespan: Callable[[A], AbstractAsyncContextManager[T]], app: A) -> AsyncIterator[T]:
    """The lifespan's value for the time that it lasts. Raises LifespanFailed when it fails to begin or to end.

    What is raised inside reaches the lifespan and comes out unchanged.
    """
    try:
        manager = lifespan(app)
        value = await type(manager).__aenter__(manager)
    except Exception as error:
        raise LifespanFailed(f"the app's lifespan did not begin: {_line(error)}") from error
    try:
        yield value
    except BaseException as error:
        if not await type(manager).__aexit__(manager, type(error), error, error.__traceback__):
            raise
    else:
        try:
            await type(manager).__aexit__(manager, None, None, None)
        except Exception as error:
            raise LifespanFailed(f"the app's lifespan did not end: {_line(error)}") from error


class Stay:
    """A stay in the context that `make` gives: an asyncio.Task of its own that enters it, stays, and leaves it.

    For those who cannot hold an `async with` around it all. A lifespan may hold what belongs to one asyncio.Task (a
    task group, a cancel scope), and one whose event loop is closed before it was left must still end in order.
    """

    def __init__(self, make: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self.loop = asyncio.get_running_loop()
        self._make = make
        self._inside: asyncio.Future[None] = self.loop.create_future()
        self._leave = asyncio.Event()
        self._task = self.loop.create_task(self._stay(), name="jobpipe-lifespan")

    @property
    def over(self) -> bool:
        """Whether it was left, or can be no more."""
        return self._task.done() or self.loop.is_closed()

    async def entered(self) -> None:
        """Return when inside. Raises what entering raised."""
        await asyncio.wait([self._task, self._inside], return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task

    def leave(self) -> None:
        """Ask it to leave; one that is not inside yet is cancelled."""
        self._leave.set()
        if not self._inside.done():
            self._task.cancel()

    async def left(self) -> None:
        """Leave. Raises what leaving raised, and nothing the second time."""
        if not self._task.done():
            self.leave()
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def _stay(self) -> None:
        async with self._make():
            if not self._inside.done():
                self._inside.set_result(None)
            try:
                await self._leave.wait()
            except asyncio.CancelledError:
                return  # the loop is about to close: the context is left as it would be otherwise


def _line(raised: BaseException) -> str:
    error = leaf_of(raised)
    what = " ".join(str(error).split())
    frames: Any = traceback.extract_tb(error.__traceback__) or traceback.extract_tb(raised.__traceback__)
    return f"{type(error).__name__}: {what} ({frames[-1].filename}:{frames[-1].lineno})"
