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

from jobpipe import randomness
from jobpipe.core.errors import JobpipeError, StorageError
from jobpipe.storage.postgres import statements
from jobpipe.storage.postgres.link import Again, Link, Refused
from jobpipe.storage.postgres.refusals import Refusals

_NAMES = {text: name.lower() for name, text in vars(statements).items() if isinstance(text, str)}

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


class Call:
    """One call of the contract on its way through a lane; `group` names those that are served together,
    `weight` is about how many tasks it moves."""

    __slots__ = ("answer", "argument", "born", "future", "group", "weight")

    def __init__(self, group: str, argument: Any, future: asyncio.Future[Any], weight: int = 1) -> None:
        self.group = group
        self.weight = weight
        self.argument = argument
        self.future = future
        self.answer: Any = None
        self.born = time.monotonic()

    @property
    def late(self) -> bool:
        """Whether it waited for so long that it is not worth beginning."""
        return time.monotonic() - self.born >= WAIT_S

    @property
    def kind(self) -> str:
        """What it is, for people: of a question also which."""
        if self.group not in ("ask", "list"):
            return self.group
        names = (_NAMES.get(part) if isinstance(part, str) else None for part in self.argument)
        return next((name for name in names if name), self.argument[0].__name__.strip("_"))


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
        refusals: Refusals | None = None,
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
        self._watch: asyncio.TimerHandle | None = None
        self._refusals = refusals or Refusals()
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
                for name, serve in self._groups.items():
                    group = [call for call in calls if call.group == name]
                    if group:
                        await self._guard(serve, group)
                        self._deliver(group)

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
        except StorageError as error:
            _answer_all(calls, error)
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
            _answer_all(calls, not_taken(error))

    def _answer(self, calls: Calls, error: JobpipeError) -> None:
        _answer_all(calls, error)
        self._deliver(calls)

    def _deliver(self, calls: Calls) -> None:
        for call in calls:
            if isinstance(call.answer, StorageError):
                if self.failure is None:  # else it is known, and logged
                    self._refusals.refused(call.kind, call.answer)
            else:
                self._refusals.served(call.kind)
            if call.future.done():  # the caller went away; what was committed stands
                continue
            if isinstance(call.answer, JobpipeError):
                call.future.set_exception(call.answer)
            else:
                call.future.set_result(call.answer)


def late_error() -> StorageError:
    """The answer to a call that waited in vain."""
    return StorageError("the database is too slow: the call was not begun")


def not_taken(error: Exception) -> StorageError:
    """The answer to a call that cannot be carried out as it is."""
    answer = StorageError(f"{type(error).__name__}: {error}")
    answer.__cause__ = error
    return answer


def _answer_all(calls: Calls, error: JobpipeError) -> None:
    for call in calls:
        call.answer = error
