"""A lane: one connection on which calls gather. While a statement is under way new calls wait together; the next
statement takes them all. When idle, a single call goes at once: there is no waiting window.

Each group of calls is served by one statement, answered after its commit. A call that cannot be served does not fail
its neighbours. A lane whose database is away says so at once, and connects again with the calls that come.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from jobpipe import randomness
from jobpipe.core.errors import JobpipeError, StorageError
from jobpipe.storage.postgres.link import Again, Gone, Link, Refused

log = logging.getLogger("jobpipe.storage")

MAX_GATHERED = 2048
"""Calls of one statement at most: a bound on how long the first of them waits."""
MAX_TASKS = 1_000
"""Tasks after which a statement takes no further call: while the database works on one, the loop reads the next."""
DEADLOCKS = 3
"""So often a statement that was rolled back for another's sake is sent again."""
PAUSE_S = 0.25
"""Between two attempts to connect, times a random factor, so that servers do not come back all at once."""


class Call:
    """One call of the contract on its way through a lane; `group` names those that are served together,
    `weight` is about how many tasks it moves."""

    __slots__ = ("answer", "argument", "future", "group", "weight")

    def __init__(self, group: str, argument: Any, future: asyncio.Future[Any], weight: int = 1) -> None:
        self.group = group
        self.weight = weight
        self.argument = argument
        self.future = future
        self.answer: Any = None


Calls = Sequence[Call]
Serve = Callable[["Lane", Calls], Awaitable[None]]
"""Sets the answers of its calls, or raises and did nothing that it cannot answer for."""


class Lane:
    """`groups` in the order in which they are served; `prepare` is run on each new link before anything else."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Link]],
        groups: dict[str, Serve],
        prepare: Callable[[Link], Awaitable[None]] | None = None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._groups = groups
        self._prepare = prepare
        self._waiting: list[Call] = []
        self._bell = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._not_before = 0.0
        self._closing = False
        self.failure: StorageError | None = None
        """Why the latest attempt to reach the database failed."""

    async def start(self) -> None:
        """Connect, and begin to serve. Raises StorageError."""
        await self.link()
        self._runner = asyncio.get_running_loop().create_task(self._run(), name=f"jobpipe-{self._name}")

    @property
    def is_open(self) -> bool:
        return self._runner is not None and not self._closing

    def call(self, group: str, *argument: Any, weight: int = 1) -> asyncio.Future[Any]:
        """Hand a call in; the future ends after its commit. Raises StorageError when the store is not open."""
        if not self.is_open:
            raise StorageError("the store is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._soon)
        self._waiting.append(Call(group, argument, future, weight))
        return future

    def _soon(self) -> None:
        # Two turns of the loop, so that what arrives together, and a claim that follows a settle, go together.
        asyncio.get_running_loop().call_soon(self._bell.set)

    async def stop(self) -> None:
        """Serve what was handed in, and close; safe when called twice or never started."""
        self._closing = True
        self._bell.set()
        if self._runner is not None:
            await asyncio.wait([self._runner])
        if self._link is not None:
            link, self._link = self._link, None
            await link.close()

    async def link(self) -> Link:
        """The link that lives, else a new one. Raises StorageError, at once while the last attempt is fresh."""
        if self._link is not None and self._link.alive:
            return self._link
        now = asyncio.get_running_loop().time()
        if now < self._not_before and self.failure is not None:
            raise StorageError(str(self.failure))
        try:
            link = await self._connect()
            if self._prepare is not None:
                await self._prepare(link)
        except StorageError as error:
            self._not_before = asyncio.get_running_loop().time() + PAUSE_S * (0.5 + randomness.random())
            if self.failure is None:
                log.warning("%s", error)
            self.failure = error
            raise StorageError(str(error)) from error
        if self.failure is not None:
            log.info("the database is back")
        self.failure = None
        self._link = link
        return link

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                calls = self._taken()
                for name, serve in self._groups.items():
                    group = [call for call in calls if call.group == name]
                    if group:
                        await self._guard(serve, group)
                        _deliver(group)

    def _taken(self) -> list[Call]:
        """The calls of the next statements, taken from those that wait."""
        n = weight = 0
        while n < len(self._waiting) and n < MAX_GATHERED and weight < MAX_TASKS:
            weight += self._waiting[n].weight
            n += 1
        calls, self._waiting = self._waiting[:n], self._waiting[n:]
        return calls

    async def _guard(self, serve: Serve, calls: list[Call]) -> None:
        try:
            for _ in range(DEADLOCKS):
                with contextlib.suppress(Again):
                    return await serve(self, calls)
            await serve(self, calls)
        except Gone as error:
            log.warning("%s", error)
            _answer_all(calls, error)
        except StorageError as error:
            _answer_all(calls, error)
        except asyncio.CancelledError:
            _answer_all(calls, StorageError("the store was closed"))
            raise
        except Exception as error:
            if len(calls) > 1:  # a call that cannot be served must not fail its neighbours
                for call in calls:
                    await self._guard(serve, [call])
                return None
            if not isinstance(error, Refused | ValueError | OverflowError):
                log.exception("a call to the store failed")
            _answer_all(calls, StorageError(f"{type(error).__name__}: {error}"))


def _answer_all(calls: Calls, error: JobpipeError) -> None:
    for call in calls:
        call.answer = error


def _deliver(calls: Calls) -> None:
    for call in calls:
        if call.future.done():  # the caller went away; what was committed stands
            continue
        if isinstance(call.answer, JobpipeError):
            call.future.set_exception(call.answer)
        else:
            call.future.set_result(call.answer)
