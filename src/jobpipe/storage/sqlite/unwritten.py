"""Claims that were answered and are not in the file yet: a run that ends within a moment is written once, at its end.

Only claims of workers that die with this server are kept so, and for about KEEP_S. Whoever asks for such a task sees
it running, and then that is in the file. Were the server killed meanwhile, its next start would find them in the claim
log (claimlog.py); only after a power cut their tasks just wait. The writer thread alone touches this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from jobpipe.core.task import Claim, Task
from jobpipe.core.timing import DEFERRED_S

KEEP_S = DEFERRED_S


class Handing(Struct, frozen=True):
    """What all claims of one answer have in common; `since` is monotonic seconds, `line` as noted in the claim log."""

    boot: str | None
    lease_ms: int | None
    since: float
    line: bytes = b""


Handed = tuple[Claim, Handing]


class Unwritten:
    """The claims by their task's seq, oldest first. Changes can be undone until `commit`."""

    def __init__(self) -> None:
        self._by_seq: dict[int, Handed] = {}
        self._levels: dict[tuple[str, int], int] = {}
        self._undo: dict[int, Handed | None] = {}

    @property
    def some(self) -> bool:
        """Whether there are any, those included whose commit is under way. May be read from any thread."""
        return bool(self._by_seq or self._undo)

    def __len__(self) -> int:
        return len(self._by_seq)

    def __contains__(self, seq: int) -> bool:
        return seq in self._by_seq

    def task(self, task: Task) -> Task:
        """A task of the file as it is."""
        handed = self._by_seq.get(task.seq)
        return task if handed is None else handed[0].task

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_seq)

    def of(self, queue: str) -> int:
        """How many tasks of this queue the file still takes for queued."""
        return sum(n for (name, _), n in self._levels.items() if name == queue)

    def by_queue(self) -> Counter[str]:
        """How many tasks of each queue the file still takes for queued."""
        sums: Counter[str] = Counter()
        for (queue, _), n in self._levels.items():
            sums[queue] += n
        return sums

    def at(self, queue: str, priority: int) -> int:
        """How many tasks of this queue and priority the file still takes for queued."""
        return self._levels.get((queue, priority), 0)

    def add(self, claims: Sequence[Claim], handing: Handing) -> None:
        """Claims were made."""
        for claim in claims:
            seq = claim.task.seq
            self._undo.setdefault(seq, None)
            self._by_seq[seq] = (claim, handing)
        for level, n in Counter([(claim.task.queue, claim.task.priority) for claim in claims]).items():
            self._levels[level] = self._levels.get(level, 0) + n

    def take(self, seq: int) -> Claim | None:
        """The claim of this task, which is written now; None when it is in the file already."""
        handed = self._by_seq.get(seq)
        if handed is None:
            return None
        self._undo.setdefault(seq, handed)
        self._drop(seq, handed)
        return handed[0]

    def take_all(self, seqs: Iterable[int]) -> list[Handed]:
        """Those of these tasks that are not in the file, which are written now."""
        taken = [(seq, self._by_seq[seq]) for seq in seqs if seq in self._by_seq]
        for seq, handed in taken:
            self._undo.setdefault(seq, handed)
            self._drop(seq, handed)
        return [handed for _, handed in taken]

    def lines(self) -> list[bytes]:
        """The notes of these claims, each once."""
        return [handing.line for handing in {id(h): h for _, h in self._by_seq.values()}.values()]

    @property
    def oldest(self) -> float:
        """When the first of them was claimed (monotonic seconds); infinity when there is none."""
        for _, handing in self._by_seq.values():
            return handing.since
        return float("inf")

    def older(self, since: float) -> Iterator[int]:
        """The tasks that were claimed up to `since` (monotonic seconds)."""
        for seq, (_, handing) in self._by_seq.items():
            if handing.since > since:
                return
            yield seq

    def commit(self) -> None:
        """What was changed stands."""
        self._undo.clear()

    def rollback(self) -> None:
        """What was changed since the last commit did not happen."""
        for seq, handed in self._undo.items():
            if (now := self._by_seq.get(seq)) is not None:
                self._drop(seq, now)
            if handed is not None:
                self._by_seq[seq] = handed
                level = (handed[0].task.queue, handed[0].task.priority)
                self._levels[level] = self._levels.get(level, 0) + 1
        self._undo.clear()
        self._by_seq = dict(sorted(self._by_seq.items(), key=lambda item: item[1][1].since))

    def _drop(self, seq: int, handed: Handed) -> None:
        level = (handed[0].task.queue, handed[0].task.priority)
        del self._by_seq[seq]
        self._levels[level] -= 1
        if not self._levels[level]:
            del self._levels[level]
