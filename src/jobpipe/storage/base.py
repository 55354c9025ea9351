"""The values of the storage contract (contract.py)."""

from __future__ import annotations

from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.core.histogram import Histogram
from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Attempt, Claim, Status, Task

MAX_CLAIM_BYTES = 8 * 1024 * 1024
"""A claim hands out at most this many bytes of payload, but at least one task."""
MAX_ATTEMPTS = 1000
"""So many unsuccessful attempts of a task are kept, the newest: one released for ever must not fill the disk."""
ANNOUNCED_S = 30.0
"""A server that announced nothing for so long is gone."""


class ClaimRequest(Struct, frozen=True):
    """A worker's wish: up to `limit` due tasks of `queues` (None for all).

    `lease_s` None makes a claim that does not expire while this process lives. `local` marks claims of workers that die
    with this process: after a restart their tasks are lost at once, those of others get one full fresh lease. Of the
    tasks `free` can begin at once (None: all); the others are claimed ahead, and none of those from a limited queue.
    """

    limit: int
    worker: str
    queues: frozenset[str] | None = None
    lease_s: float | None = None
    local: bool = True
    free: int | None = None


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
    schedule: str | None = None
    due_after: int | None = None
    tried: bool | None = None
    """Whether it was claimed before."""


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


class Waiting(Struct, frozen=True):
    """Queued tasks whose time has not come: before their first run, and after one."""

    scheduled: int
    retrying: int


AUDITED_LEVELS = 500
AUDITED_ROWS = 1000
"""An audit looks at so many queues and priorities at a time, and at so many waiting tasks of each."""


class Miscount(Struct, frozen=True):
    """A kept count that is not what the rows say: `counted` tasks, where `there` are.

    `priority` is None where a store counts all priorities together.
    """

    queue: str
    status: Status
    priority: int | None
    counted: int
    there: int

    def __str__(self) -> str:
        where = f"queue '{self.queue}'" + ("" if self.priority is None else f", priority {self.priority}")
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
