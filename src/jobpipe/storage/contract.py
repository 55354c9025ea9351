"""What a storage engine promises, in small protocols by who needs them, the same for every engine.

All methods take and give batches, because one commit serves all calls that wait. A conflict (an id that exists, a full
queue, a lost lease) is the answer to its own item, a value of the error tree; only a commit that failed raises, a
StorageError, and then nothing of the call was stored. Every call is atomic unless its sentence says otherwise. The
engine is asked from one event loop; it does not decide rules, it writes what `core` decided. The values are in base.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from jobpipe.core.errors import JobpipeError, LeaseLost, StorageBroken
from jobpipe.core.revision import Revision
from jobpipe.core.task import Attempt, NewTask, Status, Task
from jobpipe.core.unique import Answer
from jobpipe.storage.base import (
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    CommitStats,
    Extended,
    Extension,
    LostClaim,
    Matches,
    Miscount,
    Page,
    QueueCounts,
    Record,
    SettleAnswer,
    Settlement,
    Summary,
    TaskFilter,
    Waiting,
)
from jobpipe.storage.flow import FlowRules
from jobpipe.storage.schedules import Schedules


class Lookup(Protocol):
    """Tasks by their ids."""

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Each task as it is now."""
        ...


class TaskLife(Lookup, Protocol):
    """The life of tasks: accepted, handed out, settled, steered."""

    @property
    def writes_local_claims_late(self) -> bool:
        """Whether local claims are answered before they are stored; released before that, they were never made."""
        ...

    def insert(self, tasks: Sequence[NewTask], now: int) -> Awaitable[list[Answer]]:
        """Accept each task in order; or answer the one that stands for it, TaskExists, IdempotencyMismatch, NotUnique,
        QueueFull or TooManyQueues.
        """
        ...

    def claim(self, request: ClaimRequest, now: int) -> Awaitable[ClaimAnswer]:
        """Claim due tasks: higher priority first, then earlier `run_at`, then order of acceptance, over all queues.

        Stored when it is answered; a local claim may be a moment later, but before anybody sees its task.
        """
        ...

    def settle(self, settlements: Sequence[Settlement], now: int) -> Awaitable[list[SettleAnswer]]:
        """Write each transition whose claim still holds; else answer the earlier Settled, LeaseLost or NotFound.

        Each unsuccessful end leaves an Attempt in the same commit; it lives as long as its task, over a retry too.
        """
        ...

    async def extend(self, extensions: Sequence[Extension]) -> list[Extended | LeaseLost]:
        """Prolong each lease that still holds."""
        ...

    def cancel(self, ids: Sequence[str], now: int) -> Awaitable[list[Cancelled | JobpipeError]]:
        """Cancel each queued task, mark each running one; else answer AlreadyFinished or NotFound."""
        ...

    def retry(self, ids: Sequence[str], now: int) -> Awaitable[list[Task | JobpipeError]]:
        """Queue each failed or cancelled task again, accounting cleared; else answer NotRetryable or NotFound."""
        ...

    def revise(self, id: str, revision: Revision, now: int) -> Awaitable[Task | JobpipeError]:
        """Change a queued task; else answer NotWaiting, AlreadyFinished, NotFound, or Invalid for what cannot be."""
        ...

    def expire(self, now: int, limit: int) -> Awaitable[list[Task]]:
        """End up to `limit` waiting tasks whose time to be claimed is over; answer what became of them."""
        ...

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Forget each finished task, answering what it was; else answer NotFinished or NotFound."""
        ...


class Reading(Lookup, Protocol):
    """What people look at."""

    async def attempts(self, id: str) -> list[Attempt] | None:
        """The unsuccessful attempts of a task, oldest first, at most the newest MAX_ATTEMPTS; None: unknown task."""
        ...

    async def page(
        self, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int | None
    ) -> Page:
        """The newest matching tasks before `before_seq`, at most `max_bytes` of payload and result, at least one.

        None: neither payload nor result is read, and both are empty.
        """
        ...

    async def match(self, where: TaskFilter, limit: int, before_seq: int | None) -> Matches:
        """The ids of the newest matching tasks before `before_seq`."""
        ...

    async def counts(self) -> dict[Status, int]:
        """The kept counts over all queues."""
        ...

    async def queues(self, now: int) -> Sequence[QueueCounts]:
        """The kept counts of each queue that holds tasks, by name."""
        ...

    async def waiting(self, now: int, most: int) -> Waiting:
        """How many queued tasks wait for their time; of more than `most` the rest is not looked at."""
        ...


class Shared(Protocol):
    """How many may have it."""

    @property
    def shared(self) -> bool:
        """Whether several servers may have this store at a time."""
        ...


class Upkeep(Shared, Protocol):
    """What is rescued, forgotten and looked over now and then."""

    async def lost(self, limit: int) -> list[LostClaim]:
        """Running tasks whose claim's holder is gone, the longest gone first; they stay claimed until settled."""
        ...

    async def next_expiry(self) -> float | None:
        """Seconds until the next lease ends (0 when one has), None when no lease can."""
        ...

    async def prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        """Delete up to `limit` tasks: done and cancelled ones finished before the one, failed before the other time.

        None keeps all of that kind. Answers how many were deleted.
        """
        ...

    async def next_expiring(self) -> int | None:
        """When the next waiting task expires (ms), None when none does."""
        ...

    async def next_prunable(self) -> tuple[int | None, int | None]:
        """When the oldest done or cancelled task finished, and when the oldest failed one did."""
        ...

    async def audit(self) -> list[Miscount]:
        """Compare some of the kept counts with the rows, and make those true that cannot be; what they were.

        A bounded look, at others each time: it never counts a whole store.
        """
        ...

    def clock_step(self) -> float:
        """By how many seconds the clock that the store judges by has stepped last; 0 for none, or none of its own."""
        ...


