"""What there is already, as admission asks for it: the kept counts, and the queues that have rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jobpipe.core.rules import MAX_KEYS
from jobpipe.core.task import NewTask
from jobpipe.storage.postgres import statements_flow as sql
from jobpipe.storage.postgres.counts import Counts
from jobpipe.storage.postgres.link import Link, arrays
from jobpipe.storage.postgres.rulebook import RuleBook


class Room:
    """See core.admission.Counted."""

    def __init__(self, counts: Counts, rulebook: RuleBook) -> None:
        self._counts = counts
        self._rulebook = rulebook
        self._keys: dict[str, int] = {}
        self._known: set[tuple[str, str]] = set()

    async def look(self, link: Link, wanted: Iterable[NewTask]) -> None:
        """See how many keys wait in the queues of these tasks whose rules tell keys apart, and which of theirs do."""
        if not self._rulebook.by_key:
            self._keys.clear()
            return
        pairs = {(new.queue, new.key or "") for new in wanted if self._rulebook.of(new.queue).keyed}
        queues = sorted({queue for queue, _ in pairs})
        counted = await link.rows(sql.WAITING_KEYS, queues, MAX_KEYS) if queues else []
        self._keys = {row["queue"]: row["n"] for row in counted}
        rows = await link.rows(sql.KNOWN_KEYS, *arrays(sorted(pairs), 2)) if pairs else []
        self._known = {(row["queue"], row["key"]) for row in rows}

    @property
    def bounds_keys(self) -> bool:
        """Whether there is a queue whose rules tell keys apart."""
        return bool(self._keys)

    def key_room(self, queue: str, key: str | None) -> int | None:
        """How many more keys may have waiting tasks in a queue; None where this one may in any case."""
        if queue not in self._keys or (queue, key or "") in self._known:
            return None
        return max(0, MAX_KEYS - self._keys[queue])

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` are queued, future ones included."""
        return self._counts.queued(queue)

    @property
    def queues(self) -> Mapping[str, int]:
        """All queue names that hold tasks, and those that have rules: each counts as one that holds tasks."""
        ruled = self._rulebook.queues
        return {**dict.fromkeys(ruled, 0), **self._counts.queues} if ruled else self._counts.queues
