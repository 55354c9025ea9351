"""A store and its clock behind the few verbs that the contract's tests are written in.

`Desk` decides nothing: it fills in the usual values, asks the store, and gives the answer of the one item that a test
speaks about. What a settle writes comes from `core.lifecycle`, as it does in the queue.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import (
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    Extended,
    Extension,
    LostClaim,
    SettleAnswer,
    Settled,
    Settlement,
    TaskFilter,
)
from jobpipe.storage.contract import Storage

T = TypeVar("T")

ALL = TaskFilter()
MANY_BYTES = 1 << 40
POLICY = Policy(retry=RetryPolicy(base=1.0, jitter=0.0, cap=60.0))
DONE = Outcome(Kind.DONE, result=b'"ok"')
FAILED = Outcome(Kind.FAILED, error_type="ValueError", message="no")
FAILED_FOR_GOOD = Outcome(Kind.FAILED, error_type="ValueError", message="no", retryable=False)
RELEASED = Outcome(Kind.RELEASED)
LOST = Outcome(Kind.LOST)
CANCELLED = Outcome(Kind.CANCELLED)


def new(id: str, **fields: Any) -> NewTask:
    return NewTask(id=id, handler=fields.pop("handler", "h"), **fields)


def ids_of(items: Iterable[Task | Claim]) -> list[str]:
    return [item.task.id if isinstance(item, Claim) else item.id for item in items]


def codes_of(answers: Iterable[object]) -> list[str]:
    """What became of each item: its error's code, else what it is."""
    return [
        answer.code if isinstance(answer, JobpipeError) else type(answer).__name__.lower()
        for answer in answers
    ]


def settlement(
    claim: Claim | LostClaim, outcome: Outcome, now: int, *, task: Task | None = None, rescue: bool = False
) -> Settlement:
    """What the queue would write for the outcome of a claim, decided over `task` (else over the task as claimed)."""
    subject = task or claim.task
    to = decide(subject, outcome, now, POLICY, random.random)
    return Settlement(claim.task.id, claim.lease_id, to, subject.cancel_requested, rescue)


class Desk:
    """The verbs. `clock.now()` is the time of every call."""

    def __init__(self, store: Storage, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock

    @property
    def now(self) -> int:
        return self.clock.now()

    async def insert(self, *tasks: NewTask | str, **fields: Any) -> list[Task | JobpipeError]:
        batch = [new(task, **fields) if isinstance(task, str) else task for task in tasks]
        return await self.store.insert(batch, self.now)

    async def accept(self, *tasks: NewTask | str, **fields: Any) -> list[Task]:
        """Insert what must be accepted."""
        return expect_all(Task, await self.insert(*tasks, **fields))

    async def ask(
        self,
        limit: int = 1,
        *,
        queues: Iterable[str] | None = None,
        lease_s: float | None = None,
        local: bool = True,
        worker: str = "w",
        free: int | None = None,
    ) -> ClaimAnswer:
        chosen = None if queues is None else frozenset(queues)
        return await self.store.claim(ClaimRequest(limit, worker, chosen, lease_s, local, free), self.now)

    async def claim(self, limit: int = 1, **wishes: Any) -> list[Claim]:
        return (await self.ask(limit, **wishes)).claims

    async def claim_one(self, **wishes: Any) -> Claim:
        (claim,) = await self.claim(1, **wishes)
        return claim

    async def claim_remote(self, limit: int = 1, lease_s: float = 30.0, **wishes: Any) -> list[Claim]:
        """As a worker on another machine claims: with a lease, and outliving the server."""
        return await self.claim(limit, lease_s=lease_s, local=False, **wishes)

    async def start(self, id: str, **fields: Any) -> Claim:
        """Insert one task, due now, and claim it."""
        queue = f"only-{id}"
        await self.accept(new(id, queue=queue, **fields))
        return await self.claim_one(queues=[queue])

    async def settle(
        self,
        claim: Claim | LostClaim,
        outcome: Outcome = DONE,
        *,
        task: Task | None = None,
        rescue: bool = False,
    ) -> SettleAnswer:
        (answer,) = await self.write(settlement(claim, outcome, self.now, task=task, rescue=rescue))
        return answer

    async def write(self, *settlements: Settlement) -> list[SettleAnswer]:
        return await self.store.settle(settlements, self.now)

    async def finish(self, id: str, outcome: Outcome = DONE, **fields: Any) -> Claim:
        """Run one new task to an outcome."""
        claim = await self.start(id, **fields)
        expect(Settled, await self.settle(claim, outcome))
        return claim

    async def get(self, id: str) -> Task:
        (task,) = await self.store.get([id])
        assert task is not None, f"no task '{id}'"
        return task

    async def extend(self, claim: Claim, lease_s: float = 30.0) -> Extended | JobpipeError:
        (answer,) = await self.store.extend([Extension(claim.task.id, claim.lease_id, lease_s)])
        return answer

    async def cancel(self, *ids: str) -> list[Cancelled | JobpipeError]:
        return await self.store.cancel(ids, self.now)

    async def retry(self, *ids: str) -> list[Task | JobpipeError]:
        return await self.store.retry(ids, self.now)

    async def delete(self, *ids: str) -> list[Task | JobpipeError]:
        return await self.store.delete(ids)

    async def listed(self, where: TaskFilter = ALL, *, limit: int = 1000) -> list[Task]:
        """All matching tasks, page by page, newest first."""
        tasks: list[Task] = []
        before: int | None = None
        while True:
            page = await self.store.page(where, limit, before, MANY_BYTES)
            tasks += page.tasks
            if page.next_seq is None:
                return tasks
            before = page.next_seq

    async def recount(self) -> tuple[dict[Status, int], dict[str, dict[Status, int]]]:
        """What the kept counts must be, by looking at every task."""
        tasks = await self.listed()
        by_status = Counter(task.status for task in tasks)
        by_queue = {queue: dict.fromkeys(Status, 0) for queue in sorted({task.queue for task in tasks})}
        for task in tasks:
            by_queue[task.queue][task.status] += 1
        return {status: by_status[status] for status in Status}, by_queue

    async def assert_counts_are_true(self) -> None:
        by_status, by_queue = await self.recount()
        assert await self.store.counts() == by_status
        kept = await self.store.queues(self.now)
        assert {counts.queue: counts.by_status for counts in kept} == by_queue
        assert [counts.queue for counts in kept] == list(by_queue)


OpenStore = Callable[..., Awaitable[Storage]]
"""Opens a store with `capacity` and `max_queues`; what the fixtures `open_store` and `open_desk` give."""
OpenDesk = Callable[..., Awaitable[Desk]]


def expect(kind: type[T], answer: object) -> T:
    assert isinstance(answer, kind), repr(answer)
    return answer


def expect_all(kind: type[T], answers: Sequence[object]) -> list[T]:
    return [expect(kind, answer) for answer in answers]
