"""Tasks that arrive one by one, handed to the storage together: one call for all of a turn of the event loop.

A call of its own for each costs more than the task itself: futures, hops between callbacks, telling those who watch.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from jobpipe.core.errors import JobpipeError, StorageError
from jobpipe.core.task import NewTask, Task
from jobpipe.core.unique import Known

log = logging.getLogger("jobpipe.queue")

Tell = Callable[[Task | Known | Exception], None]
Insert = Callable[[Sequence[NewTask]], asyncio.Future[list[Task | Known | JobpipeError]]]

MOST_TASKS = 1_000
MOST_BYTES = 16 * 1024 * 1024
"""Of payload in one call: what one statement can bear is bounded, and too much would fail all that came together."""


class Arrivals:
    """What came in this turn. `insert` has the whole contract of `TaskQueue.enqueue`."""

    def __init__(self, insert: Insert) -> None:
        self._insert = insert
        self._tasks: list[NewTask] = []
        self._tells: list[Tell] = []

    def add(self, task: NewTask, tell: Tell) -> None:
        """Enqueue the task with the others of this turn; `tell` hears in a later one what became of it."""
        if not self._tasks:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._tasks.append(task)
        self._tells.append(tell)

    def _hand_over(self) -> None:
        tasks, tells = self._tasks, self._tells
        self._tasks, self._tells = [], []
        begin = size = 0
        for end, task in enumerate(tasks, 1):
            size += len(task.payload)
            if size >= MOST_BYTES or end == len(tasks) or end - begin == MOST_TASKS:
                self._call(tasks[begin:end], tells[begin:end])
                begin, size = end, 0

    def _call(self, tasks: list[NewTask], tells: list[Tell]) -> None:
        try:
            self._insert(tasks).add_done_callback(lambda inserted: _tell_all(tells, inserted))
        except Exception as error:  # noqa: BLE001 - it is told to those who asked
            _tell_each(tells, [error] * len(tells))


def _tell_all(tells: list[Tell], inserted: asyncio.Future[list[Task | Known | JobpipeError]]) -> None:
    try:
        answers: Sequence[Task | Known | Exception] = inserted.result()
    except asyncio.CancelledError:
        answers = [StorageError("the store was closed")] * len(tells)
    except Exception as error:  # noqa: BLE001 - it is told to those who asked
        answers = [error] * len(tells)
    _tell_each(tells, answers)


def _tell_each(tells: Sequence[Tell], answers: Sequence[Task | Known | Exception]) -> None:
    for tell, answer in zip(tells, answers, strict=True):
        try:
            tell(answer)
        except Exception:  # one listener that fails must not keep the others from their answers
            log.exception("telling of a task that was accepted failed")
