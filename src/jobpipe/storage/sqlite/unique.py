"""The unique keys that are taken: who has one, and what frees it. All within the transaction that is under way.

A key that lives by its task's status is deleted with that; one that lives for some seconds is passed over once they are
gone, and deleted with its task or by who takes it next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import apsw

from jobpipe.core.task import Task
from jobpipe.core.unique import Named, claim_frees, lives, unique_of
from jobpipe.storage.sqlite import statements as sql
from jobpipe.storage.sqlite.rows import decode_json, text


class UniqueKeys:
    """The table of keys."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db
        self.some = bool(db.execute(sql.ANY_KEY).get)
        """Whether a key was ever taken: most stores have none, and pay nothing."""

    def holders(self, names: Iterable[Named], now: int) -> dict[Named, int]:
        """Which of these are taken, and the seqs of their tasks."""
        found = decode_json(self._db.execute(sql.LIVING_KEYS, (text(list(names)), now)).get)
        return {(handler, key): seq for handler, key, seq in found}

    def keep(self, tasks: Iterable[Task]) -> None:
        """These tasks take their keys."""
        kept = [
            (task.handler, unique.key, task.seq, unique.lives_until(task.created_at))
            for task in tasks
            if (unique := unique_of(task)) is not None
        ]
        if kept:
            self.some = True
            self._db.execute(sql.KEEP_KEYS, (text(kept),))

    def claimed(self, tasks: Iterable[Task]) -> None:
        """The claims of these tasks are written."""
        if freed := [task.seq for task in tasks if task.uniqueness and claim_frees(task)]:
            self._delete(sql.FREE_KEYS, freed)

    def ended(self, seqs: Sequence[int]) -> None:
        """These tasks came to their ends."""
        if seqs and self.some:
            self._delete(sql.FREE_KEYS, seqs)

    def forgotten(self, seqs: Sequence[int]) -> None:
        """These tasks are deleted."""
        if seqs and self.some:
            self._delete(sql.FORGET_KEYS, seqs)

    def taken_over(self, tasks: Iterable[Task], now: int) -> None:
        """Tasks of another store bring what lives of their keys."""
        self.keep(task for task in tasks if lives(task, now))

    def _delete(self, statement: str, seqs: Sequence[int]) -> None:
        self._db.execute(statement, (text(seqs),))
