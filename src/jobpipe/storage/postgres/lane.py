"""A lane: one connection on which calls gather. While a statement is under way new calls wait together; the next
statement takes them all. When idle, a single call goes at once: there is no waiting window.

Each group of calls is served by one statement, answered after its commit. A call that cannot be served does not fail
its neighbours. A lane whose database is away says so at once, and connects again with the calls that come. No wait is
without an end: a call that is not begun within WAIT_S is answered that it was not, and a stop waits for STOP_S.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from jobpipe.core.errors import StorageError
from jobpipe.runtime import randomness
from jobpipe.storage.calls import READ, STEER, A, Call, T, deliver, fail, grouped, hand_slices
from jobpipe.storage.postgres.link import Again, Gone, Link, Refused
from jobpipe.storage.postgres.refusals import Refusals

log = logging.getLogger("jobpipe.storage")

MAX_GATHERED = 2048
"""Calls of one statement at most: a bound on how long the first of them waits."""
MAX_TASKS = 1_000
"""Tasks after which a statement takes no further call: while the database works on one, the loop reads the next."""
DEADLOCKS = 3
"""So often a statement that was rolled back for another's sake is sent again."""
WAIT_S = 15.0
"""A call that was not begun by then will not be."""
STOP_S = 10.0
"""What a lane still has to do when it is stopped may take so long."""
PAUSE_S = 0.25
"""Between two attempts to connect, times a random factor, so that servers do not come back all at once."""


TRIES = 2
"""So often a call that was rolled back, or only asks, is sent again."""


