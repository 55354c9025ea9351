"""Claims from queues with rules, one transaction each: under the row of each queue it is read what runs and when the
next start is due, decided by core.gate how many may start, and claimed so many. So what runs is counted, never kept.

Whoever finds the row locked goes on without that queue: nobody waits for a server that stands still in the middle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import accumulate
from typing import Any

from msgspec import Struct

from jobpipe.core.gate import Gate
from jobpipe.storage.base import MAX_CLAIM_BYTES, ClaimRequest
from jobpipe.storage.postgres import statements_flow as sql
from jobpipe.storage.postgres.attempts import BUSY_MS, SHUT
from jobpipe.storage.postgres.flow import Flow, gate_of
from jobpipe.storage.postgres.levels import SLACK_MS, Place, Seen
from jobpipe.storage.postgres.lines import Candidate, Key, Lane, Line, Picked, Queue, Turns, merged
from jobpipe.storage.postgres.link import Link, Row, arrays
from jobpipe.storage.postgres.rulebook import Ruled
from jobpipe.storage.postgres.shared import Shared

MOST_LANES = 1_000
"""Lanes that one look reads."""
REBUILD_MS = (3_000, 33_000)
"""So long after rules changed lanes are looked for again: a server may not have known, and a commit been under way."""
REBUILD_EVERY_MS = 60_000
TURNS = 1 << 20
"""Numbers of turns that one claim may use."""


Due = tuple[list[Seen], Place | None]
"""Levels of queues without rules, and the place where others begin."""


class Wishes(Struct, frozen=True):
    """What the calls of a claim want, and how many of limited queues each can begin at once."""

    requests: Sequence[ClaimRequest]
    free: Sequence[int]

    @property
    def limit(self) -> int:
        """How many in all."""
        return sum(request.limit for request in self.requests)


class Taken(Struct, frozen=True):
    """Rows of CLAIM_THESE in order, up to which number each call has its own, and whether to look once more."""

    rows: list[Row]
    upto: list[int]
    again: bool


class Open(Struct, frozen=True):
    """A queue whose row is locked, as the claim sees it; of one that tells no keys apart, the levels and rows read."""

    row: Row
    queue: Queue
    levels: list[Seen] = []
    rows: list[Row] = []


class Limited:
    """One lane's claims from queues with rules."""

    def __init__(self, shared: Shared, flow: Flow) -> None:
        self._s = shared
        self._flow = flow

    async def claim(
        self, link: Link, queues: list[str], plain: Due, wishes: Wishes, how: tuple[Any, ...]
    ) -> Taken:
        """Claim from `queues`, and from levels of `plain` ones, in one order. `how`: $6-$8 of CLAIM_THESE."""
        attempts, levels = self._s.attempts, self._s.levels
        attempts.watch()
        levels.watch()
        async with link.transaction():
            opened = await self._open(link, queues, wishes.limit)
            if not opened:
                return Taken([], [], again=opened is None)
            now = opened[0].row["now"]
            rows = await self._read(link, plain[0], wishes.limit)
            others = Open(
                opened[0].row, Queue(Gate(), _line(rows, now, plain[1]), limited=False), plain[0], rows
            )
            picks = _picks([each.queue for each in (*opened, others)], wishes, now)
            taken, upto = await self._take(link, picks, wishes, (*how, MAX_CLAIM_BYTES, now))
            gone = {row["seq"] for row in taken}
            moved = [await self._keep(link, each, gone) for each in opened]
            ends = [await self._end(link, each) for each in opened]
        self._correct([*opened, others], gone, wishes.limit, now)
        for each, next_open in zip(opened, ends, strict=True):
            self._learn(each, next_open)
        attempts.seen()
        again = bool(gone) or any(moved) or any(each.queue.line.cut for each in (*opened, others))
        return Taken(taken, upto, again)

    def _correct(self, opened: list[Open], gone: Collection[int], limit: int, now: int) -> None:
        """Where the levels begin that were read."""
        looked_at = [level for each in opened for level in each.levels]
        heads: dict[tuple[str, int], Row] = {}
        read: Counter[tuple[str, int]] = Counter()
        for row in (row for each in opened for row in each.rows):
            level = (row["queue"], row["priority"])
            read[level] += 1
            if row["seq"] not in gone or read[level] == limit:
                heads.setdefault(level, row)
        self._s.levels.correct(looked_at, heads.values(), now, None)

    # --- reading ------------------------------------------------------------------------------------------------

    async def _open(self, link: Link, queues: list[str], limit: int) -> list[Open] | None:
        """The queues that are to be claimed from, locked. None when a hold was found over: look once more then, since
        what was held may come before all that the others have.
        """
        book, attempts = self._s.rulebook, self._s.attempts
        rows = {row["queue"]: row for row in await link.rows(sql.LOCK, queues)}
        refreshed = False
        for queue in queues:
            if queue not in rows:
                attempts.looked(queue, self._s.time.now(), self._s.time.now() + BUSY_MS, 0)
                book.stale = True  # or it has no rules any more
        for queue, row in rows.items():
            self._s.time.observe(row["now"])
            if 0 < row["held"] <= row["now"]:
                await self._flow.refresh(link, queue)
                book.stale = refreshed = True
        if refreshed:
            return None
        if any(book.version(queue) != row["version"] for queue, row in rows.items()):
            await book.load(link)
        locked = [row for queue, row in rows.items() if row["obeyed"]]
        if not locked:
            return []
        used = await link.rows(sql.GATES, [row["queue"] for row in locked], ["" for _ in locked])
        gates = {row["queue"]: gate_of(book.of(row["queue"]), None, row) for row in used}
        return [await self._opened(link, row, gates[row["queue"]], limit) for row in locked]

    async def _opened(self, link: Link, row: Row, gate: Gate, limit: int) -> Open:
        name, ruled = row["queue"], self._s.rulebook.of(row["queue"])
        limited = name in self._s.rulebook.limited
        line: Line | Turns = Line([])
        levels: list[Seen] = []
        rows: list[Row] = []
        most = min(limit, gate.room(row["now"]))
        if most > 0 and row["by_key"]:
            line = await self._turns(link, row, ruled, most)
        elif most > 0:
            levels, beyond = self._s.levels.due_of(name, limit, SLACK_MS)
            rows = await self._read(link, levels, limit)
            line = _line(rows, row["now"], beyond)
        return Open(row, Queue(gate, line, limited=limited), levels, rows)

    async def _read(self, link: Link, levels: list[Seen], limit: int) -> list[Row]:
        return await link.rows(sql.PEEK, *arrays(levels, 3), limit) if levels else []

    async def _turns(self, link: Link, row: Row, ruled: Ruled, most: int) -> Line | Turns:
        name, fair, turn = row["queue"], ruled.rules.fair, row["turn"]
        await self._find(link, row, fair=fair)
        await link.rows(sql.RIPEN, name)
        wanted = min(most, MOST_LANES)
        found = await link.rows(sql.LANES, name, wanted)
        if not found:
            return Line([])
        keys: dict[str, Key] = {}
        for lane in found:
            if lane["key"] not in keys:
                gate = gate_of(ruled, lane["key"], lane) if lane["key"] else Gate()
                keys[lane["key"]] = Key(lane["key"], gate, lane["place"])
        lanes = [Lane(lane, keys[lane["key"]]) for lane in found]
        await self._read_lanes(link, name, lanes, most, row["now"])
        return Turns(lanes, fair=fair, whole=len(found) < wanted, turn=turn + TURNS // 2)

    async def _read_lanes(self, link: Link, queue: str, lanes: Sequence[Lane], most: int, now: int) -> None:
        """The first rows of those that may start."""
        open_ = [lane for lane in lanes if lane.key.gate.room(now) > 0]
        each = -(-2 * most // max(1, len(open_)))
        for lane in open_:
            lane.most = min(each, most, lane.key.gate.room(now))
        asked = [(lane.key.name, lane.priority, lane.run_at, lane.most) for lane in open_]
        rows = await link.rows(sql.PEEK_LANES, queue, *arrays(asked, 4)) if asked else []
        by_lane = {(lane.key.name, lane.priority): lane for lane in open_}
        for row in sorted(rows, key=lambda row: (row["run_at"], row["seq"])):
            by_lane[row["key"], row["priority"]].rows.append(_candidate(row))

    async def _find(self, link: Link, row: Row, *, fair: bool) -> None:
        """Make the lanes true to which something happened; all, where somebody may not have said so."""
        name, turn, now = row["queue"], row["turn"], row["now"]
        since, rebuilt = row["since"], row["rebuilt"]
        stirred = await link.rows(sql.STIRRED, name)
        keys = [lane["key"] for lane in stirred if lane["key"]]
        keyless = [(lane["priority"], lane["run_at"]) for lane in stirred if not lane["key"]]
        early = any(rebuilt < since + after <= now for after in (0, *REBUILD_MS))
        if early or not rebuilt or not rebuilt <= now <= rebuilt + REBUILD_EVERY_MS:
            keys = [lane["key"] for lane in await link.rows(sql.ALL_KEYS, name)]
            if early or not rebuilt:
                found = await link.rows(sql.ALL_PRIORITIES, name)
                keyless = [(lane["priority"], lane["run_at"]) for lane in found]
            await link.rows(sql.REBUILT, name)
        if keys:
            await link.rows(sql.FIND_LANES, name, keys, fair, turn)
        if keyless:
            await link.rows(sql.FIND_KEYLESS, name, *arrays(keyless, 2), fair, turn + len(keys) + 1)

    # --- writing ------------------------------------------------------------------------------------------------

    async def _take(
        self, link: Link, picks: list[Picked], wishes: Wishes, how: tuple[Any, ...]
    ) -> tuple[list[Row], list[int]]:
        """Claim what was picked, in order; up to which number each call has its own. What somebody else has locked does
        not begin after all.
        """
        asked = [(request, n) for request, n in zip(wishes.requests, map(len, picks), strict=True) if n]
        all_ = [pick for picked in picks for pick in picked]
        rows: list[Row] = []
        if all_:
            rows = await link.rows(
                sql.CLAIM_THESE,
                [row.seq for row, _ in all_],
                list(accumulate(n for _, n in asked)),
                [request.worker for request, _ in asked],
                [lease_ms(request) for request, _ in asked],
                [request.local for request, _ in asked],
                *how,
            )
        gone = {row["seq"] for row in rows}
        for row, queue in all_:
            if row.seq not in gone:
                queue.undo(row.seq)
        return sorted(rows, key=lambda row: int(row["n"])), list(accumulate(map(len, picks)))

    async def _keep(self, link: Link, each: Open, gone: Collection[int]) -> bool:
        """Store what was used up, and how the lanes were left; whether one is not as it was read, so that others may
        come before it.
        """
        name, line = each.row["queue"], each.queue.line
        started = [("", each.queue.gate)]
        moved = False
        if isinstance(line, Turns):
            started += [(key.name, key.gate) for key in line.started]
            moved = await self._keep_lanes(link, each.row, line, gone)
        paces = [(name, key, gate.next_us) for key, gate in started if gate.rules.rate is not None]
        if paces and gone:
            await link.rows(sql.KEEP_PACES, *arrays(sorted(paces), 3))
        return moved

    async def _keep_lanes(self, link: Link, row: Row, line: Turns, gone: Collection[int]) -> bool:
        name = row["queue"]
        if line.fair:
            turned = [(key.name, key.turn) for key in line.started]
            await link.rows(sql.TAKE_TURNS, name, *arrays(turned, 2))
            await link.rows(sql.TURNED, name, row["turn"] + TURNS)
        kept = line.kept(row["now"], gone)
        await link.rows(sql.KEEP_LANES, name, *arrays(kept, 6))
        return bool(kept)

    async def _end(self, link: Link, each: Open) -> int | None:
        """When time opens the next lane of a queue that tells keys apart: 0 when one is open."""
        if not each.row["by_key"] or each.queue.gate.room(each.row["now"]) <= 0:
            return None
        return await link.value(sql.NEXT_OPEN, each.row["queue"])  # type: ignore[no-any-return]

    def _learn(self, each: Open, next_open: int | None) -> None:
        """When another look is worth it."""
        name, now, gate = each.row["queue"], self._s.time.now(), each.queue.gate
        if gate.room(now) <= 0:
            opens = gate.opens(now)
            self._s.attempts.looked(name, now, opens, SHUT if opens is None else opens)
            return
        due = next_open if each.row["by_key"] else self._s.levels.next_due_of(name)
        self._s.attempts.looked(name, now, due, 0)


def lease_ms(request: ClaimRequest) -> int | None:
    """How long its claims last; None: as long as the server lives."""
    return None if request.lease_s is None else round(request.lease_s * 1000)


def _candidate(row: Row) -> Candidate:
    return Candidate(row["seq"], row["priority"], row["run_at"], row["size"])


def _line(rows: list[Row], now: int, beyond: Place | None) -> Line:
    end = None if beyond is None else (-beyond[0], *beyond[1:])
    return Line([_candidate(row) for row in rows if row["run_at"] <= now], end)


def _picks(queues: list[Queue], wishes: Wishes, now: int) -> list[Picked]:
    """For each call, in order, what it gets."""
    picks: list[Picked] = []
    room = MAX_CLAIM_BYTES
    for request, free in zip(wishes.requests, wishes.free, strict=True):
        picked = merged(queues, request.limit, free, now, room) if room > 0 else []
        room -= sum(row.size for row, _ in picked)
        picks.append(picked)
    return picks
