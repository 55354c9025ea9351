"""Accepting tasks: in as few statements as can be when all surely fit, item by item near a bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jobpipe.core.admission import Limits, fit_surely, judge
from jobpipe.core.once import Once, Taken
from jobpipe.core.task import NewTask, Status, Task, plain
from jobpipe.core.unique import Answer
from jobpipe.storage.base import Record
from jobpipe.storage.calls import Call, hand_slices
from jobpipe.storage.sqlite import moving
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import (
    STATUSES,
    Shape,
    by_shape,
    decode_json,
    inserted,
    inserted_alike,
    numbered,
    text,
)
from jobpipe.storage.sqlite.state import State

ALIKE = 200
"""So many tasks of a shape on average make a statement for each shape worth it: between two of them the thread gives up
the interpreter's lock, and may wait half a millisecond for it beside a busy event loop."""

Inserting = Call[tuple[Sequence[NewTask], int], list[Answer]]
"""Tasks to be accepted, and the time."""
Shapes = Mapping[Shape, Sequence[Task]]


class Intake:
    """The door of the store. `first_seq` is where the order of acceptance goes on."""

    def __init__(self, state: State, limits: Limits) -> None:
        self._s = state
        self._limits = limits
        self._next_seq = state.one(sql.LAST_SEQ) + 1

    def insert(self, calls: Sequence[Inserting]) -> None:
        """Accept all tasks of all calls together; each call gets its own slice of the answers."""
        tasks = [new for call in calls for new in call.argument[0]]
        answers = self.accept(tasks, max(call.argument[1] for call in calls))
        hand_slices(calls, [len(call.argument[0]) for call in calls], answers)

    def accept(self, tasks: Sequence[NewTask], now: int) -> list[Answer]:
        """Accept tasks, in order."""
        self._s.moved += len(tasks)
        return self._inserted(tasks, now) if tasks else []

    def statuses(self, ids: Sequence[str]) -> dict[str, Status]:
        """Where the tasks with these ids stand, as far as there are any."""
        return {id_: taken.status for id_, taken in self._taken(ids, self._next_seq).items()} if ids else {}

    def import_(self, records: Sequence[Record]) -> list[str]:
        """Take over tasks of another store."""
        left_out = moving.import_(self._s, records)
        self._next_seq = self._s.one(sql.LAST_SEQ) + 1
        return left_out

    def _inserted(self, tasks: Sequence[NewTask], now: int) -> list[Answer]:
        first = self._next_seq
        if not fit_surely(tasks, self._limits, self._s):
            return self._admitted(tasks, now)
        is_plain = plain(tasks)
        accepted = numbered(tasks, first, now)
        shapes = by_shape(accepted, is_plain)
        written = self._write(accepted, shapes, is_plain)
        if written == len(accepted):
            self._count_new(shapes)
            return list(accepted)
        return self._without_taken(tasks, accepted, self._once(tasks, now, first))

    def _write(self, tasks: Sequence[Task], shapes: Shapes, is_plain: bool) -> int:
        """Insert the tasks; how many of them had an id that was free."""
        self._next_seq += len(tasks)
        if len(shapes) > 1 and len(shapes) * ALIKE > len(tasks):
            return self._execute(sql.INSERT_PLAIN if is_plain else sql.INSERT, inserted(tasks, is_plain))
        statement = sql.INSERT_ALIKE if is_plain else sql.INSERT_ALIKE_DIGESTS
        return sum(
            self._execute(statement, inserted_alike(alike, shape, digests=not is_plain))
            for shape, alike in shapes.items()
        )

    def _execute(self, statement: str, arguments: tuple[Any, ...]) -> int:
        self._s.db.execute(statement, arguments)
        return self._s.db.changes()

    def _count_new(self, shapes: Shapes) -> None:
        for alike in shapes.values():
            first = alike[0]
            self._s.due.accept(first.queue, first.priority, first.run_at, alike)
            self._s.counts.add(first.queue, Status.QUEUED, first.priority, len(alike))

    def _without_taken(self, tasks: Sequence[NewTask], accepted: list[Task], once: Once) -> list[Answer]:
        """Some were skipped: those whose ids older tasks have."""
        answers: list[Answer] = [once.answer(new) or task for new, task in zip(tasks, accepted, strict=True)]
        for task in answers:
            if isinstance(task, Task):
                self._s.due.add(task.queue, task.priority, task.run_at, task.seq, task.key)
                self._s.counts.add(task.queue, Status.QUEUED, task.priority, 1)
        return answers

    def _admitted(self, tasks: Sequence[NewTask], now: int) -> list[Answer]:
        """The careful way, near a bound or where a task may stand for another: decide item by item, then write."""
        once = self._once(tasks, now, self._next_seq)

        def accept(new: NewTask) -> Task:
            return numbered([new], self._next_seq + len(once.accepted), now)[0]

        answers = judge(tasks, once, self._limits, self._s, accept)
        for old, new in once.replaced.values():
            self._s.rewrite(old, new)
        accepted = list(once.accepted.values())
        shapes = by_shape(accepted, False)
        self._write(accepted, shapes, False)
        self._count_new(shapes)
        self._s.keys.keep(accepted)
        return answers

    def _once(self, tasks: Sequence[NewTask], now: int, before_seq: int) -> Once:
        """What these meet that was accepted before `before_seq`."""
        taken = self._taken([new.id for new in tasks], before_seq)
        again = [
            new.id for new in tasks if new.digest and new.id in taken and taken[new.id].digest == new.digest
        ]
        replayed = self._s.written(self._s.found(again)) if again else {}
        return Once(taken, self._s.having(tasks, now), replayed, now)

    def _taken(self, ids: Sequence[str], before_seq: int) -> dict[str, Taken]:
        rows = decode_json(self._s.one(sql.TAKEN, (text(ids), before_seq)))
        return {id_: Taken(STATUSES[status], digest) for id_, status, digest in rows}
