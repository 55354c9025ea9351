"""Waiting tasks that claims passed over because they had expired: nobody looks for them again until they are ended, or
until a clock that was set back makes them claimable once more.
"""

from __future__ import annotations

from jobpipe.core.expiry import expired
from jobpipe.core.task import Task


class Passed:
    """They are few, and for a moment: what expires is ended soon."""

    def __init__(self) -> None:
        self._tasks: dict[int, Task] = {}
        self._latest = 0
        """None of them expires later."""

    def put(self, task: Task) -> None:
        """This one, which expires."""
        self._tasks[task.seq] = task
        self._latest = max(self._latest, task.expires_at or 0)

    def drop(self, seq: int) -> None:
        """It is queued no more, or otherwise than before."""
        self._tasks.pop(seq, None)

    def forget(self, queue: str) -> None:
        """All of a queue will be met again."""
        self._tasks = {seq: task for seq, task in self._tasks.items() if task.queue != queue}

    def clear(self) -> None:
        """So will all."""
        self._tasks.clear()

    def living(self, now: int) -> list[Task]:
        """Those that have not expired at `now`."""
        if not self._tasks or self._latest <= now:
            return []
        return [task for task in self._tasks.values() if not expired(task, now)]

    def oldest(self, now: int) -> dict[str, int]:
        """The earliest `run_at` of each queue, of those that are due."""
        found: dict[str, int] = {}
        for task in self._tasks.values():
            if task.run_at <= now:
                found[task.queue] = min(task.run_at, found.get(task.queue, now))
        return found
