"""Runs of tasks: claiming and settling."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from msgspec.structs import astuple, replace

from jobpipe.core import lifecycle
from jobpipe.core.errors import LeaseLost, NotFound, StorageError
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.steering import Standing
from jobpipe.core.task import Claim, Status
from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    CancelChanged,
    ClaimAnswer,
    ClaimRequest,
    SettleAnswer,
    Settled,
    Settlement,
)
from jobpipe.storage.calls import Call, hand_slices
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_flow as flow_sql
from jobpipe.storage.postgres.flow import Flow, Hold
from jobpipe.storage.postgres.lane import Lane
from jobpipe.storage.postgres.leases import seq_of
from jobpipe.storage.postgres.levels import LATE_MS, SLACK_MS, Place, Seen
from jobpipe.storage.postgres.limited import Due, Limited, Wishes, lease_ms
from jobpipe.storage.postgres.link import Gone, Link, Refused, Row, arrays
from jobpipe.storage.postgres.rows import NUMBER, STATUSES, settled, task_of
from jobpipe.storage.postgres.session import STATEMENT_S
from jobpipe.storage.postgres.shared import Shared

LANE = "runs"

Claiming = Call[ClaimRequest, ClaimAnswer]
Settling = Call[tuple[Sequence[Settlement], int], list[SettleAnswer]]
"""Ends of runs to be written, and the time."""
_NOWHERE: Place = (-(1 << 63), 0, 0)
"""Behind all tasks."""
_TO_STATUS, _OUTCOME = (list(sql.SETTLED).index(name) for name in ("to_status", "outcome"))
Fence = tuple[int, str, str, bool]
"""Seq, id, lease and cancel flag that a settlement was decided with: of all for one task, at most one is the row's."""
Writes = dict[Fence, tuple[Settlement, int]]
"""Settlements to write, and the times they were decided at."""


