"""The tasks that one queue and priority begins with, as far as memory knows them: looked up some at a time, or seen as
they were accepted, so that a claim need not look at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from jobpipe.core.task import Task
from jobpipe.storage.heads import Head

MOST_BYTES = 256 * 1024
"""Of payload that a line keeps with its tasks."""

Row = tuple[int, int, int, Task | None]
"""`run_at`, `seq`, payload bytes, and the task itself if it is known."""


class Line:
    """Known rows in the order of claims: all with a place up to `end`, or (None) all that the level has."""

    __slots__ = ("_bytes", "end", "rows")

    def __init__(self, rows: Sequence[Row] = (), end: Head | None = None) -> None:
        self.rows: deque[Row] = deque(rows)
        self.end = end
        self._bytes = 0

    @property
    def first(self) -> Head | None:
        """A place not behind that of the first task; None when there is none."""
        return self.rows[0][:2] if self.rows else self.end

    def next(self) -> Row | None:
        """The first known row."""
        return self.rows[0] if self.rows else None

    @property
    def ran_out(self) -> bool:
        """Whether the level may go on behind what is known."""
        return not self.rows and self.end is not None

    def goes_on(self, now: int) -> bool:
        """Whether it is known that another task is due."""
        return bool(self.rows) and self.rows[0][0] <= now

    def pop(self) -> Row:
        """Take the first row."""
        row = self.rows.popleft()
        if row[3] is not None:
            self._bytes -= row[2]
        return row

    def extend(self, run_at: int, tasks: Sequence[Task], most: int) -> bool:
        """New tasks, due at `run_at`, as far as the line has room: up to `most` rows.

        False when they come before others, so that this line is not true any more.
        """
        place = (run_at, tasks[0].seq)
        if self.end is not None:
            return place > self.end
        if self.rows and place < self.rows[-1][:2]:
            return False
        for task in tasks:
            if self.rows and (len(self.rows) >= most or self._bytes > MOST_BYTES):
                self.end = self.rows[-1][:2]
                break
            size = len(task.payload)
            self.rows.append((run_at, task.seq, size, task))
            self._bytes += size
        return True
