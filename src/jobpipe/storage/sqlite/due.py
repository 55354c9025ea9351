"""Which queued tasks come next, at a cost that does not grow with what waits, lies in the future or is finished.

For each queue and priority that has queued tasks (a level) memory holds its head: a (run_at, seq) not later than its
first task. A claim looks only at levels whose head is due, one index seek each, and merges them; what it sees
corrects the heads. So a level that lies in the future costs nothing, whatever its priority, until it is due. The rows
that a few levels begin with are kept from one look to the next (line.py). Of a queue with rules lanes (lanes.py) say
which task is next, and where its levels begin; one that nothing may be claimed from has no head.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, islice

from msgspec import Struct

from jobpipe.core.task import PRIORITY_MAX, PRIORITY_MIN, Task
from jobpipe.storage.heads import Head, Heads, Level
from jobpipe.storage.sqlite.lanes import Key, Lanes
from jobpipe.storage.sqlite.line import Line, Row
from jobpipe.storage.sqlite.passed import Passed

Peek = Callable[[Sequence[Level], int], list[list[Row]]]
"""`peek(levels, n)` reads the first n rows of each."""

EARLIEST: Head = (0, 0)
PRIORITIES = range(PRIORITY_MIN, PRIORITY_MAX + 1)
MOST_LINES = 2048
MOST_ROWS = 8192
"""In all lines together, about: few lines may be long."""


class Picked(Struct, frozen=True):
    """The rows to claim, in order, and the earliest head left among the queues asked for (None: nothing waits)."""

    rows: list[Row]
    next_due: int | None


class Due:
    """The heads of all levels, and the lines of some. `peek` reads what is not known, `clock` gives milliseconds."""

    def __init__(self, peek: Peek, clock: Callable[[], int]) -> None:
        self._peek = peek
        self._clock = clock
        self._heads = Heads()
        self.ruled: dict[str, Lanes] = {}
        """The queues whose claims obey rules."""
        self._ruled_heads = Heads()
        self._opening = Heads()
        """When time opens something of a queue with rules: until then a head is a time, from then on a place."""
        self._lines: dict[Level, Line] = {}
        self._passed = Passed()

    def load(self, levels: Iterable[Level]) -> None:
        """Begin anew, knowing only which levels have tasks; the first look at each finds its true head."""
        self._heads.clear()
        self._ruled_heads.clear()
        self._opening.clear()
        self._passed.clear()
        for level in levels:
            if level[0] not in self.ruled:
                self._heads.put(level, EARLIEST)
        self._lines.clear()
        for queue in self.ruled:
            self.refresh(queue)

    def rule(self, queue: str, lanes: Lanes | None, priorities: Iterable[int]) -> None:
        """From now on the claims of a queue go by these lanes; None: by no rules. Its tasks have these priorities."""
        for level in [(queue, priority) for priority in PRIORITIES]:
            self._heads.drop(level)
            self._ruled_heads.drop(level)
            self._lines.pop(level, None)
        self._opening.drop((queue, 0))
        self._passed.forget(queue)
        if lanes is not None:
            self.ruled[queue] = lanes
            self.refresh(queue)
            return
        self.ruled.pop(queue, None)
        for priority in priorities:
            self._heads.put((queue, priority), EARLIEST)

    def refresh(self, queue: str, now: int | None = None) -> None:
        """Where the levels of a queue with rules begin, now that something changed."""
        lanes, now = self.ruled[queue], self._clock() if now is None else now
        for priority in lanes.priorities:
            level, head = (queue, priority), lanes.head(priority, now)
            for heads in (self._heads, self._ruled_heads):
                if head is None:
                    heads.drop(level)
                else:
                    heads.put(level, head)
        opens = lanes.opens(now)
        if opens is None:
            self._opening.drop((queue, 0))
        else:
            self._opening.put((queue, 0), (opens, 0))

    def _open(self, now: int) -> None:
        """What time has opened is in the order of claims by its own place, not by when it opened."""
        while opened := self._opening.first(None, now, len(self.ruled)):
            for (queue, _), _ in opened:
                self.refresh(queue, now)

    def ended(self, queue: str, key: Key) -> None:
        """A run of a task came to its end."""
        lanes = self.ruled.get(queue)
        if lanes is not None:
            lanes.ended(key)
            self.refresh(queue)

    def passed(self, task: Task) -> None:
        """A picked task expired: it does not start, and waits for its end, or for a clock that is set back."""
        self._passed.put(task)
        lanes = self.ruled.get(task.queue)
        if lanes is not None:
            lanes.give_back(task.key, task.priority)
            self.refresh(task.queue)

    def obeys(self, queues: frozenset[str] | None, now: int) -> bool:
        """Whether a claim for `queues` may meet one with rules."""
        due = self._ruled_heads.earliest(queues) if self.ruled else None
        return due is not None and due <= now

    def accept(self, queue: str, priority: int, run_at: int, tasks: Sequence[Task]) -> None:
        """New tasks with the same key are queued, in the order of their seqs."""
        level = (queue, priority)
        lanes = self.ruled.get(queue)
        if lanes is not None:
            rows = [(run_at, task.seq, len(task.payload), None) for task in tasks]
            lanes.accept(tasks[0].key, priority, rows)
            self.refresh(queue)
            return
        head = self._heads.get(level)
        place = (run_at, tasks[0].seq)
        self._heads.lower(level, place)
        line = self._lines.get(level)
        if line is None:
            if head is not None:  # others wait, of which nothing is known
                return
            line = self._keep(level, Line())
            self._trim()
        if not line.extend(run_at, tasks, 2 * self._length):
            del self._lines[level]

    def add(self, queue: str, priority: int, run_at: int, seq: int, key: Key) -> None:
        """A task is queued again."""
        level = (queue, priority)
        lanes = self.ruled.get(queue)
        if lanes is not None:
            lanes.add(key, priority, run_at, seq)
            self.refresh(queue)
            return
        place = (run_at, seq)
        self._heads.lower(level, place)
        line = self._lines.get(level)
        if line is not None and (line.end is None or place <= line.end):
            del self._lines[level]

    def forget(self, task: Task) -> None:
        """A task is not queued any more, other than by a claim."""
        self._passed.drop(task.seq)
        lanes = self.ruled.get(task.queue)
        if lanes is not None:
            lanes.leave(task.key, task.priority)
            self.refresh(task.queue)
        self._lines.pop((task.queue, task.priority), None)

    def _restore(self, now: int) -> None:
        """The clock was set back: what had expired has not yet."""
        for task in self._passed.living(now):
            self.forget(task)
            self.add(task.queue, task.priority, task.run_at, task.seq, task.key)

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        return self._heads.earliest(queues)

    def oldest(self, now: int) -> dict[str, int]:
        """The `run_at` of the task that has been due longest, for each queue that has a due one."""
        self._restore(now)
        found = self._passed.oldest(now)
        for queue in [queue for queue in self._heads.queues if queue not in self.ruled]:
            while (first := self._heads.oldest(queue)) is not None and first[1][0] <= now:
                level, head = first
                line = self._lines.get(level)
                if line is None or not line.rows:
                    (rows,) = self._peek([level], 1)
                    line = Line(rows, None if not rows else rows[0][:2])
                self._correct(level, line, now)
                if self._heads.get(level) == head:
                    found[queue] = min(head[0], found.get(queue, head[0]))
                    break
        for queue, lanes in self.ruled.items():  # what is held has been due all the same
            levels = [(queue, priority) for priority in lanes.priorities]
            firsts = self._peek(levels, 1) if levels else []
            runs = [rows[0][0] for rows in firsts if rows and rows[0][0] <= now]
            if runs:
                found[queue] = min(runs)
        return found

    def pick(
        self, queues: frozenset[str] | None, limit: int, now: int, max_bytes: int, free: int | None = None
    ) -> Picked:
        """The next due tasks: higher priority, then earlier `run_at` or turn, then order of acceptance.

        At most `max_bytes` of payload, but one task. `free` as in ClaimRequest.
        """
        self._restore(now)
        self._open(now)
        picking = _Picking(limit, now, max_bytes, self._look, limit if free is None else free)
        while not picking.full:
            # One more than can be needed: before its first task all that comes first is in the others.
            ready = self._heads.first(queues, now, picking.left + 1)
            if not ready:
                break
            beyond = ready.pop() if len(ready) > picking.left else None
            self._read([level for level, _ in ready], picking)
            for priority, levels in groupby(ready, key=lambda found: found[0][1]):
                until = beyond[1] if beyond is not None and beyond[0][1] == priority else None
                heap = [(head, queue) for (queue, _), head in levels]
                for queue, line in picking.merge(priority, heap, until).items():
                    # A head that is too early does no harm where each level is looked at.
                    if beyond is not None or not line.goes_on(now):
                        self._correct((queue, priority), line, now)
                if picking.full:
                    break
        self._trim()  # not before: what this claim takes would be read once more
        # What is kept for free workers is nothing to look for again at once, where this claim's have none.
        next_due = self.next_due(queues)
        for queue in picking.passed:
            self.refresh(queue, now)
        return Picked(picking.rows, self.next_due(queues) if picking.rows else next_due)

    def _look(self, level: Level, picking: _Picking) -> Line | _Ruled:
        """The line of a level, which knows its first row."""
        lanes = self.ruled.get(level[0])
        if lanes is not None:
            return _Ruled(lanes, level[1], picking)
        self._read([level], picking)
        return self._lines[level]

    def _read(self, levels: Sequence[Level], picking: _Picking) -> None:
        """Have the lines of these levels: the unknown are read together, the fewer the more rows of each."""
        known = self._lines
        unknown = [
            level
            for level in levels
            if level[0] not in self.ruled and ((line := known.get(level)) is None or line.ran_out)
        ]
        if not unknown:
            return
        # One more than can be taken, or than memory is for, so that most often the new head is known as well.
        n = max(2 * picking.left, self._length) // len(unknown) + 1
        taken = len(picking.rows)  # which come first still
        for level, rows in zip(unknown, self._peek(unknown, n + taken), strict=True):
            end = rows[-1][:2] if len(rows) >= n + taken else None
            line = known.get(level)
            behind = EARLIEST if line is None or line.end is None else line.end
            self._keep(level, Line([row for row in rows if row[:2] > behind], end))

    @property
    def _length(self) -> int:
        """How many rows are looked up at once."""
        return MOST_ROWS // 2 // max(16, len(self._lines) + 1)

    def _keep(self, level: Level, line: Line) -> Line:
        self._lines.pop(level, None)
        self._lines[level] = line
        return line

    def _trim(self) -> None:
        """Forget the lines that were read longest ago, if there are too many."""
        for level in list(islice(self._lines, max(0, len(self._lines) - MOST_LINES))):
            del self._lines[level]

    def _correct(self, level: Level, line: Line | _Ruled, now: int) -> None:
        """The head of a level, now that its line was looked at."""
        if isinstance(line, _Ruled):
            if line.passed:
                line.note(level[0])
                self._heads.drop(level)  # until this claim is over
            else:
                self.refresh(level[0], now)
            return
        first = line.first
        if first is not None:
            self._heads.put(level, first)
        else:
            self._heads.drop(level)
            self._lines.pop(level, None)


class _Ruled:
    """A level of a queue with rules, as one claim sees it."""

    __slots__ = ("_lanes", "_picking", "_priority", "passed")

    ran_out = False

    def __init__(self, lanes: Lanes, priority: int, picking: _Picking) -> None:
        self._lanes = lanes
        self._priority = priority
        self._picking = picking
        self.passed = False
        """Whether what is left of it is kept for free workers."""

    def next(self) -> Row | None:
        """The first row that may be taken; what workers ask for ahead is none of a queue with limits."""
        if self._lanes.limited and len(self._picking.rows) >= self._picking.free:
            self.passed = True
            return None
        return self._lanes.next(self._priority, self._picking.now)

    @property
    def first(self) -> Head | None:
        """The place of that row."""
        row = self.next()
        return None if row is None else row[:2]

    def goes_on(self, now: int) -> bool:
        """Never: what may begin is asked anew."""
        return False

    def note(self, queue: str) -> None:
        """Have the claim know that it passed over this queue."""
        self._picking.passed.append(queue)

    def pop(self) -> Row:
        """Take that row."""
        return self._lanes.take(self._priority, self._picking.now)


class _Picking:
    """One claim's way through the levels, for workers of which `free` have nothing to do."""

    def __init__(
        self,
        limit: int,
        now: int,
        max_bytes: int,
        look: Callable[[Level, _Picking], Line | _Ruled],
        free: int,
    ) -> None:
        self._limit = limit
        self.now = now
        self.free = free
        self._bytes_left = max_bytes
        self._look = look
        self.rows: list[Row] = []
        self.passed: list[str] = []
        """Queues of which something is kept for free workers."""
        self.full = limit <= 0

    @property
    def left(self) -> int:
        """How many more are wanted."""
        return self._limit - len(self.rows)

    def merge(
        self, priority: int, heap: list[tuple[Head, str]], until: Head | None
    ) -> dict[str, Line | _Ruled]:
        """Take due rows of one priority over its queues in order, none behind `until`; answer the lines that were
        looked at, by queue."""
        heapq.heapify(heap)
        lines: dict[str, Line | _Ruled] = {}
        while heap and not self.full and heap[0][0][0] <= self.now:
            if until is not None and heap[0][0] > until:
                break
            head, queue = heap[0]
            if queue not in lines or lines[queue].ran_out:
                lines[queue] = self._look((queue, priority), self)
            else:  # the smaller of the root's two children is the second of all
                second = min(heap[1:3])[0] if len(heap) > 1 else until
                self._take(lines[queue], second if until is None or second is None else min(second, until))
            first = lines[queue].first
            if first is None:
                heapq.heappop(heap)
            elif first != head:
                heapq.heapreplace(heap, (first, queue))
        return lines

    def _take(self, line: Line | _Ruled, until: Head | None) -> None:
        """Take due rows of one level, as far as they come before `until`, where the next level's begin."""
        row = line.next()
        while row is not None and row[0] <= self.now and (until is None or row[:2] <= until):
            if self.rows and row[2] > self._bytes_left:
                self.full = True
                return
            self.rows.append(line.pop())
            self._bytes_left -= row[2]
            if len(self.rows) >= self._limit:
                self.full = True
                return
            row = line.next()
