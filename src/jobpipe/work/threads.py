"""Threads for handlers that are ordinary functions: started on demand, reused when idle, and daemons.

Daemons, because a handler that never ends must not hold the exit of the process; the threads of concurrent.futures are
joined at exit. How many run at a time is for the caller to bound.

`LentThreads` are the same for what an event loop's code sends into threads (`asyncio.to_thread`).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import SimpleQueue
from typing import Any
from weakref import WeakKeyDictionary

from jobpipe.runtime import tracing

Work = Callable[[], Callable[[], None]]
"""What a thread does. It gives back how to tell of its end, which is called when the thread counts as idle again: else
the next work, sent by the one who was told, would start a thread beside one that is free."""


class Threads:
    """A set of daemon threads that grows to what was needed at once."""

    def __init__(self, name: str = "jobpipe-handler") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._idle = 0
        self._started = 0
        self._closed = False

    def submit(self, work: Work) -> None:
        """Run `work`, which raises nothing, at once in a thread of its own."""
        self._queue.put(work)
        with self._lock:
            if self._idle:
                self._idle -= 1
                return
            self._started += 1
            number = self._started
        threading.Thread(target=self._serve, name=f"{self._name}-{number}", daemon=True).start()

    def close(self) -> None:
        """End the idle threads; one that still works ends after its work. Waits for none."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._queue.put(None)

    def _serve(self) -> None:
        while (work := self._queue.get()) is not None:
            told = work()
            with self._lock:
                closed = self._closed
                self._idle += not closed
            told()
            if closed:
                return
            # An idle thread must not keep alive what the last run held.
            del work, told


LENT = 32
"""So many calls in threads at a time beside one for each worker."""


class LentThreads(ThreadPoolExecutor):
    """The threads of an event loop's own executor, `most` calls at a time.

    A call whose run is over counts no more: what nobody can end must not keep later runs waiting, nor a stop.
    """

    def __init__(self, most: int) -> None:
        super().__init__(
            1
        )  # asyncio takes no other kind of executor; none of its own threads is ever started
        self._most = most
        self._pool = Threads("jobpipe-lent")
        self._guard = threading.Lock()
        self._calls: deque[_Call] = deque()
        self._busy: set[_Call] = set()
        self._closed = False

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        """Call it in a thread, once there is room."""
        run = tracing.running()
        call = _Call(partial(function, *args, **more), None if run is None else run.task_id)
        with self._guard:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._calls.append(call)
            self._fill()
        return call.future

    def held_by(self, task_id: str) -> bool:
        """Whether a call of this task's run is under way."""
        with self._guard:
            return any(call.task_id == task_id for call in self._busy)

    def give_up(self, task_id: str) -> bool:
        """Count this run's calls no more; whether there was one."""
        with self._guard:
            held = {call for call in self._busy if call.task_id == task_id}
            self._busy -= held
            self._fill()
        return bool(held)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more. Waits for none."""
        with self._guard:
            self._closed = True
        self._pool.close()

    def _fill(self) -> None:
        while self._calls and len(self._busy) < self._most:
            call = self._calls.popleft()
            self._busy.add(call)
            self._pool.submit(partial(self._work, call))

    def _work(self, call: _Call) -> Callable[[], None]:
        call()
        with self._guard:
            self._busy.discard(call)
            self._fill()
        return _nothing


class _Call:
    """One call, and the task whose run asked for it."""

    def __init__(self, function: Callable[[], Any], task_id: str | None) -> None:
        self.task_id = task_id
        self.future: Future[Any] = Future()
        self._function = function

    def __call__(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(self._function())
            except BaseException as error:  # noqa: BLE001  # whoever waits for it is told
                self.future.set_exception(error)


_lent: WeakKeyDictionary[asyncio.AbstractEventLoop, LentThreads] = WeakKeyDictionary()


def lend(loop: asyncio.AbstractEventLoop, workers: int) -> None:
    """Make such threads the executor of a loop that runs handlers."""
    _lent[loop] = threads = LentThreads(workers + LENT)
    loop.set_default_executor(threads)


def lent(loop: asyncio.AbstractEventLoop) -> LentThreads | None:
    """The threads of this loop, if they are such."""
    return _lent.get(loop)


def _nothing() -> None:
    """Nobody is to be told."""
