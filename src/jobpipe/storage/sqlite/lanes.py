"""The waiting tasks of one queue with rules, so that a claim meets only what may start.

Each key is a lane; a queue whose rules do not tell keys apart is one lane. A lane that may not start has no entry in
the order of claims; it comes back when a run of it ends, when time opens it, or when its rules change. So nothing is
written for what is held, and no claim walks over it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from typing import TypeVar

from jobpipe.core.gate import Gate
from jobpipe.core.rules import NOTHING_SAID, Rules, Said
from jobpipe.storage.heads import Head
from jobpipe.storage.sqlite.line import Row

Key = str | None
Peek = Callable[[list[tuple[Key, int]], int], list[list[Row]]]
"""`peek([(key, priority), ...], n)` reads the first n rows of each."""
Level = tuple[Key, int, int, int]
"""Key, priority, how many tasks wait so, and the earliest `run_at` of them."""

MOST_ROWS = 32_768
MOST_OF_ONE = 256
"""Rows that are looked up at a time: of all lanes together, and of one."""
LOOKED_AT = 64
"""Lanes that are looked at together: one statement for all."""
_SPARE = 1000
"""So many entries that are not true any more, and so many idle lanes, are kept before they are cleared away."""


class Lane:
    """One key: what it has used up, and its waiting tasks by priority. `turn` orders its starts among others'."""

    __slots__ = ("gate", "key", "shut", "stamp", "turn", "waiting", "waits")

    def __init__(self, key: Key, gate: Gate, turn: int) -> None:
        self.key = key
        self.gate = gate
        self.turn = turn
        self.waiting: dict[int, _Waiting] = {}
        self.waits = 0
        """How many tasks wait."""
        self.shut = False
        self.stamp = 0
        """Its entry among those that time will open is true while it says this."""


class _Waiting:
    """The tasks of a lane with one priority, as far as they are known: `rows`, the first one last, reach up to `end`
    (None: there are no others).
    """

    __slots__ = ("end", "lane", "priority", "rows", "stamp")

    def __init__(self, lane: Lane, priority: int, end: Head | None) -> None:
        self.lane = lane
        self.priority = priority
        self.rows: list[Row] = []
        self.end = end
        self.stamp = 0

    @property
    def first(self) -> Head | None:
        """A place not behind that of the first task; None when there is none."""
        return self.rows[-1][:2] if self.rows else self.end

    def accept(self, rows: Sequence[Row], most: int) -> None:
        """New tasks, in order."""
        place = rows[0][:2]
        if self.end is not None:
            if place <= self.end:
                self.forget(place)
        elif self.rows and place < self.rows[0][:2]:
            self.forget(place)
        else:
            known = rows[: max(0 if self.rows else 1, most - len(self.rows))]
            self.rows[:0] = reversed(known)
            if len(known) < len(rows):
                self.end = self.rows[0][:2]

    def forget(self, place: Head | None = None) -> None:
        """What was known is not true any more; the first task may be at `place`."""
        known = [head for head in (self.first, place) if head is not None]
        self.rows.clear()
        self.end = min(known)


Order = TypeVar("Order")
S = TypeVar("S", Lane, _Waiting)


