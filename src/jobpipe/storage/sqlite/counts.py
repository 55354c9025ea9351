"""The kept counts: how many tasks each queue, status and priority has, without ever counting rows.

They change in memory within a commit and go to the file in the same commit, once per batch. After a rollback they are
read again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from jobpipe.core.steering import Standing
from jobpipe.core.task import Status
from jobpipe.storage.sqlite.rows import NUMBER, STATUSES, text

_K = TypeVar("_K")
Key = tuple[str, int, int]
"""Queue, status number, priority."""


class Counts:
    """The counts as the file has them once the transaction under way is committed.

    Tasks whose claims are not written yet (unwritten.py) count as queued here.
    """

    def __init__(self) -> None:
        self._n: dict[Key, int] = {}
        self._queued: dict[str, int] = {}
        self._total: dict[str, int] = {}
        self._changed: set[Key] = set()

    def load(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """Begin anew with what the file holds."""
        self.__init__()  # type: ignore[misc]
        for queue, status, priority, n in rows:
            self._add((queue, status, priority), n)

    def add(self, queue: str, status: Status, priority: int, n: int) -> None:
        """`n` more (or fewer) tasks stand so."""
        key = (queue, NUMBER[status], priority)
        self._changed.add(key)
        self._add(key, n)

    def add_all(self, rises: Mapping[Standing, int]) -> None:
        """As `add`, for a whole batch that was summed up before: once a batch costs less than once a task."""
        for (queue, priority, status), n in rises.items():
            self.add(queue, status, priority, n)

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` are queued, future ones included."""
        return self._queued.get(queue, 0)

    def at(self, queue: str, status: Status, priority: int) -> int:
        """How many tasks stand so."""
        return self._n.get((queue, NUMBER[status], priority), 0)

    def of(self, status: Status) -> dict[tuple[str, int], int]:
        """How many tasks of this status each queue and priority has."""
        return {(queue, priority): n for (queue, s, priority), n in self._n.items() if s == NUMBER[status]}

    @property
    def queues(self) -> dict[str, int]:
        """All queue names that hold tasks, with the number of their tasks of any status."""
        return self._total

    def levels(self) -> list[tuple[str, int]]:
        """Each queue and priority that has queued tasks."""
        return [(queue, priority) for (queue, status, priority) in self._n if status == 0]

    def by_status(self) -> dict[Status, int]:
        """The sums by status, over all queues."""
        sums = [0] * len(STATUSES)
        for (_, status, _), n in self._n.items():
            sums[status] += n
        return dict(zip(STATUSES, sums, strict=True))

    def by_queue(self) -> dict[str, dict[Status, int]]:
        """The sums by status of every queue, in one pass."""
        sums = {queue: dict.fromkeys(STATUSES, 0) for queue in sorted(self._total)}
        for (queue, status, _), n in self._n.items():
            sums[queue][STATUSES[status]] += n
        return sums

    def changes(self) -> tuple[str, int] | None:
        """The rows that this commit must keep, as JSON, and how many of them are empty; None when nothing changed."""
        if not self._changed:
            return None
        rows = [(*key, self._n.get(key, 0)) for key in self._changed]
        self._changed.clear()
        return text(rows), sum(row[3] == 0 for row in rows)

    def _add(self, key: Key, n: int) -> None:
        _bump(self._n, key, n)
        _bump(self._total, key[0], n)
        if key[1] == 0:
            _bump(self._queued, key[0], n)


def _bump(counter: dict[_K, int], key: _K, n: int) -> None:
    left = counter.get(key, 0) + n
    if left:
        counter[key] = left
    else:
        counter.pop(key, None)
