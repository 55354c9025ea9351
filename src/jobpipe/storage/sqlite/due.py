"""Which queued tasks come next, at a cost that does not grow with what waits, lies in the future or is finished.

For each queue and priority that has queued tasks (a level) memory holds its head: a (run_at, seq) not later than its
first task. A claim looks only at levels whose head is due, one index seek each, and merges them; what it sees
corrects the heads. So a level that lies in the future costs nothing, whatever its priority, until it is due.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from msgspec import Struct

Level = tuple[str, int]
"""Queue and priority."""
Head = tuple[int, int]
"""`run_at` and `seq`."""
Row = tuple[int, int, int]
"""`run_at`, `seq` and payload bytes of one queued task."""

EARLIEST: Head = (0, 0)


class Picked(Struct, frozen=True):
    """The seqs to claim, in order, and the earliest head left among the queues asked for (None: nothing waits)."""

    seqs: list[int]
    next_due: int | None


class Due:
    """The heads of all levels."""

    def __init__(self) -> None:
        self._heads: dict[Level, Head] = {}

    def load(self, levels: Iterable[Level]) -> None:
        """Begin anew, knowing only which levels have tasks; the first look at each finds its true head."""
        self._heads = dict.fromkeys(levels, EARLIEST)

    def add(self, queue: str, priority: int, run_at: int, seq: int) -> None:
        """A task is queued."""
        head = self._heads.get((queue, priority))
        if head is None or (run_at, seq) < head:
            self._heads[(queue, priority)] = (run_at, seq)

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        runs = [head[0] for level, head in self._heads.items() if queues is None or level[0] in queues]
        return min(runs, default=None)

    def oldest(self, now: int, peek: Callable[[str, int, int], list[Row]]) -> dict[str, int]:
        """The `run_at` of the task that has been due longest, for each queue that has a due one."""
        found: dict[str, int] = {}
        for queue, priority in [level for level, head in self._heads.items() if head[0] <= now]:
            self._correct((queue, priority), peek(queue, priority, 1))
            head = self._heads.get((queue, priority))
            if head is not None and head[0] <= now:
                found[queue] = min(head[0], found.get(queue, now))
        return found

    def pick(
        self,
        queues: frozenset[str] | None,
        limit: int,
        now: int,
        max_bytes: int,
        peek: Callable[[str, int, int], list[Row]],
    ) -> Picked:
        """The next due tasks: higher priority, then earlier `run_at`, then order of acceptance.

        `peek(queue, priority, n)` gives the first n rows of a level, the first one last. At most `max_bytes` of
        payload, but one task.
        """
        ready: dict[int, list[tuple[Head, str]]] = {}
        for (queue, priority), head in self._heads.items():
            if head[0] <= now and (queues is None or queue in queues):
                ready.setdefault(priority, []).append((head, queue))
        picking = _Picking(limit, now, max_bytes, peek)
        for priority in sorted(ready, reverse=True):
            if picking.full:
                break
            for queue, rows in picking.merge(priority, ready[priority]).items():
                self._correct((queue, priority), rows)
        return Picked(picking.seqs, self.next_due(queues))

    def _correct(self, level: Level, rows: list[Row]) -> None:
        """`rows` is what the level begins with, the first one last; none when it is empty."""
        if rows:
            self._heads[level] = rows[-1][:2]
        else:
            del self._heads[level]


class _Picking:
    """One claim's way through the levels."""

    def __init__(
        self, limit: int, now: int, max_bytes: int, peek: Callable[[str, int, int], list[Row]]
    ) -> None:
        self._limit = limit
        self._now = now
        self._bytes_left = max_bytes
        self._peek = peek
        self.seqs: list[int] = []
        self.full = limit <= 0

    def merge(self, priority: int, heap: list[tuple[Head, str]]) -> dict[str, list[Row]]:
        """Take due rows of one priority over its queues in order; answer what is left (reversed) of each looked at."""
        heapq.heapify(heap)
        rows: dict[str, list[Row]] = {}
        while heap and not self.full and heap[0][0][0] <= self._now:
            head, queue = heap[0]
            if queue not in rows:
                # One more than can be taken, so that the row after the last one taken, the new head, is known.
                rows[queue] = self._peek(queue, priority, self._limit - len(self.seqs) + 1)
            elif self._take(rows[queue][-1]):
                rows[queue].pop()
            if not rows[queue]:
                heapq.heappop(heap)
            elif rows[queue][-1][:2] != head:
                heapq.heapreplace(heap, (rows[queue][-1][:2], queue))
        return rows

    def _take(self, row: Row) -> bool:
        if self.seqs and row[2] > self._bytes_left:
            self.full = True
            return False
        self.seqs.append(row[1])
        self._bytes_left -= row[2]
        self.full = len(self.seqs) >= self._limit
        return True
