"""What the parts of the store share: the connection, and what memory keeps of the database.

Counts and heads follow the file, and are read again after a rollback. Leases and unwritten claims know more than the
file does, and are undone step by step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import apsw

from jobpipe.core.errors import StorageBroken
from jobpipe.core.rules import MAX_KEYS
from jobpipe.core.steering import rises
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Named, name_of
from jobpipe.runtime.clock import Clock
from jobpipe.storage.heads import Level
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.claimlog import ClaimLog, Note, unwritten_claims
from jobpipe.storage.sqlite.counts import Counts
from jobpipe.storage.sqlite.due import Due
from jobpipe.storage.sqlite.flow import Flow
from jobpipe.storage.sqlite.leases import Leases
from jobpipe.storage.sqlite.line import Row
from jobpipe.storage.sqlite.rows import Stored, claims_written, decode_json, stored, text
from jobpipe.storage.sqlite.unique import UniqueKeys
from jobpipe.storage.sqlite.unwritten import KEEP_S, Handing, Unwritten

EMPTY_COUNTS = 10_000
"""So many may gather before they are deleted."""


class State:
    """The database behind one connection, its mirror in memory, and the log of what is not written yet."""

    def __init__(self, db: apsw.Connection, clock: Clock, log: ClaimLog, max_queues: int) -> None:
        self.db = db
        self.clock = clock
        self.counts = Counts()
        self.max_queues = max_queues
        self.due = Due(self.peek, clock.now)
        self.leases = Leases()
        self.unwritten = Unwritten()
        self.flow = Flow(self)
        self.moved = 0
        """How many tasks this transaction accepts, hands out and settles."""
        self._empty = 0
        self.keys = UniqueKeys(db)
        self.log = log
        self._load_counts()
        self._recover(log.open())
        self.leases.load(decode_json(self.one(sql.RUNNING)), clock.monotonic())
        self.flow.load()

    def _recover(self, notes: Sequence[Note]) -> None:
        """Write the claims that a killed server had answered for and not written."""
        seqs = {seq for note in notes for seq in note.seqs}
        if seqs:
            rows = self.rows(sql.BY_SEQ, text(sorted(seqs)))
            waiting = {
                row.task.seq: (row.task, row.lease_id) for row in rows if row.task.status is Status.QUEUED
            }
            self.begin()
            for note, claim in unwritten_claims(notes, waiting):
                self.unwritten.add([claim], Handing(note.boot, note.lease_ms, 0.0))
            self.write_claims()
            self.commit()
        self.log.clear()

    def begin(self) -> None:
        """Begin a transaction."""
        self.moved = 0
        self.db.execute(sql.BEGIN)

    def commit(self) -> None:
        """Keep claims that are due for it and the changed counts in the same commit, and make all of it true.

        Raises apsw.Error.
        """
        self.write_claims(list(self.unwritten.older(self.clock.monotonic() - KEEP_S)))
        self.flow.flush()
        changes = self.counts.changes()
        if changes is not None:
            self.db.execute(sql.KEEP_COUNTS, changes[:1])
            self._forget_empty(changes[1])
        self.db.execute(sql.COMMIT)
        self.leases.commit()
        self.unwritten.commit()

    def roll_back(self) -> None:
        """Make nothing of the transaction true."""
        # A failed commit may have rolled back by itself (disk full, I/O error): ask the connection, do not assume.
        if self.db.in_transaction:
            self.db.execute(sql.ROLLBACK)
        self.leases.rollback()
        self.unwritten.rollback()
        self._load_counts()
        self.flow.load()

    def take_back(self) -> None:
        """Undo a claim that was made outside of a transaction, and forget what is known of the lines."""
        self.leases.rollback()
        self.unwritten.rollback()
        self.due.load(self.counts.levels())

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` are queued, future ones included."""
        return self.counts.queued(queue) - self.unwritten.of(queue)

    @property
    def queues(self) -> dict[str, int]:
        """All queue names that hold tasks, with the number of their tasks of any status; and those that have rules."""
        ruled = self.flow.queues
        return {**ruled, **self.counts.queues} if ruled else self.counts.queues

    @property
    def bounds_keys(self) -> bool:
        """Whether there is a queue whose rules tell keys apart."""
        return bool(self.due.ruled)

    def key_room(self, queue: str, key: str | None) -> int | None:
        """How many more keys may have waiting tasks in a queue; None where this one may in any case."""
        lanes = self.due.ruled.get(queue)
        if lanes is None or not self.flow.keyed(queue) or lanes.knows(key):
            return None
        return max(0, MAX_KEYS - lanes.waiting_keys)

    def one(self, statement: str, arguments: tuple[Any, ...] = ()) -> Any:
        """The value of a statement that hands out one."""
        return self.db.execute(statement, arguments).get

    def rows(self, statement: str, keys: str) -> list[Stored]:
        """Whole rows by a JSON array of their keys."""
        return stored(self.db, statement, keys)

    def found(self, ids: Sequence[str]) -> dict[str, Task]:
        """The tasks that have one of these ids."""
        return {row.task.id: row.task for row in self.rows(sql.BY_ID, text(ids))}

    def written(self, found: dict[str, Task]) -> dict[str, Task]:
        """These tasks by id as they are once their claims are in the file; to be called in a transaction."""
        late = [task.seq for task in found.values() if task.seq in self.unwritten]
        if not late:
            return found
        self.write_claims(late)
        return self.found(list(found))

    def having(self, tasks: Iterable[Task | NewTask], now: int) -> dict[Named, Task]:
        """The living tasks that have one of the unique keys of these; to be called in a transaction."""
        names = {name for task in tasks if (name := name_of(task)) is not None}
        found = self.keys.holders(names, now) if names else {}
        if late := [seq for seq in found.values() if seq in self.unwritten]:
            self.write_claims(late)  # which frees the keys that live until then
            found = self.keys.holders(names, now)
        rows = self.rows(sql.BY_SEQ, text(list(found.values()))) if found else []
        by_seq = {row.task.seq: row.task for row in rows}
        return {name: by_seq[seq] for name, seq in found.items()}

    def rewrite(self, old: Task, new: Task) -> None:
        """A queued task was changed."""
        self.db.execute(
            sql.REWRITE,
            (new.payload, new.priority, new.run_at, new.max_retries, new.timeout, new.expires_at, new.seq),
        )
        self.counts.add_all(rises([(old, new)]))
        self.due.forget(old)
        self.due.add(new.queue, new.priority, new.run_at, new.seq, new.key)

    def peek(self, levels: Sequence[Level], n: int) -> list[list[Row]]:
        """The first n rows of each of these levels that are not handed out, in the order of claims."""
        more = max(self.unwritten.at(*level) for level in levels)
        found = decode_json(self.one(sql.PEEK_EACH, (text(levels), n + more)))
        if more:
            found = [[row for row in rows if row[1] not in self.unwritten][:n] for rows in found]
        return [[(*row, None) for row in rows] for rows in found]

    def write_claims(self, seqs: Iterable[int] | None = None) -> None:
        """Write the claims of these tasks (None: all) that are not in the file yet."""
        handed = self.unwritten.take_all(list(self.unwritten) if seqs is None else seqs)
        if not handed:
            return
        self.db.execute(sql.CLAIM, (claims_written(handed),))
        if self.db.changes() != len(handed):
            raise StorageBroken("the claims in memory and in the file disagree")
        self.moved += len(handed)
        self.keys.claimed(claim.task for claim, _ in handed)
        moved = Counter([(claim.task.queue, claim.task.priority) for claim, _ in handed])
        for (queue, priority), n in moved.items():
            self.counts.add(queue, Status.QUEUED, priority, -n)
            self.counts.add(queue, Status.RUNNING, priority, n)

    def write_late(self) -> None:
        """Write all claims that are not in the file yet, in the transaction that is under way, if there is one."""
        if self.db.in_transaction:
            self.write_claims()

    def write_seqs(self, statement: str, seqs: list[int], *arguments: Any) -> None:
        """One statement for all these tasks; none for none."""
        if seqs:
            self.db.execute(statement, (text(seqs), *arguments))

    def write(self, statement: str, rows: Sequence[object]) -> None:
        """One statement for all these rows, as JSON; none for none."""
        if rows:
            self.db.execute(statement, (text(rows),))

    def _forget_empty(self, n: int) -> None:
        """Queue names come and go: delete their empty counts now and then, for it reads the whole small table."""
        self._empty += n
        if self._empty >= EMPTY_COUNTS:
            self._empty = 0
            self.db.execute(sql.FORGET_EMPTY_COUNTS)

    def _load_counts(self) -> None:
        self.counts.load(decode_json(self.one(sql.LEVELS)))
        self.due.load(self.counts.levels())