class Runs:
    """Claims and their ends. A lease id is `server.claim.seq`: new at every claim, and it leads back to its row."""

    def __init__(self, shared: Shared, flow: Flow) -> None:
        self._s = shared
        self._flow = flow
        self._limited = Limited(shared, flow)
        self._claims = 0
        self._doubtful: dict[str, float] = {}
        """What the lease ids of claims of unknown outcome begin with, and since when: nobody was given them."""

    # --- claiming -----------------------------------------------------------------------------------------------

    async def claim(self, lane: Lane, calls: Sequence[Claiming]) -> None:
        """Serve all calls that ask for the same queues together, in the order of the calls."""
        await self._s.rulebook.look(await lane.link(), shared=self._s.others > 0)
        await self._s.levels.look(await lane.link(), shared=self._s.others > 0)
        groups: dict[frozenset[str] | None, list[Claiming]] = {}
        for call in calls:
            call.answer = ClaimAnswer([], None)
            groups.setdefault(call.argument.queues, []).append(call)
        for queues, group in groups.items():
            await self._claim_group(lane, queues, group)

    async def _claim_group(self, lane: Lane, queues: frozenset[str] | None, calls: list[Claiming]) -> None:
        """Round after round, until each call has what it may have, or nothing is left that is due."""
        open_, slack_ms = [call for call in calls if call.argument.limit > 0], SLACK_MS
        limited = True
        while open_:
            wishes = [_rest(call) for call in open_]
            cut = short = False
            try:
                await self._s.rulebook.look(await lane.link(), shared=False)
                due, beyond = self._s.levels.due(queues, sum(wish.limit for wish in wishes), slack_ms)
                if limited and (ruled := self._ruled(queues, open_, slack_ms)):
                    goes_on = limited = await self._limited_round(lane, ruled, (due, beyond), open_, wishes)
                    slack_ms = 0  # the time was told just now
                    goes_on = goes_on or bool(due)
                else:
                    if due:
                        cut, short = await self._round(lane, due, beyond, open_, wishes)
                        slack_ms = 0
                    goes_on = (
                        cut
                        or short
                        or bool(due and beyond)
                        or await self._s.levels.look_on(await lane.link())
                    )
            except (StorageError, Refused):
                if not any(call.answer.claims for call in calls):
                    raise
                break  # what was claimed before is handed out
            # Where bytes ended a round, those who got something have it, and the others their own.
            open_ = [c for c in open_ if goes_on and _rest(c).limit > 0 and not (cut and c.answer.claims)]
        plain_due = self._s.levels.next_due(queues)
        for call in calls:
            next_due = self._s.time.here(_earlier_of(plain_due, self._next_ruled(call, queues)))
            call.answer = ClaimAnswer(call.answer.claims, next_due)

    def _ruled(self, queues: frozenset[str] | None, calls: Sequence[Claiming], slack_ms: int) -> list[str]:
        """The queues with rules that are worth a look of these calls."""
        if not self._s.rulebook.obeyed:
            return []
        names = self._open_to(queues, free=any(_free(call) for call in calls))
        return self._s.attempts.due(names, self._s.time.now() + slack_ms)

    def _next_ruled(self, call: Claiming, queues: frozenset[str] | None) -> int | None:
        """When the next task of a queue with rules is due that the call's worker can be given."""
        return self._s.attempts.next_due(self._open_to(queues, free=bool(call.answer.claims or _free(call))))

    def _open_to(self, queues: frozenset[str] | None, *, free: bool) -> frozenset[str] | None:
        """Those of `queues` (None: all) that a worker is given tasks of; `free`: it can begin one at once."""
        if free:
            return queues
        unlimited = self._s.rulebook.obeyed - self._s.rulebook.limited
        return unlimited if queues is None else queues & unlimited

    async def _limited_round(
        self,
        lane: Lane,
        ruled: list[str],
        due: Due,
        calls: Sequence[Claiming],
        wishes: Sequence[ClaimRequest],
    ) -> bool:
        """Claim for the calls from queues with rules and from others, in one order; whether to look once more."""
        prefix = self._prefix()
        how = self._s.counts.writer(LANE), prefix, self._s.server
        self._note_leases(wishes)
        wanted = Wishes(wishes, [_free(call) for call in calls])
        try:
            taken = await self._limited.claim(await lane.link(), ruled, due, wanted, how)
        except Gone:
            self._doubt(prefix)
            raise
        self._hand(calls, taken.rows, taken.upto)
        self._count(taken.rows)
        return taken.again

    async def _round(
        self,
        lane: Lane,
        due: list[Seen],
        beyond: Place | None,
        calls: Sequence[Claiming],
        wishes: Sequence[ClaimRequest],
    ) -> tuple[bool, bool]:
        """Claim for the calls, in order, what of these levels comes before `beyond`; whether bytes ended it early, and
        whether a level that was thought to have tasks had none, so that there may be more.
        """
        upto = _ends(wishes)
        leases = self._note_leases(wishes)
        arguments = (
            *arrays(due, 3), upto[-1], upto, [wish.worker for wish in wishes], leases,
            [wish.local for wish in wishes],
        )  # fmt: skip
        try:
            rows = await self._take(await lane.link(), arguments, beyond)
        except Gone:
            rows = await self._take(await lane.link(), arguments, beyond)
        # RETURNING gives rows as the plan comes upon them, which changes with the statistics of the table.
        taken = sorted((row for row in rows if row["n"] > 0), key=lambda row: int(row["n"]))
        self._hand(calls, taken, upto)
        return self._learn(due, beyond, rows, taken, upto[-1])

    def _note_leases(self, wishes: Sequence[ClaimRequest]) -> list[int | None]:
        """How long the claims of each last, in ms."""
        leases = [lease_ms(wish) for wish in wishes]
        self._s.longest_lease_ms = max(self._s.longest_lease_ms, *(ms or 0 for ms in leases))
        return leases

    def _hand(self, calls: Sequence[Claiming], rows: Sequence[Row], upto: Sequence[int]) -> None:
        """Give each call its own: those up to its number."""
        here = self._s.clock.now()
        for row in rows:
            call = calls[bisect_left(upto, row["n"])]
            ms = lease_ms(call.argument)
            call.answer.claims.append(Claim(task_of(row), row["lease_id"], None if ms is None else here + ms))

    def _count(self, rows: Sequence[Row]) -> None:
        """These tasks run."""
        moved: Counter[Standing] = Counter()
        for row in rows:
            moved[(row["queue"], row["priority"], Status.QUEUED)] -= 1
            moved[(row["queue"], row["priority"], Status.RUNNING)] += 1
        self._s.counts.add_all(LANE, moved)

    def _prefix(self) -> str:
        """What the lease ids of one more claim begin with."""
        self._claims += 1
        return f"{self._s.server}.{self._claims}."

    def _doubt(self, prefix: str) -> None:
        """Nobody knows what became of a claim."""
        self._doubtful[prefix] = self._s.clock.monotonic()
        self._s.levels.distrust()

    async def _take(self, link: Link, arguments: tuple[Any, ...], beyond: Place | None) -> list[Row]:
        prefix = self._prefix()
        self._s.levels.watch()
        try:
            return await link.rows(
                sql.CLAIM, *arguments, self._s.counts.writer(LANE), prefix, self._s.server, MAX_CLAIM_BYTES,
                *(beyond or (None, None, None)),
            )  # fmt: skip
        except Gone:
            self._doubt(prefix)
            raise

    def _learn(
        self, due: list[Seen], beyond: Place | None, rows: list[Row], taken: list[Row], limit: int
    ) -> tuple[bool, bool]:
        """Take over what a claim saw of counts, levels and time; whether bytes ended it before the limit, or due tasks
        were left unread.
        """
        end = next(row for row in rows if row["n"] < 0)
        locked, wanted = end["seq"], end["priority"] or 0
        cut = bool(locked > len(taken))
        short = bool(end["run_at"]) and wanted < limit
        self._s.time.observe(end["now"])
        heads = [row for row in rows if row["n"] == 0]
        left_behind = (
            None
            if cut or locked == wanted
            else _last(taken)
            if (wanted == limit or short) and taken
            else beyond or _NOWHERE
        )
        self._s.levels.correct(due, heads, end["now"], left_behind)
        self._count(taken)
        return cut, short

    async def give_back_doubtful(self, link: Link) -> None:
        """Release what was claimed by statements whose answer never came, as far as they can still be under way."""
        for prefix, since in list(self._doubtful.items()):
            rows = await link.rows(sql.DOUBTFUL, self._s.server, prefix)
            ends = {fence: (end, row["now"]) for row in rows for fence, end in [_released(row)]}
            await self._write(link, ends, told=False)
            if ends:
                self._s.levels.forget()
            if self._s.clock.monotonic() - since > 2 * STATEMENT_S:
                del self._doubtful[prefix]

    # --- settling -----------------------------------------------------------------------------------------------

    async def settle(self, lane: Lane, calls: Sequence[Settling]) -> None:
        """Write all settlements of all calls in one statement; answer beside it those whose claim does not hold."""
        writes: Writes = {}
        noted: list[list[Fence | None]] = []
        for call in calls:
            settlements, now = call.argument
            noted.append([self._noted(settlement, now, writes) for settlement in settlements])
        written: dict[Fence, Settled] = {}
        doubted = False
        if writes:
            try:
                written = await self._write(await lane.link(), writes)
            except Gone:  # what was written then is answered as written now: a settle is written once
                written = await self._write(await lane.link(), writes)
                doubted = True
        asked = [
            (settlement, None if fence is None else written.get(fence))
            for call, fences in zip(calls, noted, strict=True)
            for settlement, fence in zip(call.argument[0], fences, strict=True)
        ]
        answers = await self._answers(await lane.link(), asked, doubted)
        hand_slices(calls, [len(call.argument[0]) for call in calls], answers)

    def _noted(self, settlement: Settlement, now: int, writes: Writes) -> Fence | None:
        """What is to hold for the settlement to be written; None for one that is only answered, as a repeated one."""
        seq = seq_of(settlement.lease_id)
        fence = (seq, settlement.id, settlement.lease_id, settlement.cancel_requested)
        if settlement.transition is None or seq < 0 or fence in writes or "\0" in settlement.id:
            return None
        writes[fence] = (settlement, now)
        return fence

    async def _write(self, link: Link, writes: Writes, *, told: bool = True) -> dict[Fence, Settled]:
        """Write ends of runs, with their place in the history if they are `told`."""
        if not writes:
            return {}
        statement, columns = self._ends(writes, told=told)
        arguments = *columns, self._s.counts.writer(LANE)
        if any(settlement.transition.effects for settlement, _ in writes.values() if settlement.transition):
            held = await self._with_effects(link, writes, statement, arguments)
        else:
            held = await link.rows(statement, *arguments)
        moved: Counter[Standing] = Counter()
        answers: dict[Fence, Settled] = {}
        old = False
        for row in held:
            fence = _fence(row)
            settlement, now = writes[fence]
            to = settlement.transition
            if to is None:
                continue
            queue, priority = row["queue"], row["priority"]
            answers[fence] = Settled(to.status)
            if queue in self._s.rulebook.obeyed:
                self._s.attempts.open(queue)
            moved[(queue, priority, Status.RUNNING)] -= 1
            moved[(queue, priority, to.status)] += 1
            if to.status is Status.QUEUED:
                due = row["now"] + max(0, to.run_at - now)
                due = to.run_at if to.keeps_place else due
                old = old or due < row["now"] - LATE_MS
                self._s.levels.add(queue, priority, due, row["seq"])
        if held:
            self._s.time.observe(held[0]["now"])
            self._s.counts.add_all(LANE, moved)
            self._s.news(old=old)
        return answers

    def _ends(self, writes: Writes, *, told: bool) -> tuple[str, list[Any]]:
        """The statement that writes the ends of runs, and their columns; what is alike in all of them goes once."""
        # By seq, as every lock of rows, so that no two servers wait for each other.
        rows = [
            astuple(settled(fence[0], settlement, settlement.transition, now, told=told))
            for fence, (settlement, now) in sorted(writes.items(), key=lambda item: item[0])
            if settlement.transition is not None
        ]
        columns = arrays(rows, len(sql.SETTLED))
        if self._s.rulebook.by_key:
            return flow_sql.SETTLE, columns
        if _end_alike(rows):
            return sql.SETTLE_ALIKE, [*columns[: sql.FENCED], *rows[0][sql.FENCED :]]
        return sql.SETTLE, columns

    async def _with_effects(
        self, link: Link, writes: Writes, statement: str, arguments: tuple[Any, ...]
    ) -> list[Row]:
        """Write the ends of runs, and in the same commit what they bring about."""
        async with link.transaction():
            held = await link.rows(statement, *arguments)
            holds = [hold for row in held for hold in _holds(row, *writes[_fence(row)])]
            if holds:
                await self._flow.hold(link, holds)
        if holds:
            await self._flow.changed(link)
        return held

    async def _answers(
        self, link: Link, asked: Sequence[tuple[Settlement, Settled | None]], doubted: bool
    ) -> list[SettleAnswer]:
        """What was not written: decided with another cancel flag than a later one of its claim's, or held no more."""
        ids = {settlement.id for settlement, answer in asked if answer is None and "\0" not in settlement.id}
        rows = {row["id"]: row for row in await link.rows(sql.SETTLED_AS, list(ids))} if ids else {}
        to_come = {(settlement.id, settlement.lease_id) for settlement, answer in asked if answer is not None}
        answers: list[SettleAnswer] = []
        for settlement, answer in asked:
            claim = (settlement.id, settlement.lease_id)
            if answer is not None:
                to_come.discard(claim)
                answers.append(answer)
            elif claim in to_come and settlement.transition is not None:
                answers.append(CancelChanged())
            else:
                answers.append(_earlier(settlement, rows.get(settlement.id), doubted))
        return answers


