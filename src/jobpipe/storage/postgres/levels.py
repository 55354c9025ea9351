"""Which queues and priorities may have due tasks, so that a claim looks nowhere else.

For each queue and priority that has waiting tasks (a level) memory holds its head (storage.heads). What this server
queues lowers a head at once; what others queue is found by a look at the index, when they say so or, unsaid, after a
second. A look costs one seek a level and goes round in steps, so that no claim waits for more than one of them while
enough is known to be due.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Sequence

from jobpipe.storage.heads import Head, Heads, Level
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.dbtime import DatabaseTime
from jobpipe.storage.postgres.link import Link, Row, arrays

LOOK_S = 1.0
"""While others share the database: so old a look may be, whatever they said."""
WHOLE_S = 60.0
"""So often a look begins anew, whatever is known: a database's clock may have been set back."""
LATE_MS = 30_000
"""A task that is queued is due no earlier than now, and is seen no later than this: all that a commit can take."""
SLACK_MS = 20
"""The estimate of the database's time may be so far behind."""
STEP = 500
"""Levels that are known are looked at, so many by one step."""
NEW = 1_000
"""Levels that are not known are found, so many by one step."""
LOCKED_MS = 20
"""When to look again for tasks that are due but locked by another server."""

_FIRST: Level = ("", 0)
_END: Level = ("\U0010ffff", 0)
"""Before and after all levels; `chr` would make it in UTF8 databases only."""

Place = tuple[int, int, int]
"""Priority, `run_at` and seq: a place in the order of claims over all queues."""
Seen = tuple[str, int, int]
"""Queue, priority, and a time before which none of its tasks is due."""


