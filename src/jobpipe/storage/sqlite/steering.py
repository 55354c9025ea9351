"""What people ask of tasks: cancel, retry, delete; and pruning, which asks by age."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotFound, StorageBroken
from jobpipe.core.lifecycle import Event, refusal
from jobpipe.core.task import Status, Task
from jobpipe.storage.base import Cancelled
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import NUMBER, decode_json
from jobpipe.storage.sqlite.state import State


class Steering:
    """Each verb answers every id in order; an id that comes twice is met the second time as the first left it."""

    def __init__(self, state: State) -> None:
        self._s = state

    def cancel(self, ids: Sequence[str], now: int) -> list[Cancelled | JobpipeError]:
        found = self._s.written(self._s.found(ids))
        answers: list[Cancelled | JobpipeError] = []
        queued: list[int] = []
        running: list[int] = []
        for id_ in ids:
            task = found.get(id_)
            if isinstance(no := _refused(Event.CANCEL, id_, task), JobpipeError):
                answers.append(no)
            elif no.status is Status.QUEUED:
                queued.append(no.seq)
                self._s.due.forget(no.queue, no.priority)
                self._move(no, Status.CANCELLED)
                found[id_] = replace(no, status=Status.CANCELLED, finished_at=now)
                answers.append(Cancelled(found[id_]))
            else:
                running.append(no.seq)
                answers.append(self._told(replace(no, cancel_requested=True)))
        self._s.write_seqs(sql.CANCEL_QUEUED, queued, now)
        self._s.write_seqs(sql.CANCEL_RUNNING, running)
        return answers

    def _move(self, task: Task, to: Status) -> None:
        self._s.counts.add(task.queue, task.status, task.priority, -1)
        self._s.counts.add(task.queue, to, task.priority, 1)

    def _told(self, task: Task) -> Cancelled:
        lease = self._s.leases.holder(task.seq)
        if lease is None:
            raise StorageBroken("the running claims in memory and in the file disagree")
        self._s.leases.put(task.seq, replace(lease, cancel_requested=True))
        return Cancelled(task, lease.lease_id)

    def retry(self, ids: Sequence[str], now: int) -> list[Task | JobpipeError]:
        found = self._s.written(self._s.found(ids))
        answers: list[Task | JobpipeError] = []
        seqs: list[int] = []
        for id_ in ids:
            task = _refused(Event.RETRY, id_, found.get(id_))
            if isinstance(task, Task):
                seqs.append(task.seq)
                self._move(task, Status.QUEUED)
                self._s.due.add(task.queue, task.priority, now, task.seq)
                task = found[id_] = _queued_again(task, now)
            answers.append(task)
        self._s.write_seqs(sql.RETRY, seqs, now)
        return answers

    def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        found = self._s.written(self._s.found(ids))
        answers: list[Task | JobpipeError] = []
        seqs: list[int] = []
        for id_ in ids:
            task = _refused(Event.DELETE, id_, found.get(id_))
            if isinstance(task, Task):
                del found[id_]
                seqs.append(task.seq)
                self._s.counts.add(task.queue, task.status, task.priority, -1)
            answers.append(task)
        self._forget(seqs)
        return answers

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
        self._s.write_seqs(sql.FORGET_ATTEMPTS, seqs)
        self._s.write_seqs(sql.DELETE, seqs)

    def probe(self) -> None:
        version = self._s.one(sql.VERSION)
        self._s.db.execute(sql.SET_VERSION.format(version=int(version))).fetchall()


def _refused(event: Event, task_id: str, task: Task | None) -> Task | JobpipeError:
    """The task, when the event is allowed for it; else why not."""
    if task is None:
        return NotFound(f"no task has the id '{task_id}'")
    return refusal(event, task_id, task.status) or task


def _queued_again(task: Task, now: int) -> Task:
    return replace(
        task, status=Status.QUEUED, attempts=0, failures=0, lost=0, run_at=now, started_at=None,
        finished_at=None, cancel_requested=False, worker=None, result=None,
    )  # fmt: skip