def _end_alike(rows: Sequence[tuple[Any, ...]]) -> bool:
    """Whether these rows of SETTLE are for SETTLE_ALIKE."""
    first, alike = rows[0], rows[0][sql.FENCED :]
    if first[_TO_STATUS] == NUMBER[Status.QUEUED] or first[_OUTCOME] is not None:
        return False
    return all(row[sql.FENCED :] == alike for row in rows)


def _fence(row: Row) -> Fence:
    return row["seq"], row["id"], row["lease_id"], row["cancel_requested"]


def _holds(row: Row, settlement: Settlement, now: int) -> list[Hold]:
    """What the end of a run holds."""
    effects = settlement.transition.effects if settlement.transition else ()
    return [
        (row["queue"], effect.key or "", effect.until - now)
        for effect in effects
        if isinstance(effect, lifecycle.Hold)
    ]


def _free(call: Claiming) -> int:
    """Of how many more tasks a call's worker can begin at once."""
    wish, has = call.argument, len(call.answer.claims)
    return max(0, (wish.limit if wish.free is None else wish.free) - has)


def _earlier_of(one: int | None, other: int | None) -> int | None:
    return min((at for at in (one, other) if at is not None), default=None)


def _rest(call: Claiming) -> ClaimRequest:
    """What a call still wants."""
    return replace(call.argument, limit=call.argument.limit - len(call.answer.claims))


