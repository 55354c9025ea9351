"""Who waits for what: workers for due tasks, callers for the end of a task. Nobody here polls.

Waiting workers are woken in the order of arrival. A worker that was woken and found its fill passes the wake on while
more is due, and so does one that went away: a wake is never lost, and a due task never wakes the whole crowd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from jobpipe.core.task import Task


class Waiter:
    """`worker`, which takes tasks of `queues` (None: of all), waiting or about to look.

    `next_due` is when it should look again. `missed` says that something became due while it was looking, `owes` that
    it was woken and has not looked yet, `dismissed` that it shall get nothing, `occupied` that it looked while all of
    its worker's places were taken: it looks again when one is free.
    """

    __slots__ = ("dismissed", "missed", "next_due", "occupied", "owes", "queues", "wake", "worker")

    def __init__(self, worker: str, queues: frozenset[str] | None) -> None:
        self.worker = worker
        self.queues = queues
        self.dismissed = False
        self.missed = False
        self.owes = False
        self.occupied = False
        self.next_due: int | None = None
        self.wake: asyncio.Future[bool] | None = None

    def look(self) -> None:
        """A claim begins: what comes from now on may not be seen by it."""
        self.missed = False
        self.next_due = None

    def looked(self) -> None:
        """The claim was answered: the wake was used."""
        self.owes = False

    def takes(self, queue: str) -> bool:
        return self.queues is None or queue in self.queues

    def meets(self, queues: frozenset[str] | None) -> bool:
        return self.queues is None or queues is None or not self.queues.isdisjoint(queues)

    def covers(self, other: Waiter) -> bool:
        return self.covers_all(other.queues)

    def covers_all(self, queues: frozenset[str] | None) -> bool:
        return self.queues is None or (queues is not None and queues <= self.queues)


class ClaimWaiters:
    """The waiting workers, in order of arrival, and the one timer for the next due task.

    `now` gives wall time in milliseconds.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._line: dict[Waiter, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0

    def join(self, worker: str, queues: frozenset[str] | None) -> Waiter:
        """Take a place at the end of the line; it is kept until `leave`."""
        waiter = Waiter(worker, queues)
        self._line[waiter] = None
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Give the place up; a wake that was not used goes to the next in line."""
        self._line.pop(waiter, None)
        if waiter.missed or waiter.owes or (waiter.wake is not None and waiter.wake.done()):
            self.pass_on(waiter.queues)

    async def wait(self, waiter: Waiter, next_due: int | None, timeout: float | None) -> bool:
        """Sleep until woken (True) or until `timeout` seconds have passed (False).

        `next_due` is what the waiter's claim, begun by `look`, said about the tasks left.
        """
        if waiter.missed:
            return True
        self.learn(waiter, next_due)
        loop = asyncio.get_running_loop()
        wake: asyncio.Future[bool] = loop.create_future()
        waiter.wake = wake
        expiry = None if timeout is None else loop.call_later(timeout, _expire, wake)
        try:
            woken = await wake
        finally:
            if expiry is not None:
                expiry.cancel()
        waiter.wake = None
        waiter.owes = woken
        return woken

    def learn(self, waiter: Waiter, next_due: int | None) -> None:
        """Take over what a claim, begun by `look`, said about the tasks left, for all whose queues it covers.

        So one due task wakes one worker: the others know that this one looked for them too.
        """
        known = [
            due for due in (waiter.next_due, next_due) if due is not None
        ]  # what came since, what was found
        bound = min(known, default=None)
        for other in self._line:
            if waiter.covers(other):
                other.next_due = bound
        if bound is not None:
            self._arm(bound)

    def ready(self, queue: str, n: int) -> None:
        """`n` tasks of `queue` became due: wake the first `n` waiting workers that take them."""
        for waiter in self._line:
            if n <= 0:
                return
            if waiter.takes(queue) and _wake(waiter):
                n -= 1

    def later(self, queue: str, due: int) -> None:
        """A task of `queue` will be due at `due` (milliseconds since the epoch)."""
        for waiter in self._line:
            if waiter.takes(queue) and (waiter.next_due is None or due < waiter.next_due):
                waiter.next_due = due
                self._arm(due)

    def pass_on(self, queues: frozenset[str] | None) -> None:
        """More may be due in one of `queues`: wake the next in line that takes one of them.

        Who is woken looks for those it covers; workers with other queues among them are woken too, one each.
        """
        woken: list[Waiter] = []
        for waiter in self._line:
            if waiter.meets(queues) and not any(other.covers(waiter) for other in woken) and _wake(waiter):
                woken.append(waiter)
                if waiter.covers_all(queues):
                    return

    def dismiss(self, worker: str) -> None:
        """Send a worker away with nothing: it gave no sign for a lease, so it may not be there any more."""
        for waiter in self._line:
            if waiter.worker == worker:
                waiter.dismissed = True
                _wake(waiter)

    def freed(self) -> None:
        """Runs came to their ends: those that wait for a place of their own look again."""
        for waiter in self._line:
            if waiter.occupied:
                _wake(waiter)

    def wake_all(self) -> None:
        """Wake everybody, as a drain does."""
        for waiter in self._line:
            _wake(waiter)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: int) -> None:
        if self._timer is not None:
            # One that is overdue by the wall clock was set before that clock jumped: set it anew.
            if self._now() <= self._timer_due <= due:
                return
            self._timer.cancel()
            due = min(due, self._timer_due)
        self._timer_due = due
        # One millisecond more: a timer that fires a little early would find nothing due and be set again.
        # A wall clock that jumps forward makes tasks due unseen: look again after a minute at the latest.
        delay = min(max(0, due - self._now() + 1) / 1000, 60.0)
        self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        """Wake one worker for what is due, and of those with other queues one each; it looks for those it covers."""
        self._timer = None
        now = self._now()
        woken: list[Waiter] = []
        later: list[int] = []
        for waiter in self._line:
            if waiter.next_due is None:
                continue
            if waiter.next_due > now:
                later.append(waiter.next_due)
            elif not any(other.covers(waiter) for other in woken) and _wake(waiter):
                woken.append(waiter)
        if later:
            self._arm(min(later))


def _wake(waiter: Waiter) -> bool:
    if waiter.wake is None:
        waiter.missed = True  # it is looking: it will look once more instead of going to sleep
        return False
    if waiter.wake.done():
        return False
    waiter.wake.set_result(True)
    return True


def _expire(wake: asyncio.Future[bool]) -> None:
    if not wake.done():
        wake.set_result(False)


class FinishWaiters:
    """Callers that wait for the end of a task, by its id."""

    def __init__(self) -> None:
        self._by_id: dict[str, set[asyncio.Future[Task | None]]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, task_id: str) -> bool:
        return task_id in self._by_id

    def ids(self) -> list[str]:
        """The tasks that somebody waits for."""
        return list(self._by_id)

    def join(self, task_id: str) -> asyncio.Future[Task | None]:
        """A future that ends with the finished task, or with None when the server stops waiting (a drain)."""
        future: asyncio.Future[Task | None] = asyncio.get_running_loop().create_future()
        self._by_id.setdefault(task_id, set()).add(future)
        return future

    def leave(self, task_id: str, future: asyncio.Future[Task | None]) -> None:
        """Forget a caller; safe when it was answered already."""
        waiting = self._by_id.get(task_id)
        if waiting is not None:
            waiting.discard(future)
            if not waiting:
                del self._by_id[task_id]

    def finished(self, task: Task) -> None:
        """Answer all who wait for this task."""
        _answer(self._by_id.pop(task.id, ()), task)

    def give_up(self) -> None:
        """Answer everybody with None."""
        for waiting in self._by_id.values():
            _answer(waiting, None)
        self._by_id.clear()


def _answer(futures: Iterable[asyncio.Future[Task | None]], task: Task | None) -> None:
    for future in futures:
        if not future.done():
            future.set_result(task)
