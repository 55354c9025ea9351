"""Serving gathered calls: which part answers which call, and in what order within one transaction.

Inserts come first, then settles, then what people steer, then claims, so that one commit carries a task as far as it
can go, and a freed worker's next claim never makes more tasks running than there are workers. That holds for claims of
workers elsewhere; those of the server's own need no commit: they are answered before all other calls, and written a
little later (unwritten.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import apsw

from jobpipe.clock import Clock
from jobpipe.core.task import Attempt, Status
from jobpipe.storage.base import CommitStats, LostClaim, QueueCounts, Summary
from jobpipe.storage.sqlite import history
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.claimlog import ClaimLog
from jobpipe.storage.sqlite.intake import Intake, Limits
from jobpipe.storage.sqlite.rows import NUMBER
from jobpipe.storage.sqlite.runs import Runs
from jobpipe.storage.sqlite.state import State
from jobpipe.storage.sqlite.steering import Steering
from jobpipe.storage.sqlite.unwritten import KEEP_S
from jobpipe.storage.sqlite.writer import Call, Calls


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
        self._s = State(connection, clock, log)
        self._commits = commits
        intake, runs, steering = Intake(self._s, limits), Runs(self._s), Steering(self._s)
        self._runs = runs
        self._writing: dict[str, Callable[[Calls], None]] = {
            "insert": intake.insert,
            "import": _each(intake.import_),
            "settle": runs.settle,
            "cancel": _each(steering.cancel),
            "retry": _each(steering.retry),
            "delete": _each(steering.delete),
            "prune": _each(steering.prune),
            "keep_summary": _each(self._keep_summary),
            "probe": _each(steering.probe),
            "claim": _each(runs.claim),
        }
        self._reading: dict[str, Callable[[Calls], None]] = {
            "extend": _each(runs.extend),
            "lost": _each(self._lost),
            "next_expiry": _each(runs.next_expiry),
            "get": self._get,
            "attempts": _each(self._attempts),
            "counts": _each(self._count),
            "queues": _each(self._queues),
            "next_prunable": _each(self._next_prunable),
            "listing": _each(self._listing),
            "written": _each(self._written),
            "renew_log": _each(self._renew_log),
        }

    def hand_out(self, call: Call) -> None:
        """Answer a claim that needs no commit. Raises like `commit`, and did nothing then."""
        try:
            call.answer = self._runs.hand_out(*call.argument)
        except BaseException:
            self._s.take_back()
            raise

    @property
    def owes(self) -> bool:
        """Whether claims were answered that are not in the file. May be read from any thread."""
        return self._s.unwritten.some

    @property
    def overdue(self) -> bool:
        """Whether one of them should be there by now."""
        return self._s.unwritten.oldest <= self._s.clock.monotonic() - KEEP_S

    def commit(self, calls: Calls) -> None:
        """Serve gathered writing calls in one transaction and set their answers; without calls, write what is owed.

        Raises apsw.Error or StorageBroken; then nothing of them happened.
        """
        groups = _grouped(calls)
        began = self._s.clock.monotonic()
        self._s.begin()
        try:
            if not calls:
                self._s.write_claims()
            for name, write in self._writing.items():
                if name in groups:
                    write(groups[name])
            self._s.commit()
        except BaseException:
            self._s.roll_back()
            raise
        self._commits.add(self._s.clock.monotonic() - began, _tasks(groups) + self._s.claimed)

    def read(self, calls: Calls) -> None:
        """Serve calls that write nothing, but for claims that are to be told of."""
        for name, group in _grouped(calls).items():
            self._reading[name](group)

    def close(self) -> None:
        """Close the connection; the write-ahead log is folded into the file."""
        self._s.db.close()
        if not self.owes:
            self._s.log.close()

    def abandon(self) -> None:
        """Close the connection and leave all files as they are: they may be others by now, or damaged."""
        self._s.db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        self._s.db.close()

    def _get(self, calls: Calls) -> None:
        """All calls together: what they are to see is written by one commit."""
        ids = [id_ for call in calls for id_ in call.argument[0]]
        found = self._s.found(ids)
        try:
            if self._have_written([task.seq for task in found.values()]):
                found = self._s.found(ids)
        except apsw.FullError:  # told all the same: reading needs no space
            found = {id_: self._s.unwritten.task(task) for id_, task in found.items()}
        for call in calls:
            call.answer = [found.get(id_) for id_ in call.argument[0]]

    def _lost(self, limit: int) -> list[LostClaim]:
        lost = self._s.leases.lost(self._s.clock.monotonic(), limit)
        self._have_written(lost)
        return self._runs.lost(lost)

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

    def _count(self) -> dict[Status, int]:
        counts = self._s.counts.by_status()
        counts[Status.QUEUED] -= len(self._s.unwritten)
        counts[Status.RUNNING] += len(self._s.unwritten)
        return counts

    def _written(self) -> None:
        """Have all claims in the file, for a reader that looks there."""
        self.commit(())

    def _renew_log(self) -> None:
        self._s.log.renew(self._s.unwritten.lines())

    def _queues(self, now: int) -> list[QueueCounts]:
        oldest = self._s.due.oldest(now)
        by_queue = self._s.counts.by_queue()
        for queue, n in self._s.unwritten.by_queue().items():
            by_queue[queue][Status.QUEUED] -= n
            by_queue[queue][Status.RUNNING] += n
        return [QueueCounts(queue, counts, oldest.get(queue)) for queue, counts in by_queue.items()]

    def _next_prunable(self) -> tuple[int | None, int | None]:
        done, failed, cancelled = (
            self._s.one(sql.OLDEST_FINISHED, (NUMBER[status],))
            for status in (Status.DONE, Status.FAILED, Status.CANCELLED)
        )
        return min((at for at in (done, cancelled) if at is not None), default=None), failed

    def _attempts(self, task_id: str) -> list[Attempt] | None:
        return history.attempts(self._s.db, task_id)

    def _keep_summary(self, summary: Summary, forget_before: int) -> None:
        history.keep_summary(self._s.db, summary, forget_before)

    def _listing(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """A page of an in-memory database, which only this connection sees."""
        if self.owes:
            with suppress(apsw.FullError):
                self._written()
        return function(self._s.db, *arguments)


def _each(answer: Callable[..., Any]) -> Callable[[Calls], None]:
    """Serve the calls of a group one by one."""

    def serve(calls: Calls) -> None:
        for call in calls:
            call.answer = answer(*call.argument)

    return serve


def _tasks(groups: dict[str, list[Call]]) -> int:
    """How many tasks were accepted and settled."""
    return sum(len(call.argument[0]) for name in ("insert", "settle") for call in groups.get(name, ()))


def _grouped(calls: Calls) -> dict[str, list[Call]]:
    groups: dict[str, list[Call]] = {}
    for call in calls:
        groups.setdefault(call.group, []).append(call)
    return groups
