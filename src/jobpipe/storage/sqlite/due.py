"""Which queued tasks come next, at a cost that does not grow with what waits, lies in the future or is finished.

For each queue and priority that has queued tasks (a level) memory holds its head: a (run_at, seq) not later than its
first task. A claim looks only at levels whose head is due, one index seek each, and merges them; what it sees
corrects the heads. So a level that lies in the future costs nothing, whatever its priority, until it is due. The rows
that a few levels begin with are kept from one look to the next (line.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from msgspec import Struct

from jobpipe.core.task import Task
from jobpipe.storage.heads import Head, Heads, Level
from jobpipe.storage.sqlite.line import Line, Row

Peek = Callable[[str, int, int], list[Row]]
"""`peek(queue, priority, n)` reads the first n rows of a level."""

EARLIEST: Head = (0, 0)
MOST_LINES = 256
MOST_ROWS = 8192
"""In all lines together, about: few lines may be long."""


class Picked(Struct, frozen=True):
    """The rows to claim, in order, and the earliest head left among the queues asked for (None: nothing waits)."""

    rows: list[Row]
    next_due: int | None


class Due:
    """The heads of all levels, and the lines of some. `peek` reads what is not known."""

    def __init__(self, peek: Peek) -> None:
        self._peek = peek
        self._heads = Heads()
        self._lines: dict[Level, Line] = {}

    def load(self, levels: Iterable[Level]) -> None:
        """Begin anew, knowing only which levels have tasks; the first look at each finds its true head."""
        self._heads.clear()
        for level in levels:
            self._heads.put(level, EARLIEST)
        self._lines.clear()

    def accept(self, queue: str, priority: int, run_at: int, tasks: Sequence[Task]) -> None:
        """New tasks are queued, in the order of their seqs."""
        level = (queue, priority)
        head = self._heads.get(level)
        place = (run_at, tasks[0].seq)
        self._heads.lower(level, place)
        line = self._lines.get(level)
        if line is None:
            if head is not None:  # others wait, of which nothing is known
                return
            line = self._keep(level, Line())
        if not line.extend(run_at, tasks, 2 * self._length):
            del self._lines[level]

    def add(self, queue: str, priority: int, run_at: int, seq: int) -> None:
        """A task is queued again."""
        level = (queue, priority)
        place = (run_at, seq)
        self._heads.lower(level, place)
        line = self._lines.get(level)
        if line is not None and (line.end is None or place <= line.end):
            del self._lines[level]

    def forget(self, queue: str, priority: int) -> None:
        """Tasks of this level are not queued any more, other than by a claim."""
        self._lines.pop((queue, priority), None)

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        return self._heads.earliest(queues)

    def oldest(self, now: int) -> dict[str, int]:
        """The `run_at` of the task that has been due longest, for each queue that has a due one."""
        found: dict[str, int] = {}
        for queue in self._heads.queues:
            while (first := self._heads.oldest(queue)) is not None and first[1][0] <= now:
                level, head = first
                line = self._lines.get(level)
                if line is None or not line.rows:
                    rows = self._peek(*level, 1)
                    line = Line(rows, None if not rows else rows[0][:2])
                self._correct(level, line)
                if self._heads.get(level) == head:
                    found[queue] = head[0]
                    break
        return found

    def pick(self, queues: frozenset[str] | None, limit: int, now: int, max_bytes: int) -> Picked:
        """The next due tasks: higher priority, then earlier `run_at`, then order of acceptance.

        At most `max_bytes` of payload, but one task.
        """
        picking = _Picking(limit, now, max_bytes, self._look)
        while not picking.full:
            # One more than can be needed: before its first task all that comes first is in the others.
            ready = self._heads.first(queues, now, picking.left + 1)
            if not ready:
                break
            beyond = ready.pop() if len(ready) > picking.left else None
            for priority, levels in groupby(ready, key=lambda found: found[0][1]):
                until = beyond[1] if beyond is not None and beyond[0][1] == priority else None
                heap = [(head, queue) for (queue, _), head in levels]
                for queue, line in picking.merge(priority, heap, until).items():
                    self._correct((queue, priority), line)
                if picking.full:
                    break
        return Picked(picking.rows, self.next_due(queues))

    def _look(self, level: Level, n: int) -> Line:
        """The line of a level, which knows n rows at least, or all."""
        line = self._lines.get(level)
        if line is None or (line.end is not None and len(line.rows) < n):
            n = max(n, self._length)
            rows = self._peek(*level, n)
            line = self._keep(level, Line(rows, rows[-1][:2] if len(rows) >= n else None))
        return line

    @property
    def _length(self) -> int:
        """How many rows are looked up at once."""
        return MOST_ROWS // 2 // max(16, len(self._lines) + 1)

    def _keep(self, level: Level, line: Line) -> Line:
        self._lines.pop(level, None)
        self._lines[level] = line
        if len(self._lines) > MOST_LINES:
            del self._lines[next(iter(self._lines))]
        return line

    def _correct(self, level: Level, line: Line) -> None:
        """The head of a level, now that its line was looked at."""
        first = line.first
        if first is not None:
            self._heads.put(level, first)
        else:
            self._heads.drop(level)
            self._lines.pop(level, None)


class _Picking:
    """One claim's way through the levels."""

    def __init__(self, limit: int, now: int, max_bytes: int, look: Callable[[Level, int], Line]) -> None:
        self._limit = limit
        self._now = now
        self._bytes_left = max_bytes
        self._look = look
        self.rows: list[Row] = []
        self.full = limit <= 0

    @property
    def left(self) -> int:
        """How many more are wanted."""
        return self._limit - len(self.rows)

    def merge(self, priority: int, heap: list[tuple[Head, str]], until: Head | None) -> dict[str, Line]:
        """Take due rows of one priority over its queues in order, none behind `until`; answer the lines that were
        looked at, by queue."""
        heapq.heapify(heap)
        lines: dict[str, Line] = {}
        while heap and not self.full and heap[0][0][0] <= self._now:
            if until is not None and heap[0][0] > until:
                break
            head, queue = heap[0]
            if queue not in lines:
                # One more than can be taken, so that the row after the last one taken, the new head, is known.
                lines[queue] = self._look((queue, priority), self.left + 1)
            else:  # the smaller of the root's two children is the second of all
                second = min(heap[1:3])[0] if len(heap) > 1 else until
                self._take(lines[queue], second if until is None or second is None else min(second, until))
            rows = lines[queue].rows
            first = rows[0][:2] if rows else None
            if first is None:
                heapq.heappop(heap)
            elif first != head:
                heapq.heapreplace(heap, (first, queue))
        return lines

    def _take(self, line: Line, until: Head | None) -> None:
        """Take due rows of one level, as far as they come before `until`, where the next level's begin."""
        rows = line.rows
        while rows and not self.full and rows[0][0] <= self._now and (until is None or rows[0][:2] <= until):
            if self.rows and rows[0][2] > self._bytes_left:
                self.full = True
                return
            row = line.pop()
            self.rows.append(row)
            self._bytes_left -= row[2]
            self.full = len(self.rows) >= self._limit
