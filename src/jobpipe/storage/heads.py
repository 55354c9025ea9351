"""The order of claims over many levels (a queue and a priority that have waiting tasks), at a cost that grows with what
a claim can need, not with how many levels there are.

Of each level the head is known: a place not behind that of its first task. The first tasks of all are in the levels
whose heads come first, at most as many levels as tasks are wanted; so no claim looks at more.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator

Level = tuple[str, int]
"""Queue and priority."""
Head = tuple[int, int]
"""`run_at` and `seq`: a place in the order of claims within a level."""

_SPARE = 64
"""So many entries that are not true any more are always kept."""
_BULK = 16
"""When more have become due than this part of all there are, all is sorted anew: that is cheaper."""


class Heads:
    """The heads of all levels: of all queues together, and by itself of each that was asked for by itself."""

    def __init__(self) -> None:
        self._all = _Order()
        self._queues: dict[str, dict[Level, None]] = {}
        self._asked: dict[str, _Order] = {}

    def __len__(self) -> int:
        return len(self._all.heads)

    def __iter__(self) -> Iterator[Level]:
        return iter(self._all.heads)

    def get(self, level: Level) -> Head | None:
        """The head of a level; None when it has no tasks."""
        return self._all.heads.get(level)

    def put(self, level: Level, head: Head) -> None:
        """The level begins there, whatever was known before."""
        known = self._all.heads.get(level)
        if known == head:
            return
        self._all.put(level, head)
        if known is None:
            self._queues.setdefault(level[0], {})[level] = None
        if (order := self._asked.get(level[0])) is not None:
            order.put(level, head)

    def lower(self, level: Level, head: Head) -> None:
        """A task came to this level."""
        known = self._all.heads.get(level)
        if known is None or head < known:
            self.put(level, head)

    def drop(self, level: Level) -> None:
        """The level has no tasks."""
        if self._all.heads.pop(level, None) is None:
            return
        levels = self._queues[level[0]]
        del levels[level]
        if not levels:
            del self._queues[level[0]]
            self._asked.pop(level[0], None)
        elif (order := self._asked.get(level[0])) is not None:
            del order.heads[level]

    def clear(self) -> None:
        """Nothing waits."""
        self._all = _Order()
        self._queues.clear()
        self._asked.clear()

    def first(self, queues: frozenset[str] | None, now: int, n: int) -> list[tuple[Level, Head]]:
        """The n levels of `queues` (None: all) that come first of those that are due: in the order of claims."""
        if queues is None:
            return self._all.first(now, n)
        orders = [self._order(queue) for queue in queues if queue in self._queues]
        if len(orders) == 1:
            return orders[0].first(now, n)
        return heapq.nsmallest(n, (found for order in orders for found in order.first(now, n)), key=_place)

    def earliest(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        orders: Iterable[_Order] = (
            [self._all]
            if queues is None
            else [self._order(queue) for queue in queues if queue in self._queues]
        )
        return min((head[0] for order in orders if (head := order.earliest()) is not None), default=None)

    def oldest(self, queue: str) -> tuple[Level, Head] | None:
        """The level of a queue whose head is earliest; None when none waits."""
        levels = self._queues.get(queue)
        if levels is None:
            return None
        heads = self._all.heads
        level = min(levels, key=lambda one: (heads[one], one))
        return level, heads[level]

    @property
    def queues(self) -> list[str]:
        """The queues that have waiting tasks."""
        return list(self._queues)

    def _order(self, queue: str) -> _Order:
        """The levels of a queue by themselves, from now on."""
        order = self._asked.get(queue)
        if order is None:
            order = self._asked[queue] = _Order(
                {level: self._all.heads[level] for level in self._queues[queue]}
            )
        return order


class _Order:
    """Some levels by time, and those that are due in the order of claims.

    Heaps whose entries are true while they say what `heads` says; others are left behind, and thrown away when they
    are met or become many.
    """

    def __init__(self, heads: dict[Level, Head] | None = None) -> None:
        self.heads: dict[Level, Head] = heads or {}
        self._by_time: list[tuple[Head, Level]] = []
        self._later: list[tuple[Head, Level]] = []
        self._ready: list[tuple[int, Head, str]] = []
        self._rebuild()

    def put(self, level: Level, head: Head) -> None:
        self.heads[level] = head
        heapq.heappush(self._by_time, (head, level))
        heapq.heappush(self._later, (head, level))
        if len(self._by_time) + len(self._later) + len(self._ready) > 6 * len(self.heads) + _SPARE:
            self._rebuild()

    def first(self, now: int, n: int) -> list[tuple[Level, Head]]:
        """As Heads.first; what is not due after all, since a clock was set back, waits again."""
        self._ripen(now)
        found: dict[Level, Head] = {}
        while self._ready and len(found) < n:
            minus, head, queue = heapq.heappop(self._ready)
            level = (queue, -minus)
            if self.heads.get(level) != head:
                continue
            if head[0] > now:
                heapq.heappush(self._later, (head, level))
            else:
                found[level] = head
        for (queue, priority), head in found.items():
            heapq.heappush(self._ready, (-priority, head, queue))
        return list(found.items())

    def earliest(self) -> Head | None:
        while self._by_time:
            head, level = self._by_time[0]
            if self.heads.get(level) == head:
                return head
            heapq.heappop(self._by_time)
        return None

    def _ripen(self, now: int) -> None:
        few = (len(self._later) + len(self._ready)) // _BULK + _BULK  # sorting anew walks through both
        while self._later and self._later[0][0][0] <= now:
            few -= 1
            if few < 0:
                self._ripen_all(now)
                return
            head, level = heapq.heappop(self._later)
            if self.heads.get(level) == head:
                heapq.heappush(self._ready, (-level[1], head, level[0]))

    def _ripen_all(self, now: int) -> None:
        heads = self.heads
        self._ready += [
            (-level[1], head, level[0])
            for head, level in self._later
            if head[0] <= now and heads.get(level) == head
        ]
        self._later = [entry for entry in self._later if entry[0][0] > now]
        heapq.heapify(self._ready)
        heapq.heapify(self._later)

    def _rebuild(self) -> None:
        self._by_time = sorted((head, level) for level, head in self.heads.items())
        self._later = self._by_time[:]
        self._ready = []


def _place(found: tuple[Level, Head]) -> tuple[int, Head]:
    """A level's place in the order of claims."""
    return -found[0][1], found[1]
