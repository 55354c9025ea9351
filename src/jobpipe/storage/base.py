"""What a storage engine promises to the queue: one sentence per method, the same for every engine.

All methods take and give batches, because one commit serves all calls that wait. A conflict (an id that exists, a full
queue, a lost lease) is the answer to its own item, a value of the error tree; only a commit that failed raises, a
StorageError, and then nothing of the call was stored. Every call is atomic unless its sentence says otherwise. The
engine is asked from one event loop; it does not decide rules, it writes what `core.lifecycle` decided.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from jobpipe.core.errors import JobpipeError, LeaseLost, StorageBroken
from jobpipe.core.histogram import Histogram
from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Attempt, Claim, NewTask, Status, Task

MAX_CLAIM_BYTES = 8 * 1024 * 1024
"""A claim hands out at most this many bytes of payload, but at least one task."""
MAX_ATTEMPTS = 1000
"""So many unsuccessful attempts of a task are kept, the newest: one released for ever must not fill the disk."""
ANNOUNCED_S = 30.0
"""A server that announced nothing for so long is gone."""


class ClaimRequest(Struct, frozen=True):
    """A worker's wish: up to `limit` due tasks of `queues` (None for all).

    `lease_s` None makes a claim that does not expire while this process lives. `local` marks claims of workers that die
    with this process: after a restart their tasks are lost at once, those of others get one full fresh lease.
    """

    limit: int
    worker: str
    queues: frozenset[str] | None = None
    lease_s: float | None = None
    local: bool = True


class ClaimAnswer(Struct, frozen=True):
    """What was claimed; and, when that is less than the limit, when the next task is due (None: none waits)."""

    claims: list[Claim]
    next_due: int | None


class Settlement(Struct, frozen=True, gc=False):
    """A transition to write if the claim still holds and its cancel flag is still the one decided with.

    `transition` None only asks for the answer that this lease's settle got before. `rescue` marks a settle that does
    not come from the claim's holder, who must later learn that its lease is lost.
    """

    id: str
    lease_id: str
    transition: Transition | None
    cancel_requested: bool = False
    rescue: bool = False


class Settled(Struct, frozen=True, gc=False):
    """The settle was written, now or when it was sent before (`repeated`); the status that it led to."""

    status: Status
    repeated: bool = False


class CancelChanged(Struct, frozen=True):
    """Nothing was written: the stored cancel flag differs from the one decided with. Decide again."""


SettleAnswer = Settled | CancelChanged | JobpipeError


class Extension(Struct, frozen=True, gc=False):
    """A lease to prolong to `lease_s` seconds from now."""

    id: str
    lease_id: str
    lease_s: float


class Extended(Struct, frozen=True, gc=False):
    """The lease holds until `lease_until` (milliseconds since the epoch, None for a local claim)."""

    lease_until: int | None
    cancel_requested: bool


class Cancelled(Struct, frozen=True):
    """What a cancel did: the task as it is now, and, when it runs, the lease whose holder must be told."""

    task: Task
    lease_id: str | None = None


class LostClaim(Struct, frozen=True):
    """A claim whose holder is gone: its lease ran out, or it was local to a process that lives no more (`orphaned`).

    `ran_s` is how long its run has lasted by the store's own clock, None where the store has none: then only the server
    that handed it out can tell.
    """

    task: Task
    lease_id: str
    orphaned: bool
    ran_s: float | None = None


class TaskFilter(Struct, frozen=True):
    """Which tasks: all conditions that are set must hold. Times are milliseconds; after and before are exclusive."""

    status: Status | None = None
    queue: str | None = None
    handler: str | None = None
    error_type: str | None = None
    id_prefix: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    error_group: str | None = None
    ids: tuple[str, ...] | None = None
    key: str | None = None


class Page(Struct, frozen=True):
    """Tasks, newest first; `next_seq` is where the next page begins (tasks with a smaller `seq`), None at the end."""

    tasks: list[Task]
    next_seq: int | None


class Matches(Struct, frozen=True):
    """Ids that match a filter, newest first; `next_seq` as in Page."""

    ids: list[str]
    next_seq: int | None


class QueueCounts(Struct, frozen=True):
    """The kept counts of one queue, and the `run_at` of its task that has been due longest (None: none is due)."""

    queue: str
    by_status: dict[Status, int]
    oldest_ready: int | None


AUDITED_LEVELS = 500
AUDITED_ROWS = 1000
"""An audit looks at so many queues and priorities at a time, and at so many waiting tasks of each."""


class Miscount(Struct, frozen=True):
    """A kept count that is not what the rows say: `counted` tasks, where `there` are."""

    queue: str
    status: Status
    priority: int
    counted: int
    there: int

    def __str__(self) -> str:
        where = f"queue '{self.queue}', priority {self.priority}"
        return f"{where}: {self.counted} {self.status} are counted, and {self.there} are there"


class Record(Struct, frozen=True):
    """All that a store keeps of a task and another one takes over: with its unsuccessful attempts, oldest first."""

    task: Task
    error_group: str | None = None
    attempts: tuple[Attempt, ...] = ()


class Summary(Struct, frozen=True):
    """What one server did in one minute (minutes since the epoch); `data` is JSON that only the engine reads."""

    minute: int
    server: str
    data: bytes


COMMIT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMIT_TASKS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0)


class CommitStats:
    """The commits since the start that accepted, handed out or settled tasks: the seconds that each took, and how many
    tasks it held. Counted by the one thread that commits; the numbers only rise.
    """

    def __init__(self) -> None:
        self.seconds = Histogram(COMMIT_SECONDS)
        self.tasks = Histogram(COMMIT_TASKS)

    def add(self, seconds: float, tasks: int) -> None:
        """Count one commit; one without tasks does not count."""
        if tasks:
            self.seconds.add(seconds)
            self.tasks.add(tasks)


class Storage(Protocol):
    """Where tasks live."""

    @property
    def shared(self) -> bool:
        """Whether several servers may have this store at a time."""
        ...

    @property
    def writes_local_claims_late(self) -> bool:
        """Whether local claims are answered before they are stored; released before that, they were never made."""
        ...

    async def open(self) -> None:
        """Open or create the store, migrate an older schema, and load what is kept in memory.

        Raises StorageRefused with one line for people, and touches nothing, when the store cannot be served.
        """
        ...

    async def close(self) -> None:
        """Finish what was called, then close; safe when called twice or never opened."""
        ...

    def insert(self, tasks: Sequence[NewTask], now: int) -> Awaitable[list[Task | JobpipeError]]:
        """Accept each task in order, or answer TaskExists, QueueFull or TooManyQueues for it."""
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

    async def lost(self, limit: int) -> list[LostClaim]:
        """Running tasks whose claim's holder is gone, the longest gone first; they stay claimed until settled."""
        ...

    async def next_expiry(self) -> float | None:
        """Seconds until the next lease ends (0 when one has), None when no lease can."""
        ...

    async def get(self, ids: Sequence[str]) -> list[Task | None]:
        """Each task as it is now."""
        ...

    async def attempts(self, id: str) -> list[Attempt] | None:
        """The unsuccessful attempts of a task, oldest first, at most the newest MAX_ATTEMPTS; None: unknown task."""
        ...

    def cancel(self, ids: Sequence[str], now: int) -> Awaitable[list[Cancelled | JobpipeError]]:
        """Cancel each queued task, mark each running one; else answer AlreadyFinished or NotFound."""
        ...

    def retry(self, ids: Sequence[str], now: int) -> Awaitable[list[Task | JobpipeError]]:
        """Queue each failed or cancelled task again, accounting cleared; else answer NotRetryable or NotFound."""
        ...

    async def delete(self, ids: Sequence[str]) -> list[Task | JobpipeError]:
        """Forget each finished task, answering what it was; else answer NotFinished or NotFound."""
        ...

    async def page(self, where: TaskFilter, limit: int, before_seq: int | None, max_bytes: int) -> Page:
        """The newest matching tasks before `before_seq`, at most `max_bytes` of payload and result, at least one."""
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

    async def prune(self, finished_before: int | None, failed_before: int | None, limit: int) -> int:
        """Delete up to `limit` tasks: done and cancelled ones finished before the one, failed before the other time.

        None keeps all of that kind. Answers how many were deleted.
        """
        ...

    async def audit(self) -> list[Miscount]:
        """Compare some of the kept counts with the rows, and make those true that cannot be; what they were.

        A bounded look, at others each time: it never counts a whole store.
        """
        ...

    async def next_prunable(self) -> tuple[int | None, int | None]:
        """When the oldest done or cancelled task finished, and when the oldest failed one did."""
        ...

    async def keep_summary(self, summary: Summary, forget_before: int) -> None:
        """Keep it in place of an earlier one of the same minute and server; forget those of older minutes."""
        ...

    async def summaries(self, since: int, until: int) -> list[Summary]:
        """All servers' summaries of the minutes from `since` to before `until`, by minute."""
        ...

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

    def clock_step(self) -> float:
        """By how many seconds the clock that the store judges by has stepped last; 0 for none, or none of its own."""
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
