"""The running claims, in memory: who holds which task, and until when on the monotonic clock.

Extending writes nothing, and a jump of the wall clock expires nothing. File and claim log hold enough (lease id, owner,
length) to build this table again at start: remote claims then get one full fresh lease, local ones of an earlier boot
are orphans at once. The writer thread alone touches it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

from msgspec import Struct


class Lease(Struct, frozen=True, gc=False):
    """One running claim. `ends` is monotonic seconds, None: without end. `orphaned`: local to an earlier boot."""

    id: str
    queue: str
    priority: int
    key: str | None
    lease_id: str
    lease_s: float | None
    ends: float | None
    cancel_requested: bool = False
    orphaned: bool = False


class Leases:
    """All running claims by their task's seq. Changes can be undone until `commit`."""

    def __init__(self) -> None:
        self._by_seq: dict[int, Lease] = {}
        self._undo: dict[int, Lease | None] = {}

    def load(
        self,
        rows: Iterable[tuple[int, str, str, int, str | None, str, int | None, str | None, int]],
        monotonic: float,
    ) -> None:
        """Build the table from the running rows (see RUNNING) found at start."""
        for seq, id_, queue, priority, key, lease_id, lease_ms, boot, cancel in rows:
            lease_s = None if lease_ms is None else lease_ms / 1000
            ends = None if lease_s is None else monotonic + lease_s
            orphaned = boot is not None or lease_s is None
            self._by_seq[seq] = Lease(
                id_, queue, priority, key, lease_id, lease_s, ends, bool(cancel), orphaned
            )

    def put(self, seq: int, lease: Lease) -> None:
        """A claim was made, or changed."""
        self._undo.setdefault(seq, self._by_seq.get(seq))
        self._by_seq[seq] = lease

    def end(self, seq: int) -> None:
        """A claim was settled."""
        self._undo.setdefault(seq, self._by_seq.pop(seq, None))

    def commit(self) -> None:
        """What was changed stands."""
        self._undo.clear()

    def rollback(self) -> None:
        """What was changed since the last commit did not happen."""
        for seq, lease in self._undo.items():
            if lease is None:
                self._by_seq.pop(seq, None)
            else:
                self._by_seq[seq] = lease
        self._undo.clear()

    def holder(self, seq: int) -> Lease | None:
        """The claim that runs this task now."""
        return self._by_seq.get(seq)

    def running_of(self, queue: str) -> Counter[str | None]:
        """How many tasks of a queue run, by key."""
        return Counter(lease.key for lease in self._by_seq.values() if lease.queue == queue)

    def held(self, id: str, lease_id: str) -> tuple[int, Lease] | None:
        """The claim with this id and lease id, if it still holds."""
        try:  # what only looks like a lease id of ours is not the one that is held
            seq = int(lease_id[lease_id.rfind(".") + 1 :])
        except ValueError:
            return None
        lease = self._by_seq.get(seq)
        return (seq, lease) if lease is not None and lease.lease_id == lease_id and lease.id == id else None

    def lost(self, monotonic: float, limit: int) -> dict[int, Lease]:
        """Up to `limit` claims whose holder is gone, the longest gone first."""
        gone = [
            (float("-inf") if lease.orphaned else lease.ends or 0.0, seq)
            for seq, lease in self._by_seq.items()
            if lease.orphaned or (lease.ends is not None and lease.ends <= monotonic)
        ]
        return {seq: self._by_seq[seq] for _, seq in islice(sorted(gone), limit)}

    def next_expiry(self, monotonic: float) -> float | None:
        """Seconds until the next claim is lost; None when none can be."""
        if any(lease.orphaned for lease in self._by_seq.values()):
            return 0.0
        ends = [lease.ends for lease in self._by_seq.values() if lease.ends is not None]
        return max(0.0, min(ends) - monotonic) if ends else None
