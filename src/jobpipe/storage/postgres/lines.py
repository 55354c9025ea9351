"""What may start of one queue, in its order, as a single claim sees it: rows that were read, and gates of core.gate.

Nothing here asks the database: limited.py reads and writes.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from jobpipe.core.gate import Gate
from jobpipe.storage.postgres.link import Row
from jobpipe.storage.postgres.statements_flow import NEVER

Order = tuple[int, int, int]
"""Minus the priority, then `run_at` or the turn, then seq."""


class Candidate(Struct, frozen=True):
    """A waiting task that may be claimed."""

    seq: int
    priority: int
    run_at: int
    size: int

    @property
    def order(self) -> Order:
        """Its place among the tasks of other queues."""
        return -self.priority, self.run_at, self.seq


class Line:
    """Due tasks in the order of claims. From `end` on (None: nowhere) there may be others, which were not read: where
    one of those may be next the line is `cut`, and a claim that wants more looks once more.
    """

    def __init__(self, candidates: Iterable[Candidate], end: Order | None = None) -> None:
        self._rows = sorted(candidates, key=lambda row: row.order, reverse=True)
        self._end = end
        self.cut = False

    def first(self, now: int) -> Candidate | None:
        """The next one."""
        if self._rows and (self._end is None or self._rows[-1].order <= self._end):
            return self._rows[-1]
        self.cut = self._end is not None
        return None

    def take(self, now: int) -> Candidate:
        """It begins."""
        return self._rows.pop()

    def undo(self, seq: int) -> None:
        """It did not begin after all."""


class Key:
    """What a key has used up, and its turn."""

    __slots__ = ("gate", "name", "started", "turn")

    def __init__(self, name: str, gate: Gate, turn: int) -> None:
        self.name = name
        self.gate = gate
        self.turn = turn
        self.started = False


class Lane:
    """The tasks of one key with one priority, as far as they were read: up to `most` of them."""

    __slots__ = ("key", "most", "place", "priority", "rows", "run_at", "seq", "taken")

    def __init__(self, row: Row, key: Key) -> None:
        self.key = key
        self.priority: int = row["priority"]
        self.run_at: int = row["run_at"]
        self.seq: int = row["seq"]
        self.place: int = row["place"]
        self.most = 0
        self.rows: list[Candidate] = []
        self.taken = 0

    @property
    def read(self) -> tuple[object, ...]:
        """It as it was read."""
        return self.key.name, self.priority, self.run_at, self.seq, self.place, 0

    @property
    def left(self) -> Candidate | None:
        """The next one that is known."""
        return self.rows[self.taken] if self.taken < len(self.rows) else None

    def kept(self, now: int, gone: Collection[int], *, fair: bool) -> tuple[object, ...]:
        """A row of KEEP_LANES, now that the tasks `gone` do not wait any more."""
        waiting = [row for row in self.rows if row.seq not in gone]
        if self.most and not waiting and len(self.rows) < self.most:
            return self.key.name, self.priority, None, None, None, None
        last = self.rows[-1] if self.rows else None
        head = waiting[0] if waiting else last
        run_at, seq = (self.run_at, self.seq) if head is None else (head.run_at, head.seq)
        place = self.key.turn if fair else run_at
        return self.key.name, self.priority, run_at, seq, place, self._opens(run_at, now)

    def _opens(self, run_at: int, now: int) -> int:
        gate = self.key.gate
        if gate.room(now) <= 0:
            opens = gate.opens(now)
            return NEVER if opens is None else max(opens, run_at, now + 1)
        return run_at if run_at > now else 0


class Turns:
    """The open lanes of a queue that tells keys apart, those read. `whole`: there are no others. `cut`: what comes next
    was not read, and a claim that wants more looks once more.
    """

    def __init__(self, lanes: Sequence[Lane], *, fair: bool, whole: bool, turn: int) -> None:
        self.cut = False
        self.lanes = lanes
        self.fair = fair
        self.turn = turn
        self._heap: list[tuple[Order, int, Lane]] = []
        self._end: Order | None = None if whole else _order_of(lanes[-1])
        self._by_seq: dict[int, Key] = {}
        for lane in lanes:
            self._enter(lane)

    def first(self, now: int) -> Candidate | None:
        """The next one of a key that may start one more."""
        while self._heap and not self.cut:
            order, _, lane = self._heap[0]
            row = lane.left
            if row is None or lane.key.gate.room(now) <= 0 or row.run_at > now:
                heapq.heappop(self._heap)
            elif order != self._order(lane, row):
                heapq.heapreplace(self._heap, (self._order(lane, row), id(lane), lane))
            elif self._end is None or order <= self._end:
                return row
            else:
                break
        self.cut = self.cut or self._end is not None
        return None

    def take(self, now: int) -> Candidate:
        """It begins; its key has had its turn."""
        lane = self._heap[0][2]
        row = lane.rows[lane.taken]
        lane.taken += 1
        lane.key.gate.start(now)
        lane.key.started = True
        self.turn += 1
        lane.key.turn = self.turn
        self._by_seq[row.seq] = lane.key
        if lane.left is None and len(lane.rows) == lane.most and lane.key.gate.room(now) > 0:
            self.cut = True  # the next one of this lane may come before those that were read of the others
        return row

    def undo(self, seq: int) -> None:
        """It did not begin after all."""
        self._by_seq.pop(seq).gate.undo()

    @property
    def started(self) -> list[Key]:
        """The keys that have had a turn, by name."""
        keys = {lane.key.name: lane.key for lane in self.lanes if lane.key.started}
        return [keys[name] for name in sorted(keys)]

    def kept(self, now: int, gone: Collection[int]) -> list[tuple[object, ...]]:
        """Rows of KEEP_LANES for those that are not as they were read, now that `gone` do not wait any more."""
        return [row for lane in self.lanes if (row := lane.kept(now, gone, fair=self.fair)) != lane.read]

    def _enter(self, lane: Lane) -> None:
        row = lane.left
        if row is not None:
            heapq.heappush(self._heap, (self._order(lane, row), id(lane), lane))

    def _order(self, lane: Lane, row: Candidate) -> Order:
        return -lane.priority, lane.key.turn if self.fair else row.run_at, row.seq


def _order_of(lane: Lane) -> Order:
    return -lane.priority, lane.place, lane.seq


class Queue:
    """A queue as one claim sees it: its gate and what may start. Of a `limited` one nothing is claimed ahead."""

    def __init__(self, gate: Gate, line: Line | Turns, *, limited: bool) -> None:
        self.gate = gate
        self.line = line
        self.limited = limited

    def first(self, now: int) -> Candidate | None:
        """The next one, if the queue lets one more start."""
        return self.line.first(now) if self.gate.room(now) > 0 else None

    def take(self, now: int) -> Candidate:
        """It begins."""
        self.gate.start(now)
        return self.line.take(now)

    def undo(self, seq: int) -> None:
        """It did not begin after all."""
        self.gate.undo()
        self.line.undo(seq)


Picked = list[tuple[Candidate, Queue]]
"""What one call gets, and of which queue."""


def merged(queues: Collection[Queue], limit: int, free: int, now: int, room: int) -> Picked:
    """The next tasks over all these queues for one worker, of limited ones only what it can begin at once: at most
    `room` bytes, but one task."""
    picked: Picked = []
    while len(picked) < limit:
        open_ = [queue for queue in queues if not queue.limited or len(picked) < free]
        firsts = [
            (row.order, at, row) for at, queue in enumerate(open_) if (row := queue.first(now)) is not None
        ]
        if not firsts or any(queue.line.cut for queue in open_):
            break
        _, at, row = min(firsts)
        if picked and row.size > room:
            break
        room -= row.size
        picked.append((open_[at].take(now), open_[at]))
    return picked
