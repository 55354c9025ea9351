"""What people ask of tasks: cancel, retry, delete; and pruning, which asks by age."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotFound, StorageBroken
from jobpipe.core.expiry import ended_by_expiry
from jobpipe.core.lifecycle import ALLOWED, Event
from jobpipe.core.revision import Revision, revised
from jobpipe.core.steering import Move, rises, steer
from jobpipe.core.task import Status, Task
from jobpipe.core.unique import retry_takes
from jobpipe.storage.base import Cancelled
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import NUMBER, decode_json, text
from jobpipe.storage.sqlite.state import State


class Steering:
    """Writes what core.steering decides."""

    def __init__(self, state: State) -> None:
        self._s = state

    def cancel(self, ids: Sequence[str], now: int) -> list[Cancelled | JobpipeError]:
        answers, moves = self._steer(Event.CANCEL, ids, now)
        queued = _seqs(moves, Status.QUEUED)
        self._s.write_seqs(sql.CANCEL_QUEUED, queued, now)
        self._s.keys.ended(queued)
        self._s.write_seqs(sql.CANCEL_RUNNING, _seqs(moves, Status.RUNNING))
        for before, _ in moves:
            if before.status is Status.QUEUED:
                self._s.due.forget(before)
        return [answer if isinstance(answer, JobpipeError) else self._told(answer) for answer in answers]

    def _told(self, task: Task) -> Cancelled:
        if task.status is not Status.RUNNING:
            return Cancelled(task)
        lease = self._s.leases.holder(task.seq)
        if lease is None:
            raise StorageBroken("the running claims in memory and in the file disagree")
        self._s.leases.put(task.seq, replace(lease, cancel_requested=True))
        return Cancelled(task, lease.lease_id)

    def retry(self, ids: Sequence[str], now: int) -> list[Task | JobpipeError]:
        answers, moves = self._steer(Event.RETRY, ids, now)
        self._s.write_seqs(sql.RETRY, _seqs(moves, *ALLOWED[Event.RETRY]), now)
        self._s.keys.keep(task for task, _ in moves if retry_takes(task, now))
        for task, _ in moves:
            self._s.due.add(task.queue, task.priority, now, task.seq, task.key)
        return answers

    def revise(self, id: str, revision: Revision, now: int) -> Task | JobpipeError:
        """Change a queued task."""
        task = self._s.written(self._s.found([id])).get(id)
        if task is None:
            return NotFound(f"no task has the id '{id}'")
        changed = revised(task, revision, now)
        if isinstance(changed, Task):
            self._s.rewrite(task, changed)
        return changed

    def expire(self, now: int, limit: int) -> list[Task]:
        """End waiting tasks that must not be claimed any more."""
        found = decode_json(self._s.one(sql.EXPIRED, (now, limit)))
        seqs = [seq for seq in found if seq not in self._s.unwritten]
        tasks = [row.task for row in self._s.rows(sql.BY_SEQ, text(seqs))] if seqs else []
        ended = [ended_by_expiry(task, now) for task in tasks]
        for task, group in ended:
            self._s.db.execute(sql.EXPIRE, (task.seq, now, text(task.last_error), group))
            self._s.due.forget(task)
        self._s.counts.add_all(rises(zip(tasks, [task for task, _ in ended], strict=True)))
        self._s.keys.ended(seqs)
        return [task for task, _ in ended]

    def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        answers, moves = self._steer(Event.DELETE, ids, 0)
        self._forget(_seqs(moves, *ALLOWED[Event.DELETE]))
        return answers

    def _steer(
        self, event: Event, ids: Sequence[str], now: int
    ) -> tuple[list[Task | JobpipeError], list[Move]]:
        found = self._s.written(self._s.found(ids))
        living = self._s.having(found.values(), now) if event is Event.RETRY else None
        answers, moves = steer(event, ids, found, now, living)
        self._s.counts.add_all(rises(moves))
        return answers, moves

    def prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        pruned: list[int] = []
        for status in (Status.DONE, Status.CANCELLED, Status.FAILED):
            before = failed_before if status is Status.FAILED else finished_before
            if before is None or len(pruned) >= limit:
                continue
            found = self._s.one(sql.PRUNABLE, (NUMBER[status], before, limit - len(pruned)))
            for seq, queue, priority in decode_json(found):
                pruned.append(seq)
                self._s.counts.add(queue, status, priority, -1)
        self._forget(pruned)
        return len(pruned)

    def _forget(self, seqs: list[int]) -> None:
        self._s.keys.forgotten(seqs)
        self._s.write_seqs(sql.FORGET_ATTEMPTS, seqs)
        self._s.write_seqs(sql.DELETE, seqs)

    def probe(self) -> None:
        version = self._s.one(sql.VERSION)
        self._s.db.execute(sql.SET_VERSION.format(version=int(version))).fetchall()


def _seqs(moves: Sequence[Move], *statuses: Status) -> list[int]:
    """The tasks that had one of these."""
    return [before.seq for before, _ in moves if before.status in statuses]
