"""The thread that owns the writing connection: one commit for all calls that wait.

While one commit is under way, new calls gather; the next commit takes them all. When idle, a single call is committed
at once: there is no waiting window. Answers go out after the commit, never before, all of a commit in one hop to the
event loop, claims first. Only a failed commit fails the gathering. The exception are claims that the store may write
later: they are answered before the commit begins, and workers run them while it is made.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

import apsw

from jobpipe.core.errors import StorageBroken, StorageError
from jobpipe.storage.calls import CLAIM, READ, A, Call, T, deliver, fail
from jobpipe.storage.sqlite.connection import translate
from jobpipe.storage.sqlite.unwritten import KEEP_S

log = logging.getLogger("jobpipe.storage")

MAX_GATHERED = 4096
"""New tasks and other calls after which a commit takes no more: a bound on how long the first of them waits."""

FAILING_S = 1.0
"""How often a store that failed is asked whether it takes what it is owed, in seconds."""

LARGE = 500
"""Tasks that are worth a hand-over of their own: the thread works on them while the event loop reads the next ones."""


Calls = Sequence[Call[Any, Any]]


class Served(Protocol):
    """What serves the calls, in the thread. Each sets the answers of its calls, or raises and did nothing."""

    @property
    def owes(self) -> bool:
        """Whether claims were answered that a commit has still to write."""
        ...

    @property
    def overdue(self) -> bool:
        """Whether one of them has waited for KEEP_S."""
        ...

    def commit(self, calls: Calls) -> None: ...
    def read(self, calls: Calls) -> None: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...


S = TypeVar("S", bound=Served)


class Writer(Generic[S]):
    """The thread; `open_store` runs in it first and gives what serves the calls."""

    def __init__(self, open_store: Callable[[], S]) -> None:
        self._open_store = open_store
        self._calls: SimpleQueue[list[Call[Any, Any]] | None] = SimpleQueue()
        self._handed: list[Call[Any, Any]] = []
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: asyncio.Future[None] | None = None
        self.broken: asyncio.Future[StorageBroken] | None = None
        """Ends when the storage must not be trusted any more."""
        self._broken: StorageBroken | None = None
        self.failing = False
        """Whether the latest commit failed."""

    async def start(self) -> None:
        """Start the thread and open; raises what opening raised."""
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._closed = self._loop.create_future()
        self.broken = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="jobpipe-storage", daemon=True)
        self._thread.start()
        await opened

    def call(self, turn: int, do: Callable[[S], T]) -> asyncio.Future[T]:
        """Have `do` done in the thread; the future ends after its commit. Raises StorageError."""
        return self.gather(turn, _each, do)

    def ask(self, question: Callable[[S], T]) -> asyncio.Future[T]:
        """As `call`, for what writes nothing."""
        return self.gather(READ, _each, question)

    def claim(self, at_once: Callable[[S], T | None], do: Callable[[S], T]) -> asyncio.Future[T]:
        """A claim: answered by `at_once` before any commit begins; where that gives None, by `do` within one."""
        return self.gather(CLAIM, _claim_each, _Claiming(at_once, do))

    def gather(
        self, turn: int, serve: Callable[[S, Sequence[Call[A, T]]], None], argument: A, weight: int = 1
    ) -> asyncio.Future[T]:
        """As `call`, for what one `serve` does for all that wait."""
        if self._loop is None or self._thread is None:
            raise StorageError("the store is not open")
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._handed:
            self._loop.call_soon(self._soon)
        self._handed.append(Call(turn, serve, argument, future, weight))
        if weight >= LARGE:
            self._hand_over()
        return future

    def _soon(self) -> None:
        # Two turns of the loop, a few microseconds: so the settles of runs that end together and the claim that follows
        # them share one commit, and the thread is woken once for all requests that arrived together.
        if self._loop is not None:
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        if self._handed:
            self._calls.put(self._handed)
            self._handed = []

    async def stop(self) -> None:
        """Commit what was handed in, close, and end the thread; every call returns when that is done."""
        if self._thread is not None:
            self._thread = None
            self._hand_over()
            self._calls.put(None)
        if self._closed is not None:
            await asyncio.shield(self._closed)

    def distrust(self, error: StorageBroken) -> None:
        """Serve nothing any more, for a reason that is seen from outside."""
        if self._broken is None and self.broken is not None:
            log.error("%s", error)
            self._broken = error
            _report(self.broken, error)

    @property
    def is_open(self) -> bool:
        """Whether calls are taken."""
        return self._thread is not None

    # --- in the thread ------------------------------------------------------------------------------------------

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            store = self._open_store()
        except Exception as error:  # noqa: BLE001 - it is handed to who opens
            self._thread = None
            self._post(_fail, opened, error)
        else:
            self._post(_succeed, opened)
            self._serve_all(store)
        if self._closed is not None:
            self._post(_succeed, self._closed)

    def _serve_all(self, store: S) -> None:
        try:
            while calls := self._gather(store):
                self._serve(store, calls)
            if store.owes:
                self._write(store, [])
            if self._broken is None:
                store.close()
            else:
                store.abandon()
        except Exception:
            log.exception("closing the store failed")
        self._refuse_rest()

    def _gather(self, store: S) -> list[Call[Any, Any]]:
        """Sleep until there are calls, and take all; none when the thread shall end."""
        calls: list[Call[Any, Any]] = []
        weight = 0
        handed = self._next(store)
        while handed is not None:
            calls += handed
            weight += sum(call.weight for call in handed)
            if weight >= MAX_GATHERED:
                return calls
            try:
                handed = self._calls.get_nowait()
            except Empty:
                if calls:
                    return calls
                handed = self._next(store)
        if calls:
            self._calls.put(None)  # serve what came before, end at the next turn
        return calls

    def _next(self, store: S) -> list[Call[Any, Any]] | None:
        """Sleep until calls are handed in, None when the thread shall end; meanwhile pay what is owed to the file."""
        while store.owes:
            with suppress(Empty):
                return self._calls.get(timeout=FAILING_S if self.failing else KEEP_S)
            self._write(store, [])
        return self._calls.get()

    def _serve(self, store: S, calls: list[Call[Any, Any]]) -> None:
        claiming = any(call.turn == CLAIM for call in calls)
        if claiming and not self.failing:
            given = [call for call in calls if call.turn == CLAIM and self._hand_out(store, call)]
            self._post(deliver, given)
            calls = [call for call in calls if call.turn != CLAIM or call not in given]
        writing = [call for call in calls if call.turn != READ]
        if writing:
            self._write(store, writing)
        if len(writing) < len(calls):
            self._guard(store.read, [call for call in calls if call.turn == READ])
        self._post(_deliver_after_claims if claiming else deliver, calls)
        if store.overdue and not self.failing:  # while others only read
            self._write(store, [])

    def _hand_out(self, store: S, call: Call[_Claiming[S, T], T]) -> bool:
        """Whether the claim needs no commit, or failed."""

        def serve(_: Calls) -> None:
            if (answer := call.argument.at_once(store)) is not None:
                call.answer = answer

        self._guard(serve, [call])
        return call.error is not None or hasattr(call, "answer")

    def _write(self, store: S, calls: list[Call[Any, Any]]) -> None:
        self.failing = not self._guard(store.commit, calls)

    def _guard(self, serve: Callable[[Calls], None], calls: list[Call[Any, Any]]) -> bool:
        """Serve the calls; whether nothing is wrong with the store."""
        if self._broken is not None:
            fail(calls, self._broken)
            return False
        try:
            serve(calls)
            return True
        except StorageBroken as error:
            self._failed(calls, error)
        except (apsw.FullError, apsw.IOError, apsw.CorruptError, apsw.NotADBError, apsw.BusyError) as error:
            self._failed(calls, translate(error))
        except Exception as error:
            if len(calls) > 1:  # a call that cannot be served must not fail its neighbours
                served = [
                    self._guard(serve, [call]) for call in calls
                ]  # all of them, whatever became of the first
                return all(served)
            log.exception("a call to the store failed")
            fail(calls, StorageError(f"{type(error).__name__}: {error}"))
        return False

    def _failed(self, calls: list[Call[Any, Any]], error: StorageError) -> None:
        log.error("%s", error)
        fail(calls, error)
        if isinstance(error, StorageBroken) and self.broken is not None:
            self._broken = error
            self._post(_report, self.broken, error)

    def _refuse_rest(self) -> None:
        refused: list[Call[Any, Any]] = []
        while not self._calls.empty():
            refused += self._calls.get_nowait() or ()
        fail(refused, StorageError("the store is closed"))
        self._post(deliver, refused)

    def _post(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._loop is None:
            return
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            log.debug("the event loop ended before the store")


def _deliver_after_claims(calls: Calls) -> None:
    """Answer all but what can wait: workers begin to run what was claimed while the event loop tells of the ends that
    were handed in beside the claims.

    Two turns later, because that is what a claim needs until its answer is sent (Claiming shields it). What is read in
    between counts those runs as well as their successors.
    """
    later = [call for call in calls if call.can_wait]
    deliver([call for call in calls if not call.can_wait])
    if later:
        loop = asyncio.get_running_loop()
        loop.call_soon(loop.call_soon, deliver, later)


class _Claiming(Generic[S, T]):
    """Both ways of a claim."""

    def __init__(self, at_once: Callable[[S], T | None], do: Callable[[S], T]) -> None:
        self.at_once = at_once
        self.do = do


def _claim_each(store: S, calls: Sequence[Call[_Claiming[S, T], T]]) -> None:
    """Serve claims one by one, within a commit."""
    for call in calls:
        call.answer = call.argument.do(store)


def _each(store: S, calls: Sequence[Call[Callable[[S], T], T]]) -> None:
    """Serve the calls one by one."""
    for call in calls:
        call.answer = call.argument(store)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _report(future: asyncio.Future[StorageBroken], error: StorageBroken) -> None:
    if not future.done():
        future.set_result(error)