class Past(Protocol):
    """The minutes of the charts."""

    async def keep_summary(self, summary: Summary, forget_before: int) -> None:
        """Keep it in place of an earlier one of the same minute and server; forget those of older minutes."""
        ...

    async def summaries(self, since: int, until: int) -> list[Summary]:
        """All servers' summaries of the minutes from `since` to before `until`, by minute."""
        ...

    async def counts(self) -> dict[Status, int]:
        """The kept counts over all queues."""
        ...


class Peers(Shared, Protocol):
    """The other servers of a store."""

    async def announce(self, server: str, data: bytes) -> None:
        """Say that `server` is here, with its workers as JSON; takes the place of what it said before."""
        ...

    async def announced(self) -> list[bytes]:
        """What each server that shares the store announced last, if that was within ANNOUNCED_S; own ones too."""
        ...

    def publish(self, data: bytes) -> None:
        """Tell the other servers' listeners: best effort, at most a few a second; to nobody when there is none.

        Raises nothing, whatever state the store is in.
        """
        ...

    def listen(self, tell: Callable[[bytes | None], None]) -> None:
        """Have `tell` called, on the loop that opened the store, when another server did something.

        With None: tasks may have become claimable, finished, or been asked to cancel: look again. With data: another
        server published it. A store that only one server can have never calls.
        """
        ...

    async def cancelling(self) -> list[Cancelled]:
        """Running tasks, claimed through this server, that another one was asked to cancel; those asked here too.

        A store that only one server can have has none to tell.
        """
        ...


class Moving(Protocol):
    """Tasks on their way from one store to another, whole."""

    async def export(self, after_seq: int, limit: int, max_bytes: int) -> list[Record]:
        """The tasks accepted next after `after_seq`, in order: at most `max_bytes` of payload and result, but one task.

        For a store that nobody else uses meanwhile.
        """
        ...

    async def import_(self, records: Sequence[Record]) -> list[str]:
        """Take tasks over as they are, in order, whatever the bounds; those whose id is taken are left out.

        None runs: whoever ran it holds no claim here. Answers the ids that were left out.
        """
        ...


class Health(Protocol):
    """Opening and closing, and how the store is."""

    async def open(self) -> None:
        """Open or create the store, migrate an older schema, and load what is kept in memory.

        Raises StorageRefused with one line for people, and touches nothing, when the store cannot be served.
        """
        ...

    async def close(self) -> None:
        """Finish what was called, then close; safe when called twice or never opened."""
        ...

    def commits(self) -> CommitStats:
        """The commits of this server, counted since its start; to be read, from any thread."""
        ...

    async def wait_broken(self) -> StorageBroken:
        """Sleep until the store must not be trusted any more, and say why; for ever while all is well."""
        ...

    async def check(self) -> None:
        """Raise StorageError when the store cannot take a write now."""
        ...


class Storage(TaskLife, Reading, Upkeep, Past, Peers, Moving, FlowRules, Schedules, Health, Protocol):
    """All of it: what an engine has."""
