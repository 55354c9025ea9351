"""Rules beside a plain list of tasks: whatever is asked in whatever order, a claim takes exactly what may start."""

from __future__ import annotations

import random

import pytest
from desk import CANCELLED, DONE, FAILED, LOST, RELEASED, OpenStore, ids_of, new
from flowdesk import FlowDesk

from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import ManualClock

QUEUES = ("a", "b", "plain")
KEYS = ("x", "y", "z", None)


class World:
    """Everybody at once, and the rules as people said them."""

    def __init__(self, desk: FlowDesk, seed: int) -> None:
        self.desk = desk
        self.source = random.Random(seed)
        self.claims: list[Claim] = []
        self.queues: dict[str, dict[str, int | bool | None]] = {}
        self.keys: dict[tuple[str, str], dict[str, int | bool | None]] = {}
        self.made = 0

    async def step(self) -> None:
        steps = [self.accept, self.claim, self.claim, self.settle, self.settle, self.rule, self.rule_key,
                 self.cancel, self.retry, self.advance, self.rescue]  # fmt: skip
        await self.source.choice(steps)()

    async def accept(self) -> None:
        tasks = []
        for _ in range(self.source.choice([1, 2, 12])):
            self.made += 1
            later = self.desk.now + self.source.choice([0, 0, 0, 700])
            tasks.append(new(
                f"t{self.made}", queue=self.source.choice(QUEUES), key=self.source.choice(KEYS), run_at=later,
                priority=self.source.choice([0, 0, 5]), max_retries=9,
            ))  # fmt: skip
        await self.desk.accept(*tasks)

    async def claim(self) -> None:
        limit, free = self.source.choice([1, 3, 50]), self.source.choice([None, None, 0, 2])
        local = self.source.random() < 0.5
        expected = self.startable(await self.desk.listed(), limit, free)
        claims = await self.desk.claim(limit, free=free, local=local, lease_s=None if local else 5.0)
        assert ids_of(claims) == expected, (self.queues, self.keys)
        self.claims += claims

    def startable(self, tasks: list[Task], limit: int, free: int | None) -> list[str]:
        """What a claim takes: in order, each that no rule holds at its turn."""
        taken: list[Task] = [task for task in tasks if task.status is Status.RUNNING]
        found: list[str] = []
        due = [task for task in tasks if task.status is Status.QUEUED and task.run_at <= self.desk.now]
        for task in sorted(due, key=lambda task: (-task.priority, task.run_at, task.seq)):
            kept = free is not None and len(found) >= free and self.is_limited(task.queue)
            if len(found) < limit and not kept and self.may(task, taken):
                found.append(task.id)
                taken.append(task)
        return found

    def is_limited(self, queue: str) -> bool:
        said = self.queues.get(queue, {})
        own = any(said for (name, _), said in self.keys.items() if name == queue)
        return own or any(said.get(rule) is not None for rule in ("concurrency", "key_concurrency"))

    def may(self, task: Task, running: list[Task]) -> bool:
        said = self.queues.get(task.queue, {})
        own = self.keys.get((task.queue, task.key or ""), {})
        of_queue = [other for other in running if other.queue == task.queue]
        of_key = [other for other in of_queue if other.key == task.key]
        most = own.get("concurrency", said.get("key_concurrency"))
        return not (
            said.get("paused") or own.get("paused")
            or (said.get("concurrency") is not None and len(of_queue) >= int(said["concurrency"] or 0))
            or (task.key is not None and most is not None and len(of_key) >= most)
        )  # fmt: skip

    async def settle(self) -> None:
        if self.claims:
            claim = self.claims.pop(self.source.randrange(len(self.claims)))
            outcome: Outcome = self.source.choice([DONE, FAILED, RELEASED])
            task = await run_of(self.desk, claim)
            if task is not None and task.cancel_requested:
                outcome = CANCELLED
            await self.desk.settle(claim, outcome, task=task)
            if self.source.random() < 0.3:  # sent again
                await self.desk.settle(claim, DONE)

    async def rescue(self) -> None:
        for lost in await self.desk.store.lost(10):
            await self.desk.settle(lost, LOST, rescue=True)

    async def rule(self) -> None:
        queue, rule = (
            self.source.choice(QUEUES[:2]),
            self.source.choice(["paused", "concurrency", "key_concurrency"]),
        )
        value = self.source.choice([True, None]) if rule == "paused" else self.source.choice([1, 2, 5, None])
        await self.desk.rule(queue, **{rule: value})
        self.queues.setdefault(queue, {})[rule] = value

    async def rule_key(self) -> None:
        queue, key = self.source.choice(QUEUES[:2]), self.source.choice("xyz")
        rule = self.source.choice(["paused", "concurrency"])
        value = self.source.choice([True, None]) if rule == "paused" else self.source.choice([1, 3, None])
        await self.desk.rule(queue, key, **{rule: value})
        said = self.keys.setdefault((queue, key), {})
        said[rule] = value
        if value is None:
            del said[rule]

    async def cancel(self) -> None:
        if self.made:
            await self.desk.cancel(*{f"t{self.source.randint(1, self.made)}" for _ in range(3)})

    async def retry(self) -> None:
        if self.made:
            await self.desk.retry(f"t{self.source.randint(1, self.made)}")

    async def advance(self) -> None:
        self.desk.clock.advance(self.source.choice([0.001, 0.5, 2.0]))


@pytest.mark.parametrize("seed", range(6))
async def test_a_claim_takes_exactly_what_may_start(
    open_store: OpenStore, clock: ManualClock, url: str, seed: int
) -> None:
    desk = FlowDesk(await open_store(), clock)
    await desk.rule("probe", paused=True)
    world = World(desk, seed)
    for n in range(400):
        await world.step()
        if n % 100 == 99 and url != "memory:":  # what memory knows is what the next start reads
            for claim in world.claims:
                await desk.settle(claim, RELEASED, task=await run_of(desk, claim))
            world.claims.clear()
            await desk.store.close()
            world.desk = desk = FlowDesk(await open_store(), clock)
    await desk.assert_counts_are_true()


async def run_of(desk: FlowDesk, claim: Claim) -> Task | None:
    task = await desk.get(claim.task.id)
    return task if task.status is Status.RUNNING else None