class Levels:
    """The heads. Times are the database's."""

    def __init__(self, time: DatabaseTime) -> None:
        self._time = time
        self._heads = Heads()
        self._ruled = Heads()
        """Of queues with rules."""
        self._obeyed: Collection[str] = frozenset()
        self.came: Callable[[str, int], None] = _nothing
        """Told of each task that comes to wait in a queue with rules, and when it is due."""
        self.heard: Callable[[str, int], None] = _nothing
        """The same of what others queued."""
        self._put_off: dict[Level, int] = {}
        """Levels whose due tasks others have locked, and when those were due."""
        self._added: list[tuple[Level, Head]] | None = None
        self._stale = True
        self._looked_at = float("-inf")
        self._floors: dict[Level, int] = {}
        """Levels of earlier looks, and times before which none of their tasks was due then."""
        self._route: list[Level] = []
        """The same levels in the order of the index."""
        self._at: Level | None = None
        """How far the look under way has come; None: none is."""
        self._whole_at = float("-inf")

    def distrust(self) -> None:
        """Somebody else may have queued something: look before the next claim."""
        self._stale = True

    def forget(self) -> None:
        """Something may have been queued that is due since long: look at all before the next claim."""
        self._stale = True
        self._whole_at = float("-inf")

    def add(self, queue: str, priority: int, run_at: int, seq: int) -> None:
        """A task is queued."""
        level, head = (queue, priority), (run_at, seq)
        if run_at < self._floors.get(level, run_at):
            self._floors[level] = run_at  # it keeps an old place: the next look must not pass over it
        locked = self._put_off.pop(level, None)
        if locked is None:
            self._of(queue).lower(level, head)
        else:
            self._of(queue).put(level, (min(locked, run_at), 0))
        if queue in self._obeyed:
            self.came(queue, run_at)
        if self._added is not None:
            self._added.append((level, head))

    def rule(self, obeyed: Collection[str]) -> None:
        """The claims of these queues obey rules, and of no others."""
        heads = [
            (level, head) for of in (self._heads, self._ruled) for level in of if (head := of.get(level))
        ]
        self._heads.clear()
        self._ruled.clear()
        self._obeyed = obeyed
        for level, head in heads:
            self._of(level[0]).put(level, head)

    def _of(self, queue: str) -> Heads:
        return self._ruled if queue in self._obeyed else self._heads

    # --- looking ------------------------------------------------------------------------------------------------

    async def look(self, link: Link, *, shared: bool) -> None:
        """Go a step of the look that is under way, or begin one when what waits may differ from what is known.

        `shared`: other servers are here.
        """
        now = asyncio.get_running_loop().time()
        if self._at is None:
            if not (self._stale or (shared and now - self._looked_at > LOOK_S)):
                return
            self._begin(now)
        await self.look_on(link)

    async def look_on(self, link: Link) -> bool:
        """Go a step of the look that is under way; False when none is."""
        if self._at is None:
            return False
        try:
            await self._step(link)
        except BaseException:
            self._stale, self._at = True, None
            raise
        return True

    def _begin(self, now: float) -> None:
        self._stale = False  # what is said from here on may not be in it
        self._looked_at = now
        self._at = _FIRST
        if now - self._whole_at > WHOLE_S:
            self._whole_at = now
            self._route = sorted([*self._heads, *self._ruled])
            self._floors = dict.fromkeys(self._route, 0)

    async def _step(self, link: Link) -> None:
        at = self._at or _FIRST
        first = bisect_left(self._route, at)
        known = self._route[first : first + STEP]
        upto = self._route[first + STEP] if first + STEP < len(self._route) else _END
        floors = [(*at, self._floors.get(at, 0))] if at not in known[:1] else []
        floors += [(*level, self._floors[level]) for level in known]
        self.watch()
        row = await link.row(sql.LEVELS, *arrays(floors, 3), *upto, NEW)
        self._time.observe(row["now"])
        levels = zip(row["queues"] or (), row["priorities"] or (), strict=True)
        heads = dict(zip(levels, zip(row["heads"] or (), row["seqs"] or (), strict=True), strict=True))
        found = [level for level in heads if level not in self._floors]
        self._take_over(known, heads, row["now"] - LATE_MS)
        for level in found:
            insort(self._route, level)
        if len(found) < NEW:
            self._at = None if upto is _END else upto
        elif not known:
            self._at = max(found)
        self._add_watched()

    def _take_over(self, known: list[Level], heads: dict[Level, Head], late: int) -> None:
        for level in known:
            if level not in heads:
                self._of(level[0]).drop(level)
        for level, head in heads.items():
            self._of(level[0]).put(level, head)
            if level[0] in self._obeyed:
                self.heard(level[0], head[0])
        for level in {*known, *heads}:
            self._put_off.pop(level, None)
            self._floors[level] = min(late, heads[level][0]) if level in heads else late

    def watch(self) -> None:
        """A statement reads levels from here on: what is added meanwhile may not be in its answer."""
        self._added = []

    # --- claiming -----------------------------------------------------------------------------------------------

    def due(
        self, queues: frozenset[str] | None, limit: int, slack_ms: int
    ) -> tuple[list[Seen], Place | None]:
        """The levels that the next `limit` tasks can be in, and the place where others begin.

        Those are all when the place is None.
        """
        found = self._heads.first(queues, self._time.now() + slack_ms, limit + 1)
        beyond = None if len(found) <= limit else (found[-1][0][1], *found[-1][1])
        return [(*level, self._put_off.get(level, head[0])) for level, head in found[:limit]], beyond

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        return self._heads.earliest(queues)

    def due_of(self, queue: str, limit: int, slack_ms: int) -> tuple[list[Seen], Place | None]:
        """The levels of a queue with rules that its next `limit` tasks can be in, and the place where others begin."""
        found = self._ruled.first(frozenset({queue}), self._time.now() + slack_ms, limit + 1)
        beyond = None if len(found) <= limit else (found[-1][0][1], *found[-1][1])
        return [(*level, head[0]) for level, head in found[:limit]], beyond

    def next_due_of(self, queue: str) -> int | None:
        """No task of a queue with rules is due before this time."""
        return self._ruled.earliest(frozenset({queue}))

    def correct(self, looked_at: Sequence[Seen], heads: Iterable[Row], now: int, upto: Place | None) -> None:
        """A claim, begun with `watch`, saw at `now` how these levels go on.

        What is still due there before `upto` (None: nothing) is locked by another server, which claims it or gives it
        back: it is not worth a look at once.
        """
        gone = {(queue, priority) for queue, priority, _ in looked_at}
        for row in heads:
            level, head = (row["queue"], row["priority"]), (row["run_at"], row["seq"])
            gone.discard(level)
            self._put_off.pop(level, None)
            if upto is not None and head[0] <= now and (-level[1], *head) <= (-upto[0], *upto[1:]):
                self._put_off[level] = head[0]
                head = (now + LOCKED_MS + SLACK_MS, 0)
            self._of(level[0]).put(level, head)
        for level in gone:
            self._of(level[0]).drop(level)
            self._put_off.pop(level, None)
        self._add_watched()

    def _add_watched(self) -> None:
        added, self._added = self._added or [], None
        for (queue, priority), (run_at, seq) in added:
            self.add(queue, priority, run_at, seq)


def _nothing(queue: str, at: int) -> None:
    """There is nobody to tell."""
