"""Runs of tasks: claiming, settling, extending, and finding those whose holder is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from secrets import token_hex
from typing import Any

from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost, NotFound, StorageBroken
from jobpipe.core.expiry import expired
from jobpipe.core.lifecycle import Hold, Kind, claimed
from jobpipe.core.steering import Standing
from jobpipe.core.task import Claim, Status, Task
from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    CancelChanged,
    ClaimAnswer,
    ClaimRequest,
    Extended,
    Extension,
    LostClaim,
    SettleAnswer,
    Settled,
    Settlement,
)
from jobpipe.storage.calls import Call
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.claimlog import DIGITS, note_of
from jobpipe.storage.sqlite.columns import Attempted
from jobpipe.storage.sqlite.leases import Lease
from jobpipe.storage.sqlite.line import Row
from jobpipe.storage.sqlite.rows import (
    STATUSES,
    attempted,
    decode_json,
    finished,
    settled,
    succeeded,
    text,
    waiting,
)
from jobpipe.storage.sqlite.state import State
from jobpipe.storage.sqlite.unwritten import Handing

Settling = Call[tuple[Sequence[Settlement], int], list[SettleAnswer]]
"""Ends of runs to be written, and the time."""
_SUCCEEDED = Settled(Status.DONE)
_DONE = Kind.DONE
_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING


class Runs:
    """Claims and their ends."""

    def __init__(self, state: State) -> None:
        self._s = state
        self._boot = token_hex(6)
        self._claims = 0

    def claim(self, request: ClaimRequest, now: int) -> ClaimAnswer:
        """Claim, written in the transaction that is under way."""
        answer, _ = self._taken(request, now)
        self._s.write_claims([claim.task.seq for claim in answer.claims])
        if self._s.due.ruled:
            self._s.flow.claimed(answer.claims)
        return answer

    def hand_out(self, request: ClaimRequest, now: int) -> ClaimAnswer | None:
        """Claim, only noted for now (see unwritten.py); None for a claim that must be in the file first.

        That is one of a worker that outlives this server: it would come back with a lease that nobody knows; and one
        of tasks whose queue has rules: what these have used up is stored with it.
        """
        if not request.local or self._s.due.obeys(request.queues, now):
            return None
        try:
            answer, line = self._taken(request, now)
            if answer.claims:
                self._s.log.write(line, self._s.unwritten.lines)
        except BaseException as error:
            self._s.take_back()
            if isinstance(error, OSError):  # no space is left, most likely: the commit will say
                return None
            raise
        self._s.leases.commit()
        self._s.unwritten.commit()
        return answer

    def _taken(self, request: ClaimRequest, now: int) -> tuple[ClaimAnswer, bytes]:
        """A claim in memory, and its note for the log."""
        monotonic, lease_s = self._s.clock.monotonic(), request.lease_s
        lease_ms = None if lease_s is None else round(lease_s * 1000)
        tasks, next_due = self._picked(request, now)
        if not tasks:
            return ClaimAnswer([], next_due), b""
        self._claims += 1
        ends = None if lease_s is None else monotonic + lease_s
        until = None if lease_ms is None else now + lease_ms
        claims: list[Claim] = []
        note = note_of(self._boot, self._claims, lease_ms, tasks, token_hex(len(tasks) * DIGITS // 2))
        for task, lease_id in zip(tasks, note.lease_ids(), strict=True):
            self._s.leases.put(
                task.seq, Lease(task.id, task.queue, task.priority, task.key, lease_id, lease_s, ends)
            )
            claims.append(Claim(task, lease_id, until))
        line = note.line() if request.local else b""
        self._s.unwritten.add(
            claims, Handing(self._boot if request.local else None, lease_ms, monotonic, line)
        )
        return ClaimAnswer(claims, next_due), line

    def _picked(self, request: ClaimRequest, now: int) -> tuple[list[Task], int | None]:
        """The next tasks, as claimed, and when others are due; those that expired are passed over."""
        tasks: list[Task] = []
        room, free = MAX_CLAIM_BYTES, request.free
        while True:
            picked = self._s.due.pick(request.queues, request.limit - len(tasks), now, room, free)
            living = self._as_claimed(picked.rows, now, request.worker)
            tasks += living
            room -= sum(len(task.payload) for task in living)
            if len(living) == len(picked.rows) or room <= 0:
                return tasks, picked.next_due
            free = None if free is None else free - len(living)

    def _as_claimed(self, rows: Sequence[Row], now: int, worker: str) -> list[Task]:
        """The tasks of these rows once they are claimed; those that memory does not know are read."""
        unknown = [seq for _, seq, _, task in rows if task is None]
        read = waiting(self._s.db, sql.WAITING, unknown) if unknown else {}
        tasks: list[Task] = []
        for _, seq, _, known in rows:
            task = known or read[seq]
            if expired(task, now):
                self._s.due.passed(task)
            else:
                tasks.append(claimed(task, now, worker))
        return tasks

    def settle(self, calls: Sequence[Settling]) -> None:
        """Write all settlements of all calls in one statement; answer beside it those whose claim does not hold."""
        ends = _Ends()
        judged: list[list[SettleAnswer | None]] = []
        for call in calls:
            settlements, now = call.argument
            judged.append([self._judged(settlement, now, ends) for settlement in settlements])
            self._s.moved += len(settlements)
        if ends.moves:
            self._write(ends)
        for call in calls:
            call.can_wait = not ends.queued  # a task that is queued again may be claimed in the same commit
        # After the writing, so that a settle sent twice within one commit gets the same answer twice.
        self._answer(calls, judged)

    def _write(self, ends: _Ends) -> None:
        self._s.write_claims(ends.unwritten)
        self._s.counts.add_all(ends.moved())
        if ends.attempts:  # before SETTLE, which clears when and where a run began
            self._s.db.execute(sql.KEEP_ATTEMPTS, (text(ends.attempts),))
        if ends.finished:
            self._change(sql.FINISH, finished(ends.finished, ends.claims), len(ends.finished))
        if ends.successes:
            self._change(sql.SETTLE_DONE, succeeded(ends.successes), len(ends.successes))
        if ends.others:
            self._change(sql.SETTLE, settled(ends.others), len(ends.others))
        if self._s.keys.some:
            self._s.keys.ended(ends.ended())

    def _change(self, statement: str, arguments: tuple[str, bytes], n: int) -> None:
        self._s.db.execute(statement, arguments)
        if self._s.db.changes() != n:
            raise StorageBroken("the running claims in memory and in the file disagree")

    def _judged(self, settlement: Settlement, now: int, ends: _Ends) -> SettleAnswer | None:
        """The answer, the write noted; None when the claim does not hold (any more)."""
        held = self._s.leases.held(settlement.id, settlement.lease_id)
        to = settlement.transition
        if held is None or to is None:
            return None
        seq, lease = held
        if lease.cancel_requested != settlement.cancel_requested:
            return CancelChanged()
        self._s.leases.end(seq)
        if self._s.due.ruled:
            self._s.due.ended(lease.queue, lease.key)
        if to.kind is _DONE and not settlement.rescue:
            claim = self._s.unwritten.take(seq)
            if claim is not None:
                ends.moves.append((lease.queue, lease.priority, _QUEUED, to.status))
                ends.finished.append((seq, settlement))
                ends.claims.append(claim)
            else:
                ends.moves.append((lease.queue, lease.priority, _RUNNING, to.status))
                ends.successes.append((seq, settlement))
            return _SUCCEEDED
        for effect in to.effects:
            if isinstance(effect, Hold):
                self._s.flow.hold(lease.queue, effect.key, effect.until)
        ends.moves.append((lease.queue, lease.priority, _RUNNING, to.status))
        ends.unwritten.append(seq)
        ends.others.append((seq, settlement))
        if to.is_attempt:
            ends.attempts.append(attempted(seq, to, now))
        if to.status is _QUEUED:
            ends.queued = True
            self._s.due.add(lease.queue, lease.priority, to.run_at, seq, lease.key)
        return Settled(to.status)

    def _answer(self, calls: Sequence[Settling], judged: Sequence[Sequence[SettleAnswer | None]]) -> None:
        """Where the claim did not hold: what the lease's settle got before; lost when another claim, or the rescuer,
        came between.
        """
        asked = [
            settlement.id
            for call, answers in zip(calls, judged, strict=True)
            for settlement, answer in zip(call.argument[0], answers, strict=True)
            if answer is None
        ]
        rows: dict[str, list[Any]] = {}
        if asked:
            self._s.write_claims()  # a later claim of the same task is what makes an earlier lease lost
            rows = {id_: rest for id_, *rest in decode_json(self._s.one(sql.SETTLED_AS, (text(asked),)))}
        for call, answers in zip(calls, judged, strict=True):
            call.answer = [
                _earlier(settlement, rows.get(settlement.id)) if answer is None else answer
                for settlement, answer in zip(call.argument[0], answers, strict=True)
            ]

    def extend(self, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        return [self._extended(extension) for extension in extensions]

    def _extended(self, extension: Extension) -> Extended | LeaseLost:
        held = self._s.leases.held(extension.id, extension.lease_id)
        if held is None:
            return LeaseLost(f"task '{extension.id}' is no longer claimed with this lease")
        seq, lease = held
        if lease.ends is None:
            return Extended(None, lease.cancel_requested)
        ends = self._s.clock.monotonic() + extension.lease_s
        self._s.leases.put(seq, replace(lease, ends=ends))
        self._s.leases.commit()
        return Extended(self._s.clock.now() + round(extension.lease_s * 1000), lease.cancel_requested)

    def lost(self, lost: Mapping[int, Lease]) -> list[LostClaim]:
        rows = self._s.rows(sql.BY_SEQ, text(list(lost))) if lost else []
        by_seq = {row.task.seq: row.task for row in rows}
        return [LostClaim(by_seq[seq], lease.lease_id, lease.orphaned) for seq, lease in lost.items()]

    def next_expiry(self) -> float | None:
        return self._s.leases.next_expiry(self._s.clock.monotonic())


class _Ends:
    """What the settles of one commit write: the tasks, the history of unsuccessful runs, the counts."""

    __slots__ = (
        "attempts",
        "claims",
        "finished",
        "moves",
        "others",
        "queued",
        "successes",
        "unwritten",
    )

    def __init__(self) -> None:
        self.successes: list[tuple[int, Settlement]] = []
        self.finished: list[tuple[int, Settlement]] = []
        self.claims: list[Claim] = []
        """Runs that succeeded before their claims were written, and those claims."""
        self.unwritten: list[int] = []
        """Tasks whose claims must be written before their ends, if they are not."""
        self.others: list[tuple[int, Settlement]] = []
        self.attempts: list[Attempted] = []
        self.moves: list[tuple[str, int, Status, Status]] = []
        """Queue, priority, and the statuses that the counts know before and after."""
        self.queued = False
        """Whether one of the tasks is queued again."""

    def moved(self) -> Counter[Standing]:
        """How much is more, and less, of what is counted together."""
        moved: Counter[Standing] = Counter()
        for (queue, priority, was, now), n in Counter(self.moves).items():
            moved[(queue, priority, was)] -= n
            moved[(queue, priority, now)] += n
        return moved

    def ended(self) -> list[int]:
        """The tasks that came to their ends."""
        others = [
            seq
            for seq, settlement in self.others
            if settlement.transition is not None and settlement.transition.finished
        ]
        return [seq for seq, _ in (*self.finished, *self.successes)] + others


def _earlier(settlement: Settlement, row: list[Any] | None) -> SettleAnswer:
    if row is None:
        return NotFound(f"no task has the id '{settlement.id}'")
    lease_id, answer = row
    if answer is not None and lease_id == settlement.lease_id:
        return Settled(STATUSES[answer], repeated=True)
    return LeaseLost(f"task '{settlement.id}' is no longer claimed with this lease")
