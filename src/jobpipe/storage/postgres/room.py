"""What there is already, as admission asks for it: the kept counts, and the queues that have rules."""

from __future__ import annotations

from collections.abc import Mapping

from jobpipe.storage.postgres.counts import Counts
from jobpipe.storage.postgres.rulebook import RuleBook


class Room:
    """See core.admission.Counted."""

    def __init__(self, counts: Counts, rulebook: RuleBook) -> None:
        self._counts = counts
        self._rulebook = rulebook

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` are queued, future ones included."""
        return self._counts.queued(queue)

    @property
    def queues(self) -> Mapping[str, int]:
        """All queue names that hold tasks, and those that have rules: each counts as one that holds tasks."""
        ruled = self._rulebook.queues
        return {**dict.fromkeys(ruled, 0), **self._counts.queues} if ruled else self._counts.queues
