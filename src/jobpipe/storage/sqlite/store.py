"""What each call of the contract does to the database. Synchronous; lives in the writer's thread.

A batch runs in one transaction: inserts first, then settles, then what people steer, then claims, then reads, so that
one commit carries a task as far as it can go. What memory keeps (counts, heads, leases) changes with the batch; after a
rollback it is read again, because the file alone is the truth.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import apsw
from msgspec import Struct
from msgspec.structs import replace

from jobpipe.clock import Clock
from jobpipe.core.errors import (
    JobpipeError,
    LeaseLost,
    NotFound,
    QueueFull,
    StorageBroken,
    TaskExists,
    TooManyQueues,
)
from jobpipe.core.lifecycle import Event, refusal
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.storage.base import (
    MAX_CLAIM_BYTES,
    CancelChanged,
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    Extended,
    Extension,
    LostClaim,
    QueueCounts,
    SettleAnswer,
    Settled,
    Settlement,
)
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.counts import Counts
from jobpipe.storage.sqlite.due import Due, Row
from jobpipe.storage.sqlite.leases import Lease, Leases
from jobpipe.storage.sqlite.rows import NUMBER, STATUSES, Stored, decode_json, inserted, settled, stored, text
from jobpipe.storage.sqlite.writer import Call

Calls = Sequence[Call[Any]]


class Limits(Struct, frozen=True):
    """Queued tasks a queue, and queue names that hold tasks, at most."""

    capacity: int
    max_queues: int


class Store:
    """The database behind one connection, and what memory keeps of it."""

    def __init__(self, connection: apsw.Connection, limits: Limits, clock: Clock) -> None:
        self._db = connection
        self._limits = limits
        self._clock = clock
        self._boot = secrets.token_hex(6)
        self._claims = 0
        self._counts = Counts()
        self._due = Due()
        self._leases = Leases()
        self._next_seq = self._one(sql.LAST_SEQ) + 1
        self._load_counts()
        self._leases.load(decode_json(self._one(sql.RUNNING)), clock.monotonic())
        self._writing: dict[str, Callable[[Calls], None]] = {
            "insert": self._insert,
            "settle": self._settle,
            "cancel": self._each(self._cancel),
            "retry": self._each(self._retry),
            "delete": self._each(self._delete),
            "prune": self._each(self._prune),
            "probe": self._each(self._probe),
            "claim": self._each(self._claim),
        }
        self._reading: dict[str, Callable[[Calls], None]] = {
            "extend": self._each(self._extend),
            "lost": self._each(self._lost),
            "next_expiry": self._each(self._next_expiry),
            "get": self._each(self._get),
            "counts": self._each(self._count),
            "queues": self._each(self._queues),
            "next_prunable": self._each(self._next_prunable),
            "listing": self._each(self._listing),
        }

    def commit(self, calls: Calls) -> None:
        """Serve gathered writing calls in one transaction and set their answers.

        Raises apsw.Error or StorageBroken; then nothing of them happened.
        """
        groups = _grouped(calls)
        self._db.execute(sql.BEGIN)
        try:
            for name, write in self._writing.items():
                if name in groups:
                    write(groups[name])
            changes = self._counts.changes()
            if changes is not None:
                self._db.execute(sql.KEEP_COUNTS, (changes,))
            self._db.execute(sql.COMMIT)
        except BaseException:
            self._roll_back()
            raise
        self._leases.commit()

    def read(self, calls: Calls) -> None:
        """Serve calls that write nothing."""
        for name, group in _grouped(calls).items():
            self._reading[name](group)

    def close(self) -> None:
        """Close the connection; the write-ahead log is folded into the file."""
        self._db.close()

    def _roll_back(self) -> None:
        # A failed commit may have rolled back by itself (disk full, I/O error): ask the connection, do not assume.
        if self._db.in_transaction:
            self._db.execute(sql.ROLLBACK)
        self._leases.rollback()
        self._load_counts()

    def _load_counts(self) -> None:
        self._counts.load(decode_json(self._one(sql.LEVELS)))
        self._due.load(self._counts.levels())

    # --- entering -----------------------------------------------------------------------------------------------

    def _insert(self, calls: Calls) -> None:
        """All tasks of all calls in one statement; each call gets its own slice of the answers."""
        tasks = [new for call in calls for new in call.argument[0]]
        answers = self._inserted(tasks, max(call.argument[1] for call in calls))
        at = 0
        for call in calls:
            end = at + len(call.argument[0])
            call.answer = answers[at:end]
            at = end

    def _inserted(self, tasks: Sequence[NewTask], now: int) -> list[Task | JobpipeError]:
        if not self._fits_surely(tasks):
            return self._admitted(tasks, now)
        first = self._next_seq
        accepted = self._write_new(tasks, now)
        if self._db.changes() == len(accepted):
            self._count_new(accepted)
            return list(accepted)
        return self._without_taken(accepted, first)

    def _fits_surely(self, tasks: Sequence[NewTask]) -> bool:
        """Whether all would be accepted if no id were taken: no bound is reached, and no id comes twice."""
        wanted: dict[str, int] = {}
        for new in tasks:
            wanted[new.queue] = wanted.get(new.queue, 0) + 1
        names = sum(queue not in self._counts.queues for queue in wanted)
        return (
            all(self._counts.queued(queue) + n <= self._limits.capacity for queue, n in wanted.items())
            and len(self._counts.queues) + names <= self._limits.max_queues
            and len({new.id for new in tasks}) == len(tasks)
        )

    def _write_new(self, tasks: Sequence[NewTask], now: int) -> list[Task]:
        rows, payloads, accepted = inserted(tasks, self._next_seq, now)
        self._next_seq += len(accepted)
        self._db.execute(sql.INSERT, (rows, payloads))
        return accepted

    def _count_new(self, accepted: Iterable[Task]) -> None:
        levels: dict[tuple[str, int], int] = {}
        for task in accepted:
            level = (task.queue, task.priority)
            levels[level] = levels.get(level, 0) + 1
            self._due.add(task.queue, task.priority, task.run_at, task.seq)
        for (queue, priority), n in levels.items():
            self._counts.add(queue, Status.QUEUED, priority, n)

    def _without_taken(self, accepted: list[Task], first_seq: int) -> list[Task | JobpipeError]:
        """The statement skipped some: those whose ids older tasks have."""
        taken = self._taken([task.id for task in accepted], first_seq)
        self._count_new(task for task in accepted if task.id not in taken)
        return [_exists(task.id, taken[task.id]) if task.id in taken else task for task in accepted]

    def _admitted(self, tasks: Sequence[NewTask], now: int) -> list[Task | JobpipeError]:
        """The careful way, near a bound: decide item by item, in order, then write those accepted."""
        taken = self._taken([new.id for new in tasks], self._next_seq)
        room: dict[str, int] = {}
        refused: dict[int, JobpipeError] = {}
        for i, new in enumerate(tasks):
            if new.id in taken:
                refused[i] = _exists(new.id, taken[new.id])
            elif (no := self._no_room(new.queue, room)) is not None:
                refused[i] = no
            else:
                room[new.queue] -= 1
                taken[new.id] = Status.QUEUED
        accepted = self._write_new([new for i, new in enumerate(tasks) if i not in refused], now)
        self._count_new(accepted)
        left = iter(accepted)
        return [refused[i] if i in refused else next(left) for i in range(len(tasks))]

    def _no_room(self, queue: str, room: dict[str, int]) -> JobpipeError | None:
        if queue not in room:
            new_names = sum(name not in self._counts.queues for name in room)
            if (
                queue not in self._counts.queues
                and len(self._counts.queues) + new_names >= self._limits.max_queues
            ):
                return TooManyQueues(f"{self._limits.max_queues} queues hold tasks already")
            room[queue] = self._limits.capacity - self._counts.queued(queue)
        if room[queue] <= 0:
            return QueueFull(f"queue '{queue}' holds {self._limits.capacity} waiting tasks")
        return None

    def _taken(self, ids: Sequence[str], before_seq: int) -> dict[str, Status]:
        rows = decode_json(self._one(sql.TAKEN, (text(ids), before_seq)))
        return {id_: STATUSES[status] for id_, status in rows}

    # --- working ------------------------------------------------------------------------------------------------

    def _claim(self, request: ClaimRequest, now: int) -> ClaimAnswer:
        picked = self._due.pick(request.queues, request.limit, now, MAX_CLAIM_BYTES, self._peek)
        if not picked.seqs:
            return ClaimAnswer([], picked.next_due)
        self._claims += 1
        prefix = f"{self._boot}.{self._claims}."
        lease_ms = None if request.lease_s is None else round(request.lease_s * 1000)
        seqs = text(picked.seqs)
        self._db.execute(sql.CLAIM, (seqs, now, request.worker, prefix, lease_ms, self._boot))
        tasks = {row.task.seq: row.task for row in self._rows(sql.BY_SEQ, seqs)}
        ends = None if request.lease_s is None else self._clock.monotonic() + request.lease_s
        until = None if lease_ms is None else now + lease_ms
        claims = []
        for seq in picked.seqs:
            task, lease_id = tasks[seq], f"{prefix}{seq}"
            self._counts.move(task.queue, task.priority, Status.QUEUED, Status.RUNNING)
            self._leases.put(seq, Lease(task.id, task.queue, task.priority, lease_id, request.lease_s, ends))
            claims.append(Claim(task, lease_id, until))
        return ClaimAnswer(claims, picked.next_due)

    def _settle(self, calls: Calls) -> None:
        """All settlements of all calls in one statement, those whose claim does not hold answered beside it."""
        writes: list[tuple[int, Settlement]] = []
        for call in calls:
            call.answer = [self._judged(settlement, writes) for settlement in call.argument[0]]
        if not writes:
            return
        self._db.execute(sql.SETTLE, settled(writes))
        if self._db.changes() != len(writes):
            raise StorageBroken("the running claims in memory and in the file disagree")

    def _judged(self, settlement: Settlement, writes: list[tuple[int, Settlement]]) -> SettleAnswer:
        held = self._leases.held(settlement.id, settlement.lease_id)
        if held is None or settlement.transition is None:
            return self._earlier_answer(settlement)
        seq, lease = held
        if lease.cancel_requested != settlement.cancel_requested:
            return CancelChanged()
        self._leases.end(seq)
        writes.append((seq, settlement))
        to = settlement.transition
        queue, priority = lease.queue, lease.priority
        self._counts.move(queue, priority, Status.RUNNING, to.status)
        if to.status is Status.QUEUED:
            self._due.add(queue, priority, to.run_at, seq)
        return Settled(to.status)

    def _earlier_answer(self, settlement: Settlement) -> SettleAnswer:
        """What this lease's settle got before; lost when another claim, or the rescuer, came between."""
        rows = self._rows(sql.BY_ID, text([settlement.id]))
        if not rows:
            return NotFound(f"no task has the id '{settlement.id}'")
        (row,) = rows
        if row.settled is not None and row.lease_id == settlement.lease_id:
            return Settled(row.settled, repeated=True)
        return LeaseLost(f"task '{settlement.id}' is no longer claimed with this lease")

    def _extend(self, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        return [self._extended(extension) for extension in extensions]

    def _extended(self, extension: Extension) -> Extended | LeaseLost:
        held = self._leases.held(extension.id, extension.lease_id)
        if held is None:
            return LeaseLost(f"task '{extension.id}' is no longer claimed with this lease")
        seq, lease = held
        if lease.ends is None:
            return Extended(None, lease.cancel_requested)
        ends = self._clock.monotonic() + extension.lease_s
        self._leases.put(seq, replace(lease, ends=ends))
        self._leases.commit()
        return Extended(self._clock.now() + round(extension.lease_s * 1000), lease.cancel_requested)

    def _lost(self, limit: int) -> list[LostClaim]:
        lost = self._leases.lost(self._clock.monotonic(), limit)
        rows = self._rows(sql.BY_SEQ, text(list(lost))) if lost else []
        by_seq = {row.task.seq: row.task for row in rows}
        return [LostClaim(by_seq[seq], lease.lease_id, lease.orphaned) for seq, lease in lost.items()]

    def _next_expiry(self) -> float | None:
        return self._leases.next_expiry(self._clock.monotonic())

    # --- steering -----------------------------------------------------------------------------------------------

    def _cancel(self, ids: Sequence[str], now: int) -> list[Cancelled | JobpipeError]:
        found = self._found(ids)
        answers: list[Cancelled | JobpipeError] = []
        queued: list[int] = []
        running: list[int] = []
        for id_ in ids:
            task = found.get(id_)
            if isinstance(no := _refused(Event.CANCEL, id_, task), JobpipeError):
                answers.append(no)
            elif no.status is Status.QUEUED:
                queued.append(no.seq)
                self._counts.move(no.queue, no.priority, Status.QUEUED, Status.CANCELLED)
                found[id_] = replace(no, status=Status.CANCELLED, finished_at=now)
                answers.append(Cancelled(found[id_]))
            else:
                running.append(no.seq)
                answers.append(self._told(replace(no, cancel_requested=True)))
        self._write_seqs(sql.CANCEL_QUEUED, queued, now)
        self._write_seqs(sql.CANCEL_RUNNING, running)
        return answers

    def _told(self, task: Task) -> Cancelled:
        lease = self._leases.holder(task.seq)
        if lease is None:
            raise StorageBroken("the running claims in memory and in the file disagree")
        self._leases.put(task.seq, replace(lease, cancel_requested=True))
        return Cancelled(task, lease.lease_id)

    def _retry(self, ids: Sequence[str], now: int) -> list[Task | JobpipeError]:
        found = self._found(ids)
        answers: list[Task | JobpipeError] = []
        seqs: list[int] = []
        for id_ in ids:
            task = _refused(Event.RETRY, id_, found.get(id_))
            if isinstance(task, Task):
                seqs.append(task.seq)
                self._counts.move(task.queue, task.priority, task.status, Status.QUEUED)
                self._due.add(task.queue, task.priority, now, task.seq)
                task = found[id_] = _queued_again(task, now)
            answers.append(task)
        self._write_seqs(sql.RETRY, seqs, now)
        return answers

    def _delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        found = self._found(ids)
        answers: list[Task | JobpipeError] = []
        seqs: list[int] = []
        for id_ in ids:
            task = _refused(Event.DELETE, id_, found.pop(id_, None))
            if isinstance(task, Task):
                seqs.append(task.seq)
                self._counts.add(task.queue, task.status, task.priority, -1)
            answers.append(task)
        self._write_seqs(sql.DELETE, seqs)
        return answers

    def _prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        pruned: list[int] = []
        for status in (Status.DONE, Status.CANCELLED, Status.FAILED):
            before = failed_before if status is Status.FAILED else finished_before
            if before is None or len(pruned) >= limit:
                continue
            found = self._one(sql.PRUNABLE, (NUMBER[status], before, limit - len(pruned)))
            for seq, queue, _, priority in decode_json(found):
                pruned.append(seq)
                self._counts.add(queue, status, priority, -1)
        self._write_seqs(sql.DELETE, pruned)
        if pruned:
            self._db.execute(sql.FORGET_EMPTY_COUNTS)
        return len(pruned)

    def _probe(self) -> None:
        self._db.execute(sql.PROBE).fetchall()

    # --- reading ------------------------------------------------------------------------------------------------

    def _get(self, ids: Sequence[str]) -> list[Task | None]:
        found = self._found(ids)
        return [found.get(id_) for id_ in ids]

    def _count(self) -> dict[Status, int]:
        return self._counts.by_status()

    def _queues(self, now: int) -> list[QueueCounts]:
        oldest = self._due.oldest(now, self._peek)
        return [
            QueueCounts(queue, counts, oldest.get(queue)) for queue, counts in self._counts.by_queue().items()
        ]

    def _next_prunable(self) -> tuple[int | None, int | None]:
        done, failed, cancelled = (
            self._one(sql.OLDEST_FINISHED, (NUMBER[status],))
            for status in (Status.DONE, Status.FAILED, Status.CANCELLED)
        )
        return min((at for at in (done, cancelled) if at is not None), default=None), failed

    def _listing(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """A page of an in-memory database, which only this connection sees."""
        return function(self._db, *arguments)

    # --- the connection -----------------------------------------------------------------------------------------

    @staticmethod
    def _each(answer: Callable[..., Any]) -> Callable[[Calls], None]:
        """Serve the calls of a group one by one."""

        def serve(calls: Calls) -> None:
            for call in calls:
                call.answer = answer(*call.argument)

        return serve

    def _one(self, statement: str, arguments: tuple[Any, ...] = ()) -> Any:
        return self._db.execute(statement, arguments).get

    def _rows(self, statement: str, keys: str) -> list[Stored]:
        return stored(self._db, statement, keys)

    def _peek(self, queue: str, priority: int, n: int) -> list[Row]:
        rows = decode_json(self._one(sql.PEEK, (queue, priority, n)))
        return [tuple(row) for row in reversed(rows)]

    def _found(self, ids: Sequence[str]) -> dict[str, Task]:
        return {row.task.id: row.task for row in self._rows(sql.BY_ID, text(ids))}

    def _write_seqs(self, statement: str, seqs: list[int], *arguments: Any) -> None:
        if seqs:
            self._db.execute(statement, (text(seqs), *arguments))


def _grouped(calls: Calls) -> dict[str, list[Call[Any]]]:
    groups: dict[str, list[Call[Any]]] = {}
    for call in calls:
        groups.setdefault(call.group, []).append(call)
    return groups


def _exists(task_id: str, status: Status) -> TaskExists:
    return TaskExists(f"a task with id '{task_id}' exists ({status})", field="id")


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
