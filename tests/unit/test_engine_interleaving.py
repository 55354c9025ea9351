"""Everybody at once on one queue: at the end every acknowledged task reached one end, and the books are right."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

import pytest

from jobpipe.core.errors import JobpipeError, LeaseLost, NotFound
from jobpipe.core.lifecycle import Kind, Outcome, Policy, Transition
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import FINISHED, Claim, NewTask, Status, Task
from jobpipe.engine.maintenance import Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Cancelled, Settled, TaskFilter

KINDS = [Kind.DONE] * 4 + [Kind.FAILED, Kind.TIMED_OUT, Kind.RELEASED]
POLICY = Policy(retry=RetryPolicy(base=0.5, jitter=0.1, cap=5.0), max_lost=3)


class World:
    """Producers, workers, people and a rescuer on one queue; their choices come from one seed."""

    def __init__(self, seed: int) -> None:
        self.source = random.Random(seed)
        self.clock = ManualClock()
        self.storage = open_storage("memory:", capacity=60, max_queues=3, clock=self.clock)
        self.queue = TaskQueue(self.storage, policy=POLICY, clock=self.clock, random=self.source.random)
        self.rescuer = Rescuer(self.queue, self.storage)
        self.acknowledged: set[str] = set()
        self.ends: Counter[str] = Counter()
        """Ends that were told to who brought them about, by id; a rescuer's are told to nobody."""
        self.told_ends: Counter[str] = Counter()
        """Ends that observers were told, by id, whoever brought them about."""
        self.queue.observe(self)
        self.told_lost = 0

    async def run(self) -> None:
        await self.queue.open()
        try:
            await asyncio.gather(
                *(self.producer() for _ in range(4)),
                *(self.worker(f"w{n}") for n in range(8)),
                *(self.canceller() for _ in range(2)),
                self.upkeep(),
            )
            await self.finish()
            await self.check()
        finally:
            await self.queue.close()

    # --- the observer: what the queue tells ---

    def accepted(self, tasks: Sequence[Task]) -> None: ...
    def claimed(self, claims: Sequence[Claim]) -> None: ...
    def deleted(self, tasks: Sequence[Task]) -> None: ...

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        self.told_ends.update(task.id for task, to in ends if to.status in FINISHED)

    def steered(self, tasks: Sequence[Task]) -> None:
        self.told_ends.update(task.id for task in tasks if task.finished)

    # --- those who use the queue ---

    async def pause(self) -> None:
        for _ in range(self.source.randrange(4)):
            await asyncio.sleep(0)

    async def producer(self) -> None:
        for _ in range(25):
            batch = [
                NewTask(
                    f"t{self.source.randrange(300)}",
                    "h",
                    queue=f"q{self.source.randrange(4)}",
                    priority=self.source.randrange(3),
                    max_retries=self.source.randrange(3),
                    run_at=self.clock.now() + self.source.choice([0, 0, 700]),
                )
                for _ in range(self.source.randint(1, 4))
            ]
            for answer in await self.queue.enqueue(batch):
                if isinstance(answer, Task):
                    assert answer.id not in self.acknowledged, "one id is one task"
                    self.acknowledged.add(answer.id)
            await self.pause()

    async def worker(self, name: str) -> None:
        for _ in range(60):
            remote = self.source.random() < 0.5
            queues = self.source.choice([None, frozenset({"q0", "q1"})])
            limit = self.source.randint(1, 3)
            if remote:
                claiming = self.queue.claim(name, limit, queues=queues, lease_s=2.0, local=False)
            else:
                claiming = self.queue.claim(name, limit, queues=queues)
            claims = await self.perhaps_impatient(claiming)
            await self.pause()
            await self.work(claims, remote)

    async def perhaps_impatient(self, claiming: object) -> list[Claim]:
        """Now and then the caller goes away in the middle of its claim."""
        task: asyncio.Task[list[Claim]] = asyncio.ensure_future(claiming)  # type: ignore[call-overload]
        if self.source.random() < 0.1:
            await self.pause()
            task.cancel()
        try:
            return await task
        except asyncio.CancelledError:
            return []

    async def work(self, claims: list[Claim], remote: bool) -> None:
        for claim in claims:
            if remote and self.source.random() < 0.25:
                if self.source.random() < 0.5:
                    continue  # the worker dies
                self.clock.advance(2.5)  # it is paused for longer than its lease, and wakes again
            elif remote:
                await self.queue.extend([Heartbeat(claim.task.id, claim.lease_id, 2.0)])
            report = Report(claim.task.id, claim.lease_id, Outcome(self.source.choice(KINDS)))
            for _ in range(self.source.choice([1, 1, 2])):
                self.note(claim.task.id, (await self.queue.settle([report]))[0])

    def note(self, id: str, answer: Settled | JobpipeError) -> None:
        if isinstance(answer, Settled):
            self.ends[id] += answer.status in FINISHED and not answer.repeated
        else:
            assert isinstance(answer, LeaseLost), repr(answer)
            self.told_lost += 1

    async def canceller(self) -> None:
        for _ in range(40):
            ids = [f"t{self.source.randrange(300)}" for _ in range(2)]
            for id_, answer in zip(ids, await self.queue.cancel(ids), strict=True):
                if isinstance(answer, Cancelled) and answer.lease_id is None:
                    self.ends[id_] += 1
                assert isinstance(answer, NotFound) <= (id_ not in self.acknowledged)
            await self.pause()

    async def upkeep(self) -> None:
        for _ in range(60):
            self.clock.advance(self.source.random())
            await self.rescuer.run_once(self.clock.now())
            await self.pause()

    async def unfinished(self) -> list[Task]:
        tasks = [task for task in await self.queue.get(sorted(self.acknowledged)) if task is not None]
        return [task for task in tasks if not task.finished]

    async def finish(self) -> None:
        """Everybody but one patient worker has gone home."""
        for _ in range(200):
            if not await self.unfinished():
                return
            self.clock.advance(3)
            await self.rescuer.run_once(self.clock.now())
            for claim in await self.queue.claim("last", 100):
                report = Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE))
                self.note(claim.task.id, (await self.queue.settle([report]))[0])
        raise AssertionError(f"stuck: {await self.unfinished()}")

    async def check(self) -> None:
        page = await self.queue.page(TaskFilter(), 1000)
        assert {task.id for task in page.tasks} == self.acknowledged
        assert self.acknowledged
        for task in page.tasks:
            assert task.finished
            ran = task.started_at is not None
            plus_one = task.status is Status.DONE or (task.status is Status.CANCELLED and ran)
            assert task.attempts == task.failures + task.lost + plus_one, task
            assert task.failures <= task.max_retries + 1
            assert task.lost <= POLICY.max_lost
            assert self.ends[task.id] <= 1
        assert self.told_ends == Counter(self.acknowledged), "each task ends once"
        counts = await self.queue.counts()
        assert sum(counts.values()) == len(self.acknowledged)
        assert {status for status, n in counts.items() if n} <= FINISHED
        assert await self.storage.lost(10) == []
        assert await self.storage.next_expiry() is None


@pytest.mark.parametrize("seed", range(6))
async def test_every_acknowledged_task_reaches_one_end_and_the_books_are_right(seed: int) -> None:
    await World(seed).run()