class LaneCall(Call[A, T]):
    """A call with its name for people, and the time since when it waits."""

    __slots__ = ("born", "kind")

    def __init__(
        self, kind: str, turn: int, serve: Any, argument: A, future: asyncio.Future[T], *, weight: int
    ) -> None:
        super().__init__(turn, serve, argument, future, weight)
        self.kind = kind
        self.born = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether it waited for so long that it is not worth beginning."""
        return time.monotonic() - self.born >= WAIT_S


Calls = list[LaneCall[Any, Any]]


class Lane:
    """`prepare` is run on each new link before anything else."""

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Link]],
        prepare: Callable[[Link], Awaitable[None]] | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self.name = name
        self._connect = connect
        self._prepare = prepare
        self._waiting: Calls = []
        self._bell = asyncio.Event()
        self._runner: asyncio.Task[None] | None = None
        self._link: Link | None = None
        self._not_before = 0.0
        self._closing = False
        self._watch: asyncio.TimerHandle | None = None
        self._refusals = refusals or Refusals()
        self.failure: StorageError | None = None
        """Why the latest attempt to reach the database failed."""

    async def start(self) -> None:
        """Connect, and begin to serve. Raises StorageError."""
        await self.link()
        self._runner = asyncio.get_running_loop().create_task(self._run(), name=f"jobpipe-{self.name}")

    @property
    def is_open(self) -> bool:
        return self._runner is not None and not self._closing

    def call(self, kind: str, do: Callable[[Link], Awaitable[T]]) -> asyncio.Future[T]:
        """Have `do` done over the link; the future ends after its commit. Raises StorageError when it is not open.

        `kind` is its name for people.
        """
        return self.gather(kind, STEER, _each, do)

    def ask(self, kind: str, question: Callable[[Link], Awaitable[T]]) -> asyncio.Future[T]:
        """As `call`, for what may be sent again when the connection ended."""
        return self.gather(kind, READ, _each_again, question)

    def gather(
        self,
        kind: str,
        turn: int,
        serve: Callable[[Lane, Sequence[LaneCall[A, T]]], Awaitable[None]],
        argument: A,
        weight: int = 1,
    ) -> asyncio.Future[T]:
        """As `call`, for what one `serve` does for all that wait.

        It sets the answers of its calls, or raises and did nothing that it cannot answer for.
        """
        if not self.is_open:
            raise StorageError("the store is not open")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._soon)
        self._waiting.append(LaneCall(kind, turn, serve, argument, future, weight=weight))
        if self._watch is None:
            self._watch = loop.call_later(WAIT_S, self._expire)
        return future

    def _expire(self) -> None:
        """Answer those that have waited for too long, and look again when the next one will have."""
        late = [call for call in self._waiting if call.late]
        self._waiting = [call for call in self._waiting if not call.late]
        self._answer(late, late_error())
        self._watch = None
        if self._waiting:
            left = self._waiting[0].born + WAIT_S - time.monotonic()
            self._watch = asyncio.get_running_loop().call_later(max(0.01, left), self._expire)

    def _soon(self) -> None:
        # Two turns of the loop, so that what arrives together, and a claim that follows a settle, go together.
        asyncio.get_running_loop().call_soon(self._bell.set)

    async def stop(self) -> None:
        """Serve what was handed in, and close; safe when called twice or never started."""
        self._closing = True
        self._bell.set()
        if self._runner is not None:
            _, unfinished = await asyncio.wait([self._runner], timeout=STOP_S)
            for runner in unfinished:
                runner.cancel()
                await asyncio.wait([runner])
        if self._watch is not None:
            self._watch.cancel()
        self._answer(self._waiting, StorageError("the store was closed"))
        self._waiting = []
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
            link = await self._prepared()
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

    async def _prepared(self) -> Link:
        link = await self._connect()
        try:
            if self._prepare is not None:
                await self._prepare(link)
        except BaseException as error:
            link.cut()
            if isinstance(error, Refused):
                raise StorageError(str(error)) from error
            raise
        return link

    async def _run(self) -> None:
        while not (self._closing and not self._waiting):
            await self._bell.wait()
            self._bell.clear()
            while self._waiting:
                calls = self._taken()
                for serve, group in grouped(calls):
                    await self._guard(serve, group)
                    self._deliver(group)

    def _taken(self) -> Calls:
        """The calls of the next statements, taken from those that wait."""
        n = weight = 0
        while n < len(self._waiting) and n < MAX_GATHERED and weight < MAX_TASKS:
            weight += self._waiting[n].weight
            n += 1
        calls, self._waiting = self._waiting[:n], self._waiting[n:]
        return calls

    async def _guard(self, serve: Callable[[Lane, Calls], Awaitable[None]], calls: Calls) -> None:
        try:
            for _ in range(DEADLOCKS):
                with contextlib.suppress(Again):
                    return await serve(self, calls)
            await serve(self, calls)
        except StorageError as error:
            fail(calls, error)
        except asyncio.CancelledError:
            self._answer(calls, StorageError("the store was closed"))
            raise
        except Exception as error:
            if len(calls) > 1:  # a call that cannot be served must not fail its neighbours
                for call in calls:
                    await self._guard(serve, [call])
                return None
            if not isinstance(error, Refused | ValueError | OverflowError):
                log.exception("a call to the store failed")
            fail(calls, not_taken(error))

    def _answer(self, calls: Calls, error: StorageError) -> None:
        fail(calls, error)
        self._deliver(calls)

    def _deliver(self, calls: Calls) -> None:
        for call in calls:
            if call.error is None:
                self._refusals.served(call.kind)
            elif self.failure is None:  # else it is known, and logged
                self._refusals.refused(call.kind, call.error)
        deliver(calls)


def late_error() -> StorageError:
    """The answer to a call that waited in vain."""
    return StorageError("the database is too slow: the call was not begun")


def not_taken(error: Exception) -> StorageError:
    """The answer to a call that cannot be carried out as it is."""
    answer = StorageError(f"{type(error).__name__}: {error}")
    answer.__cause__ = error
    return answer


async def _each(
    lane: Lane,
    calls: Sequence[LaneCall[Callable[[Link], Awaitable[T]], T]],
    again: tuple[type[StorageError], ...] = (Again,),
) -> None:
    """Serve calls one by one; one that failed by `again` is sent again."""
    for call in calls:
        try:
            call.answer = await _one(lane, call, again)
        except StorageError as error:
            call.error = error  # not raised: those before it are served
        except (Refused, ValueError, OverflowError) as error:
            call.error = not_taken(error)


async def _each_again(lane: Lane, calls: Sequence[LaneCall[Callable[[Link], Awaitable[T]], T]]) -> None:
    await _each(lane, calls, (Again, Gone))


async def _one(
    lane: Lane, call: LaneCall[Callable[[Link], Awaitable[T]], T], again: tuple[type[StorageError], ...]
) -> T:
    for _ in range(TRIES):
        if call.late:
            raise late_error()
        with contextlib.suppress(*again):
            return await call.argument(await lane.link())
    return await call.argument(await lane.link())


def together(
    answer: Callable[[Link, Sequence[A]], Awaitable[list[T]]],
) -> Callable[[Lane, Sequence[Call[Sequence[A], list[T]]]], Awaitable[None]]:
    """Serve all calls by one statement, which may be sent twice."""

    async def serve(lane: Lane, calls: Sequence[Call[Sequence[A], list[T]]]) -> None:
        items = [item for call in calls for item in call.argument]
        try:
            answers = await answer(await lane.link(), items) if items else []
        except Gone:
            answers = await answer(await lane.link(), items)
        hand_slices(calls, [len(call.argument) for call in calls], answers)

    return serve