class Lanes:
    """The queue's own gate, and its lanes. Made anew whenever the rules change, from what the store says."""

    def __init__(self, rules: Rules, keys: Mapping[str, Said], peek: Peek, *, by_key: bool) -> None:
        self.by_key = by_key
        self.gate = Gate(rules)
        self.limited = rules.limited or by_key
        self._keys = keys
        self._peek = peek
        self._lanes: dict[Key, Lane] = {}
        self._later: dict[int, list[tuple[Head, int, int, _Waiting]]] = {}
        self._ready: dict[int, list[tuple[Head, int, int, _Waiting]]] = {}
        self._asleep: list[tuple[int, int, int, Lane]] = []
        self._number = count(1)
        self._now = 0
        self._swept = _SPARE
        self._depth: Counter[int] = Counter()
        """How many tasks of each priority wait."""
        self.waiting_keys = 0
        """How many keys have waiting tasks."""

    # --- what is there ---

    def load(self, levels: Iterable[Level]) -> None:
        """These tasks wait."""
        for key, priority, n, run_at in levels:
            lane = self._lane(key)
            self._count(lane, priority, n)
            waiting = lane.waiting[priority] = _Waiting(lane, priority, (run_at, 0))
            self._enter(waiting)

    def restore(self, key: Key, running: int, next_us: int, hold_until: int) -> None:
        """What the store knows of the use of a key."""
        gate = self._lane(key).gate
        gate.running, gate.next_us, gate.hold_until = running, next_us, hold_until

    def gate_of(self, key: Key) -> Gate | None:
        """What a key has used up; None where keys are not told apart, or for one without any."""
        if not self.by_key or key is None:
            return None
        lane = self._lanes.get(key)
        return self._new_gate(key) if lane is None else lane.gate

    @property
    def priorities(self) -> list[int]:
        """Those that have, or had, waiting tasks."""
        return list(self._depth)

    def knows(self, key: Key) -> bool:
        """Whether a key has waiting tasks."""
        lane = self._lanes.get(key if self.by_key else None)
        return lane is not None and lane.waits > 0

    # --- what comes and goes ---

    def accept(self, key: Key, priority: int, rows: Sequence[Row]) -> None:
        """New tasks are queued, in order."""
        lane = self._lane(key if self.by_key else None)
        self._count(lane, priority, len(rows))
        waiting = lane.waiting.get(priority)
        if waiting is None:
            waiting = lane.waiting[priority] = _Waiting(lane, priority, None)
        before = waiting.first
        waiting.accept(rows, self._length)
        if waiting.first != before:
            self._enter(waiting)

    def add(self, key: Key, priority: int, run_at: int, seq: int) -> None:
        """A task is queued again."""
        lane = self._lane(key if self.by_key else None)
        self._count(lane, priority, 1)
        waiting = lane.waiting.get(priority)
        if waiting is None:
            waiting = lane.waiting[priority] = _Waiting(lane, priority, (run_at, seq))
        elif waiting.end is None or (run_at, seq) <= waiting.end:
            waiting.forget((run_at, seq))
        self._enter(waiting)

    def leave(self, key: Key, priority: int) -> None:
        """A waiting task is not queued any more, other than by a claim."""
        lane = self._lane(key if self.by_key else None)
        self._count(lane, priority, -1)
        waiting = lane.waiting.get(priority)
        if waiting is not None and waiting.first is not None:
            waiting.forget()
            self._enter(waiting)
        self._drop_idle(lane)

    def ended(self, key: Key) -> None:
        """A run came to its end."""
        self.gate.end()
        lane = self._lane(key if self.by_key else None)
        if self.by_key:
            lane.gate.end()
        if lane.shut:
            self._reopen(lane)
        self._drop_idle(lane)

    def hold(self, key: Key, until: int) -> None:
        """A key starts nothing before `until`; it shuts when a claim meets it."""
        self._lane(key).gate.hold(until)

    # --- claims ---

    def head(self, priority: int, now: int) -> Head | None:
        """No task of this priority may start before this place; None while that is so for ever."""
        opens = self.gate.opens(now)
        if opens is None or not self._depth[priority]:
            return None
        self._wake(now)
        self._ripen(priority, now)
        known: list[Head] = []
        shut = self.gate.room(now) <= 0  # all of it: of none it is told then whether it may start
        while (ready := self._pruned(priority)) and not shut and ready[0][3].lane.gate.room(now) <= 0:
            self._shut(ready[0][3].lane, now)
        if ready:
            known.append(ready[0][3].rows[-1][:2] if ready[0][3].rows else (0, 0))
        else:
            known += [later[0][0] for later in [self._later.get(priority)] if later]
            known += [(asleep[0], 0) for asleep in self._asleep[:1]]
        if not known:
            return None
        return max(min(known), (opens, 0)) if opens > now else min(known)

    def opens(self, now: int) -> int | None:
        """When time lets something start that is shut now: then heads may come to lie earlier."""
        self._wake(now)
        times = [asleep[0] for asleep in self._asleep[:1]]
        opens = self.gate.opens(now)
        if opens is not None and opens > now:
            times.append(opens)
        return min(times, default=None)

    def next(self, priority: int, now: int) -> Row | None:
        """The next due task that may start; that after it only once it was taken."""
        if self.gate.room(now) <= 0:
            return None
        self._wake(now)
        self._ripen(priority, now)
        while heap := self._pruned(priority):
            order, _, _, waiting = heap[0]
            if not waiting.rows:
                self._look(priority)
                self._ripen(priority, now)
                continue
            if waiting.lane.gate.room(now) <= 0:
                self._shut(waiting.lane, now)
                continue
            row = waiting.rows[-1]
            if row[0] > now or order != self._order(waiting):
                self._enter(waiting)
                self._ripen(priority, now)
                continue
            return row
        return None

    def take(self, priority: int, now: int) -> Row:
        """The task that `next` gave starts."""
        waiting = self._ready[priority][0][3]
        lane = waiting.lane
        row = waiting.rows.pop()
        self.gate.start(now)
        if self.by_key:
            lane.gate.start(now)
        lane.turn = next(self._number)
        self._count(lane, priority, -1)
        if lane.gate.room(now) <= 0:
            self._shut(lane, now)
        else:
            for other in list(lane.waiting.values()) if self.gate.rules.fair else (waiting,):
                self._enter(other)
        return row

    def give_back(self, key: Key, priority: int) -> None:
        """A task that was taken does not start after all, and is met no more."""
        lane = self._lane(key if self.by_key else None)
        self.gate.undo()
        if self.by_key:
            lane.gate.undo()
        self._count(lane, priority, 1)
        if lane.shut:
            self._reopen(lane)

    # --- inside ---

    def _lane(self, key: Key) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            if len(self._lanes) > self._swept:
                for idle in list(self._lanes.values()):
                    self._drop_idle(idle)
                self._swept = 2 * len(self._lanes) + _SPARE
            lane = self._lanes[key] = Lane(key, self._new_gate(key), next(self._number))
        return lane

    def _new_gate(self, key: Key) -> Gate:
        """Tasks without a key have no key limits."""
        if key is None or not self.by_key:
            return Gate()
        return Gate(self.gate.rules.of_key(self._keys.get(key, NOTHING_SAID)))

    def _count(self, lane: Lane, priority: int, n: int) -> None:
        self._depth[priority] += n
        before, lane.waits = lane.waits, lane.waits + n
        if not before and lane.waits:
            lane.turn = next(self._number)
            self.waiting_keys += 1
        elif before and not lane.waits:
            self.waiting_keys -= 1

    def _drop_idle(self, lane: Lane) -> None:
        """Forget a lane of which nothing is to be remembered."""
        gate = lane.gate
        if lane.waits or gate.running or gate.next_us > self._now * 1000 or gate.hold_until > self._now:
            return
        for waiting in lane.waiting.values():
            waiting.stamp += 1
        lane.stamp += 1
        self._lanes.pop(lane.key, None)

    @property
    def _length(self) -> int:
        return max(1, min(MOST_OF_ONE, MOST_ROWS // (len(self._lanes) + 1)))

    def _order(self, waiting: _Waiting) -> Head:
        """The place among those that are due."""
        return (waiting.lane.turn, 0) if self.gate.rules.fair else waiting.rows[-1][:2]

    def _enter(self, waiting: _Waiting) -> None:
        """Give it a place by what is known of its first task."""
        waiting.stamp += 1
        first = waiting.first
        if first is None:
            waiting.lane.waiting.pop(waiting.priority, None)
        elif not waiting.lane.shut:
            later = self._later.setdefault(waiting.priority, [])
            heapq.heappush(later, (first, next(self._number), waiting.stamp, waiting))
            if len(later) > 4 * len(self._lanes) + _SPARE:
                self._later[waiting.priority] = _true(later)

    def _ripen(self, priority: int, now: int) -> None:
        """Those whose first task is due come into the order of claims."""
        later = self._later.get(priority)
        ready = self._ready.setdefault(priority, [])
        while later and later[0][0][0] <= now:
            first, number, stamp, waiting = heapq.heappop(later)
            if waiting.stamp == stamp:
                order = (waiting.lane.turn, 0) if self.gate.rules.fair else first
                heapq.heappush(ready, (order, number, stamp, waiting))
        if len(ready) > 4 * len(self._lanes) + _SPARE:
            self._ready[priority] = _true(ready)
        if not later:
            self._later.pop(priority, None)

    def _pruned(self, priority: int) -> list[tuple[Head, int, int, _Waiting]]:
        """Those that are due, without what is not true any more at their head."""
        ready = self._ready.get(priority)
        while ready and ready[0][2] != ready[0][3].stamp:
            heapq.heappop(ready)
        if not ready:
            self._ready.pop(priority, None)
        return ready or []

    def _look(self, priority: int) -> None:
        """Look up the first rows of the lanes that come next, as far as they are not known."""
        ready = self._ready[priority]
        unknown: list[_Waiting] = []
        passed: list[tuple[Head, int, int, _Waiting]] = []
        while ready and len(unknown) < LOOKED_AT and len(passed) < 4 * LOOKED_AT:
            entry = heapq.heappop(ready)
            if entry[2] != entry[3].stamp:
                continue
            if entry[3].rows:
                passed.append(entry)
            else:
                unknown.append(entry[3])
        for entry in passed:
            heapq.heappush(ready, entry)
        n = self._length
        found = self._peek([(waiting.lane.key, priority) for waiting in unknown], n)
        for waiting, rows in zip(unknown, found, strict=True):
            waiting.rows = rows[::-1]
            waiting.end = rows[-1][:2] if len(rows) >= n else None
            self._enter(waiting)

    def _shut(self, lane: Lane, now: int) -> None:
        """Nothing of this lane may start: it leaves the order of claims."""
        lane.shut = True
        for waiting in list(lane.waiting.values()):
            waiting.stamp += 1
            if waiting.first is None:
                del lane.waiting[waiting.priority]
        self._sleep(lane, now)

    def _sleep(self, lane: Lane, now: int) -> None:
        lane.stamp += 1
        opens = lane.gate.opens(now)
        if opens is not None:
            heapq.heappush(self._asleep, (opens, next(self._number), lane.stamp, lane))
            if len(self._asleep) > 4 * len(self._lanes) + _SPARE:
                self._asleep = _true(self._asleep)

    def _wake(self, now: int) -> None:
        """Those that time opens come back."""
        self._now = now
        while self._asleep and (self._asleep[0][0] <= now or self._asleep[0][2] != self._asleep[0][3].stamp):
            _, _, stamp, lane = heapq.heappop(self._asleep)
            if lane.stamp == stamp:
                self._reopen(lane)

    def _reopen(self, lane: Lane) -> None:
        """It may start again, or a claim will shut it anew."""
        lane.stamp += 1
        lane.shut = False
        for waiting in list(lane.waiting.values()):
            self._enter(waiting)


def _true(entries: list[tuple[Order, int, int, S]]) -> list[tuple[Order, int, int, S]]:
    """Those entries of a heap that are true, as a heap."""
    kept = [entry for entry in entries if entry[2] == entry[3].stamp]
    heapq.heapify(kept)
    return kept
