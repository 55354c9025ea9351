"""Runs of tasks: claiming, settling, extending, and finding those whose holder is gone."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost, NotFound, StorageBroken
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
from jobpipe.storage.sqlite.leases import Lease
from jobpipe.storage.sqlite.rows import settled, text
from jobpipe.storage.sqlite.state import State
from jobpipe.storage.sqlite.writer import Calls


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
        claims = []
        for seq in picked.seqs:
            task, lease_id = tasks[seq], f"{prefix}{seq}"
            self._s.counts.move(task.queue, task.priority, Status.QUEUED, Status.RUNNING)
            self._s.leases.put(
                seq, Lease(task.id, task.queue, task.priority, lease_id, request.lease_s, ends)
            )
            claims.append(Claim(task, lease_id, until))
        return ClaimAnswer(claims, picked.next_due)

    def settle(self, calls: Calls) -> None:
        """All settlements of all calls in one statement, those whose claim does not hold answered beside it."""
        writes: list[tuple[int, Settlement]] = []
        for call in calls:
            call.answer = [self._judged(settlement, writes) for settlement in call.argument[0]]
        if not writes:
            return
        self._s.db.execute(sql.SETTLE, settled(writes))
        if self._s.db.changes() != len(writes):
            raise StorageBroken("the running claims in memory and in the file disagree")

    def _judged(self, settlement: Settlement, writes: list[tuple[int, Settlement]]) -> SettleAnswer:
        held = self._s.leases.held(settlement.id, settlement.lease_id)
        if held is None or settlement.transition is None:
            return self._earlier_answer(settlement)
        seq, lease = held
        if lease.cancel_requested != settlement.cancel_requested:
            return CancelChanged()
        self._s.leases.end(seq)
        writes.append((seq, settlement))
        to = settlement.transition
        queue, priority = lease.queue, lease.priority
        self._s.counts.move(queue, priority, Status.RUNNING, to.status)
        if to.status is Status.QUEUED:
            self._s.due.add(queue, priority, to.run_at, seq)
        return Settled(to.status)

    def _earlier_answer(self, settlement: Settlement) -> SettleAnswer:
        """What this lease's settle got before; lost when another claim, or the rescuer, came between."""
        rows = self._s.rows(sql.BY_ID, text([settlement.id]))
        if not rows:
            return NotFound(f"no task has the id '{settlement.id}'")
        (row,) = rows
        if row.settled is not None and row.lease_id == settlement.lease_id:
            return Settled(row.settled, repeated=True)
        return LeaseLost(f"task '{settlement.id}' is no longer claimed with this lease")

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
