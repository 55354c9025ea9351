"""Serving gathered calls in one transaction, in the order of their turns (storage/calls.py).

That order holds for claims of workers elsewhere; those of the server's own need no commit: they are answered before all
other calls, and written a little later (unwritten.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import apsw
from msgspec.structs import replace

from jobpipe.core.admission import Limits
from jobpipe.core.errors import StorageRefused
from jobpipe.core.task import Attempt, Status, Task
from jobpipe.runtime.clock import Clock
from jobpipe.storage.base import CommitStats, LostClaim, QueueCounts, Summary
from jobpipe.storage.calls import Call, T, grouped
from jobpipe.storage.sqlite import history
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.audit import Audit
from jobpipe.storage.sqlite.claimlog import ClaimLog
from jobpipe.storage.sqlite.flow import Flow
from jobpipe.storage.sqlite.intake import Inserting, Intake
from jobpipe.storage.sqlite.rows import NUMBER
from jobpipe.storage.sqlite.runs import Runs, Settling
from jobpipe.storage.sqlite.schedules import SqliteSchedules
from jobpipe.storage.sqlite.state import State
from jobpipe.storage.sqlite.steering import Steering
from jobpipe.storage.sqlite.unwritten import KEEP_S
from jobpipe.storage.sqlite.writer import Calls

Getting = Call[Sequence[str], list[Task | None]]


class Store:
    """All calls of the contract, over one connection; lives in the writer's thread."""

    def __init__(
        self,
        connection: apsw.Connection,
        limits: Limits,
        clock: Clock,
        commits: CommitStats,
        log: ClaimLog,
    ) -> None:
        self._s = State(connection, clock, log, limits.max_queues)
        limits = replace(limits, own=self._s.flow.capacities)
        self._commits = commits
        self._failing = False
        self.intake, self.runs, self.steering = Intake(self._s, limits), Runs(self._s), Steering(self._s)
        self.audit = Audit(self._s)
        self.schedules = SqliteSchedules(self._s, self.intake)

    def insert(self, calls: Sequence[Inserting]) -> None:
        """See Intake.insert."""
        self.intake.insert(calls)

    def settle(self, calls: Sequence[Settling]) -> None:
        """See Runs.settle."""
        self.runs.settle(calls)

    @property
    def owes(self) -> bool:
        """Whether claims were answered that are not in the file. May be read from any thread."""
        return self._s.unwritten.some

    @property
    def flow(self) -> Flow:
        """The rules of queues and keys."""
        return self._s.flow

    @property
    def overdue(self) -> bool:
        """Whether one of them should be there by now."""
        return self._s.unwritten.oldest <= self._s.clock.monotonic() - KEEP_S

    def commit(self, calls: Calls) -> None:
        """Serve gathered writing calls in one transaction and set their answers; without calls, write what is owed.

        Raises apsw.Error or StorageBroken; then nothing of them happened.
        """
        began = self._s.clock.monotonic()
        self._s.begin()
        try:
            if self._failing:
                self.steering.probe()  # else one that writes nothing would say that all is well again
            if not calls:
                self._s.write_claims()
            for serve, group in grouped(calls):
                serve(self, group)
            self._s.commit()
        except BaseException:
            self._failing = True
            self._s.roll_back()
            raise
        self._failing = False
        self._commits.add(self._s.clock.monotonic() - began, self._s.moved)

    def read(self, calls: Calls) -> None:
        """Serve calls that write nothing, but for claims that are to be told of."""
        for serve, group in grouped(calls):
            serve(self, group)

    def close(self) -> None:
        """Close the connection; the write-ahead log is folded into the file."""
        self._s.db.close()
        if not self.owes:
            self._s.log.close()

    def abandon(self) -> None:
        """Close the connection and leave all files as they are: they may be others by now, or damaged."""
        self._s.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._s.db.close()

    def get(self, calls: Sequence[Getting]) -> None:
        """All calls together: what they are to see is written by one commit."""
        ids = [id_ for call in calls for id_ in call.argument]
        found = self._s.found(ids)
        try:
            if self._have_written([task.seq for task in found.values()]):
                found = self._s.found(ids)
        except apsw.FullError:  # told all the same: reading needs no space
            found = {id_: self._s.unwritten.task(task) for id_, task in found.items()}
        for call in calls:
            call.answer = [found.get(id_) for id_ in call.argument]

    def lost(self, limit: int) -> list[LostClaim]:
        """Claims whose holder is gone."""
        lost = self._s.leases.lost(self._s.clock.monotonic(), limit)
        self._have_written(lost)
        return self.runs.lost(lost)

    def _have_written(self, seqs: Iterable[int]) -> bool:
        """Write the claims of these tasks, if one is not in the file; whether there was one."""
        late = [seq for seq in seqs if seq in self._s.unwritten]
        if not late:
            return False
        self._s.begin()
        try:
            self._s.write_claims(late)
            self._s.commit()
        except BaseException:
            self._s.roll_back()
            raise
        return True

    def counts(self) -> dict[Status, int]:
        """The counts over all queues."""
        counts = self._s.counts.by_status()
        counts[Status.QUEUED] -= len(self._s.unwritten)
        counts[Status.RUNNING] += len(self._s.unwritten)
        return counts

    def written(self) -> None:
        """Have all claims in the file, for a reader that looks there."""
        self.commit(())

    def renew_log(self) -> None:
        """Begin the log of claims anew, in a file of its own."""
        with suppress(OSError, StorageRefused):  # tried again at the next look
            self._s.log.renew(self._s.unwritten.lines())

    def queues(self, now: int) -> list[QueueCounts]:
        """The counts of each queue that holds tasks."""
        oldest = self._s.due.oldest(now)
        by_queue = self._s.counts.by_queue()
        for queue, n in self._s.unwritten.by_queue().items():
            by_queue[queue][Status.QUEUED] -= n
            by_queue[queue][Status.RUNNING] += n
        return [QueueCounts(queue, counts, oldest.get(queue)) for queue, counts in by_queue.items()]

    def next_prunable(self) -> tuple[int | None, int | None]:
        """When the oldest done or cancelled task finished, and when the oldest failed one did."""
        done, failed, cancelled = (
            self._s.one(sql.OLDEST_FINISHED, (NUMBER[status],))
            for status in (Status.DONE, Status.FAILED, Status.CANCELLED)
        )
        return min((at for at in (done, cancelled) if at is not None), default=None), failed

    def next_expiring(self) -> int | None:
        """When the next waiting task expires."""
        at: int | None = self._s.one(sql.NEXT_EXPIRING)
        if at is not None and self.owes:  # it may have been claimed
            with suppress(apsw.FullError):
                self.written()
            at = self._s.one(sql.NEXT_EXPIRING)
        return at

    def attempts(self, task_id: str) -> list[Attempt] | None:
        """The unsuccessful attempts of a task."""
        return history.attempts(self._s.db, task_id)

    def keep_summary(self, summary: Summary, forget_before: int) -> None:
        """Keep the summary of a minute, and forget older minutes."""
        history.keep_summary(self._s.db, summary, forget_before)

    def listed(self, look: Callable[[apsw.Connection], T]) -> T:
        """A page of an in-memory database, which only this connection sees."""
        if self.owes:
            with suppress(apsw.FullError):
                self.written()
        return look(self._s.db)
