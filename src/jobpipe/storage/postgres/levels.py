"""Which queues and priorities may have due tasks, so that a claim looks nowhere else.

For each queue and priority that has waiting tasks (a level) memory holds its head: a time before which none of its
tasks is due. What this server queues lowers a head at once; what others queue is found by a look at the index, which
costs one seek a level, when they say so or, unsaid, after a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

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

LOCKED_MS = 20
"""When to look again for tasks that are due but locked by another server."""

Level = tuple[str, int]
"""Queue and priority."""
Seen = tuple[str, int, int]
"""Queue, priority and head."""


class Levels:
    """The heads. Times are the database's."""

    def __init__(self, time: DatabaseTime) -> None:
        self._time = time
        self._heads: dict[Level, int] = {}
        self._put_off: dict[Level, int] = {}
        self._added: list[tuple[Level, int]] | None = None
        self._stale = True
        self._looked_at = float("-inf")
        self._floors: dict[Level, int] = {}
        """Levels of earlier looks, and times before which none of their tasks was due then."""
        self._whole_at = float("-inf")

    def distrust(self) -> None:
        """Somebody else may have queued something: look before the next claim."""
        self._stale = True

    def forget(self) -> None:
        """Something may have been queued that is due since long: look at all before the next claim."""
        self._stale = True
        self._floors.clear()

    def add(self, queue: str, priority: int, run_at: int) -> None:
        """A task is queued."""
        level = (queue, priority)
        self._heads[level] = min(run_at, self._heads.get(level, run_at))
        self._put_off.pop(level, None)
        if self._added is not None:
            self._added.append((level, run_at))

    async def look(self, link: Link, *, shared: bool) -> None:
        """See what waits, when that may differ from what is known. `shared`: other servers are here."""
        now = asyncio.get_running_loop().time()
        if not (self._stale or (shared and now - self._looked_at > LOOK_S)):
            return
        self._stale = False  # what is said from here on may not be in it
        self.watch()
        if now - self._whole_at > WHOLE_S:
            self._floors.clear()
        try:
            floors = [(*level, floor) for level, floor in self._floors.items()]
            row = await link.row(sql.LEVELS, *arrays(floors, 3))
        except BaseException:
            self._stale = True
            raise
        if not floors:
            self._whole_at = now
        self._looked_at = now
        self._time.observe(row["now"])
        levels = zip(row["queues"] or (), row["priorities"] or (), strict=True)
        self._heads = dict(zip(levels, row["heads"] or (), strict=True))
        late = row["now"] - LATE_MS
        self._floors = {
            level: min(late, self._heads.get(level, late)) for level in {*self._floors, *self._heads}
        }
        self._put_off.clear()
        self._add_watched()

    def watch(self) -> None:
        """A statement reads levels from here on: what is added meanwhile may not be in its answer."""
        self._added = []

    def due(self, queues: frozenset[str] | None) -> list[Seen]:
        """Queue, priority and head of each level that may have a due task."""
        now = self._time.now() + SLACK_MS
        return [
            (*level, head)
            for level, head in self._heads.items()
            if head <= now
            and (queues is None or level[0] in queues)
            and self._put_off.get(level, 0) <= now - SLACK_MS
        ]

    def next_due(self, queues: frozenset[str] | None) -> int | None:
        """No task of `queues` (None: all) is due before this time; None when none waits."""
        heads = [
            max(head, self._put_off.get(level, head))
            for level, head in self._heads.items()
            if queues is None or level[0] in queues
        ]
        return min(heads, default=None)

    def correct(
        self, looked_at: Sequence[Seen], heads: Iterable[Row], now: int, *, left_locked: bool
    ) -> None:
        """A claim, begun with `watch`, saw at `now` how these levels go on.

        `left_locked` says that what is still due there is locked by another server, which claims it or gives it back:
        it is not worth a look at once.
        """
        for queue, priority, _ in looked_at:
            self._heads.pop((queue, priority), None)
            self._put_off.pop((queue, priority), None)
        for row in heads:
            level, run_at = (row["queue"], row["priority"]), row["run_at"]
            self._heads[level] = run_at
            if left_locked and run_at <= now:
                self._put_off[level] = now + LOCKED_MS
        self._add_watched()

    def _add_watched(self) -> None:
        added, self._added = self._added or [], None
        for (queue, priority), run_at in added:
            self.add(queue, priority, run_at)