def _ends(wishes: Sequence[ClaimRequest]) -> list[int]:
    """Up to which number of a round each wish gets its claims."""
    return list(accumulate(wish.limit for wish in wishes))


def _last(taken: Sequence[Row]) -> Place:
    """The place of what was taken last."""
    return taken[-1]["priority"], taken[-1]["run_at"], taken[-1]["seq"]


def _earlier(settlement: Settlement, row: Row | None, doubted: bool) -> SettleAnswer:
    """What a lease's settle got before; lost when another claim, or the rescuer, came between."""
    if row is None:
        return NotFound(f"no task has the id '{settlement.id}'")
    if row["lease_id"] == settlement.lease_id:
        if row["settled"] is not None:
            status, to = STATUSES[row["settled"]], settlement.transition
            # Sent twice by this lane because the connection ended within it: for its caller it is the first.
            return Settled(status, repeated=not (doubted and to is not None and to.status is status))
        if row["status"] == NUMBER[Status.RUNNING] and settlement.transition is not None:
            return CancelChanged()
    return LeaseLost(f"task '{settlement.id}' is no longer claimed with this lease")


def _released(row: Row) -> tuple[Fence, Settlement]:
    """The end of a claim that nobody was given: a run that never was."""
    task, lease_id = task_of(row), str(row["lease_id"])
    to = decide(task, Outcome(Kind.RELEASED), row["now"], Policy(), lambda: 0.0)
    fence = task.seq, task.id, lease_id, task.cancel_requested
    return fence, Settlement(task.id, lease_id, to, task.cancel_requested, rescue=True)
