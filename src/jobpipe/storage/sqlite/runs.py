"""Runs of tasks: claiming, settling, extending, and finding those whose holder is gone."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost, NotFound, StorageBroken
from jobpipe.core.lifecycle import Kind
from jobpipe.core.task import Claim, Status
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
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.counts import Standing
from jobpipe.storage.sqlite.leases import Lease
from jobpipe.storage.sqlite.rows import STATUSES, attempted, decode_json, settled, succeeded, text
from jobpipe.storage.sqlite.state import State
from jobpipe.storage.sqlite.writer import Calls

_SUCCEEDED = Settled(Status.DONE)
_DONE = Kind.DONE
_QUEUED, _RUNNING = Status.QUEUED, Status.RUNNING


class Runs:
    """Claims and their ends. A lease id is `boot.claim.seq`: new at every claim, and it leads back to its row."""

    def __init__(self, state: State) -> None:
        self._s = state
        self._boot = secrets.token_hex(6)
        self._claims = 0

    def claim(self, request: ClaimRequest, now: int) -> ClaimAnswer:
        picked = self._s.due.pick(request.queues, request.limit, now, MAX_CLAIM_BYTES, self._s.peek)
        if not picked.seqs:
            return ClaimAnswer([], picked.next_due)
        self._claims += 1
        prefix = f"{self._boot}.{self._claims}."
        lease_ms = None if request.lease_s is None else round(request.lease_s * 1000)
        boot = self._boot if request.local else None
        seqs = text(picked.seqs)
        self._s.db.execute(sql.CLAIM, (seqs, now, request.worker, prefix, lease_ms, boot))
        tasks = {row.task.seq: row.task for row in self._s.rows(sql.BY_SEQ, seqs)}
        ends = None if request.lease_s is None else self._s.clock.monotonic() + request.lease_s
        until = None if lease_ms is None else now + lease_ms
        moved: Counter[Standing] = Counter()
        claims = []
        for seq in picked.seqs:
            task, lease_id = tasks[seq], f"{prefix}{seq}"
            moved[(task.queue, task.priority, _RUNNING)] += 1
            self._s.leases.put(
                seq, Lease(task.id, task.queue, task.priority, lease_id, request.lease_s, ends)
            )
            claims.append(Claim(task, lease_id, until))
        self._s.counts.add_all(moved)
        self._s.counts.add_all({(q, p, _QUEUED): -n for (q, p, _), n in moved.items()})
        return ClaimAnswer(claims, picked.next_due)

    def settle(self, calls: Calls) -> None:
        """Write all settlements of all calls in one statement; answer beside it those whose claim does not hold."""
        ends = _Ends()
        for call in calls:
            settlements, now = call.argument
            call.answer = [self._judged(settlement, now, ends) for settlement in settlements]
        if ends.moved:
            self._write(ends)
        for call in calls:
            call.can_wait = not ends.queued  # a task that is queued again may be claimed in the same commit
        # After the writing, so that a settle sent twice within one commit gets the same answer twice.
        self._answer_earlier(calls)

    def _write(self, ends: _Ends) -> None:
        self._s.counts.add_all(ends.moved)
        if ends.attempts:  # before SETTLE, which clears when and where a run began
            self._s.db.execute(sql.KEEP_ATTEMPTS, (text(ends.attempts),))
        for statement, arguments, ended in (
            (sql.SETTLE_DONE, succeeded, ends.successes), (sql.SETTLE, settled, ends.others),
        ):  # fmt: skip
            if ended:
                self._s.db.execute(statement, arguments(ended))
                if self._s.db.changes() != len(ended):
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
        ends.moved[(lease.queue, lease.priority, _RUNNING)] -= 1
        ends.moved[(lease.queue, lease.priority, to.status)] += 1
        if to.kind is _DONE and not settlement.rescue:
            ends.successes.append((seq, settlement))
            return _SUCCEEDED
        ends.others.append((seq, settlement))
        if to.kind is not _DONE:
            ends.attempts.append(attempted(seq, to, now))
        if to.status is _QUEUED:
            ends.queued = True
            self._s.due.add(lease.queue, lease.priority, to.run_at, seq)
        return Settled(to.status)

    def _answer_earlier(self, calls: Calls) -> None:
        """What a lease's settle got before; lost when another claim, or the rescuer, came between."""
        ids = [
            settlement.id
            for call in calls
            for settlement, answer in zip(call.argument[0], call.answer, strict=True)
            if answer is None
        ]
        if not ids:
            return
        rows = {id_: rest for id_, *rest in decode_json(self._s.one(sql.SETTLED_AS, (text(ids),)))}
        for call in calls:
            call.answer = [
                _earlier(settlement, rows.get(settlement.id)) if answer is None else answer
                for settlement, answer in zip(call.argument[0], call.answer, strict=True)
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

    def lost(self, limit: int) -> list[LostClaim]:
        lost = self._s.leases.lost(self._s.clock.monotonic(), limit)
        rows = self._s.rows(sql.BY_SEQ, text(list(lost))) if lost else []
        by_seq = {row.task.seq: row.task for row in rows}
        return [LostClaim(by_seq[seq], lease.lease_id, lease.orphaned) for seq, lease in lost.items()]

    def next_expiry(self) -> float | None:
        return self._s.leases.next_expiry(self._s.clock.monotonic())


class _Ends:
    """What the settles of one commit write: the tasks, the history of unsuccessful runs, the counts."""

    __slots__ = ("attempts", "moved", "others", "queued", "successes")

    def __init__(self) -> None:
        self.successes: list[tuple[int, Settlement]] = []
        self.others: list[tuple[int, Settlement]] = []
        self.attempts: list[tuple[object, ...]] = []
        self.moved: Counter[Standing] = Counter()
        self.queued = False
        """Whether one of the tasks is queued again."""


def _earlier(settlement: Settlement, row: list[Any] | None) -> SettleAnswer:
    if row is None:
        return NotFound(f"no task has the id '{settlement.id}'")
    lease_id, answer = row
    if answer is not None and lease_id == settlement.lease_id:
        return Settled(STATUSES[answer], repeated=True)
    return LeaseLost(f"task '{settlement.id}' is no longer claimed with this lease")
