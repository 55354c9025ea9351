"""Rules, rates, holds and turns beside a plain model: in whatever order things happen, a claim takes what may start."""

from __future__ import annotations

import random
from typing import Any

import pytest
from desk import CANCELLED, DONE, FAILED, LOST, RELEASED, OpenStore, ids_of, new
from flowdesk import FlowDesk
from flowmodel import FlowModel

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.rates import Rate
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import Settled

QUEUES = ("a", "b", "plain")
KEYS = ("x", "y", "z", None)
RULES: dict[str, list[Any]] = {
    "paused": [True, None],
    "concurrency": [1, 2, 5, None],
    "key_concurrency": [1, 2, None],
    "rate": [Rate(2, 1.0, 1), Rate(10, 1.0, 3), None],
    "key_rate": [Rate(1, 1.0, 1), Rate(40, 1.0), None],
    "fair": [True, None],
}
SNOOZED = Outcome(Kind.RELEASED, retry_in=0.4)
HELD_KEY = Outcome(Kind.RELEASED, retry_in=0.6, hold="key")
HELD_QUEUE = Outcome(Kind.RELEASED, retry_in=0.3, hold="queue")


class World:
    """Everybody at once, and the rules as people said them."""

    def __init__(self, desk: FlowDesk, seed: int) -> None:
        self.desk = desk
        self.source = random.Random(seed)
        self.claims: list[Claim] = []
        self.model = FlowModel()
        self.made = 0

    async def step(self) -> None:
        steps = [self.accept, self.claim, self.claim, self.settle, self.settle, self.rule, self.rule_key,
                 self.cancel, self.retry, self.advance, self.rescue,
                 self.resume]  # fmt: skip
        await self.source.choice(steps)()
        await self.look()  # who waits now: a key that had nothing waiting in between comes behind the others

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
        limit = self.source.choice([1, 3, 50])
        free = None if self.model.was_keyed else self.source.choice([None, None, 0, 2])
        local = self.source.random() < 0.5
        tasks = await self.look()
        claims = await self.desk.claim(limit, free=free, local=local, lease_s=None if local else 5.0)
        self.follow(tasks, ids_of(claims), limit, free)
        self.claims += claims

    def follow(self, tasks: list[Task], claimed: list[str], limit: int, free: int | None) -> None:
        """Each that was claimed was one of those whose turn it was, and none was left that might have started."""
        waiting = {task.id: task for task in tasks}
        running = [task for task in tasks if task.status is Status.RUNNING]
        for n in range(limit):
            plain = free is not None and n >= free
            nexts = self.model.next(waiting.values(), running, self.desk.now, plain=plain)
            got = claimed[n] if n < len(claimed) else None
            wanted = [task.id for task in nexts]
            assert got in wanted if wanted else got is None, (n, got, wanted, claimed, self.model.said)
            if got is None:
                return
            task = waiting.pop(got)
            self.model.start(task, self.desk.now)
            running.append(task)

    async def look(self) -> list[Task]:
        """All tasks; those that are due say why they are held."""
        tasks = await self.desk.listed()
        self.model.look(tasks, self.desk.now)
        running = [task for task in tasks if task.status is Status.RUNNING]
        due = [task for task in tasks if task.status is Status.QUEUED and task.run_at <= self.desk.now]
        some = self.source.sample(due, min(3, len(due)))
        reasons = [self.model.reason(task, running, self.desk.now) for task in some]
        assert await self.desk.store.held(some, self.desk.now) == reasons, self.model.said
        return tasks

    async def settle(self) -> None:
        if self.claims:
            claim = self.claims.pop(self.source.randrange(len(self.claims)))
            outcome: Outcome = self.source.choice([DONE, FAILED, RELEASED, SNOOZED, HELD_KEY, HELD_QUEUE])
            task = await run_of(self.desk, claim)
            if task is not None and task.cancel_requested:
                outcome = CANCELLED
            waits = outcome.hold is not None and task is not None
            if isinstance(await self.desk.settle(claim, outcome, task=task), Settled) and waits:
                key = claim.task.key if outcome.hold == "key" else None
                self.model.hold(
                    claim.task.queue, key or "", self.desk.now + round((outcome.retry_in or 0) * 1000)
                )
            if self.source.random() < 0.3:  # sent again
                await self.desk.settle(claim, DONE)

    async def rescue(self) -> None:
        for lost in await self.desk.store.lost(10):
            await self.desk.settle(lost, LOST, rescue=True)

    async def rule(self) -> None:
        rule = self.source.choice(list(RULES))
        await self.say(self.source.choice(QUEUES[:2]), "", rule, self.source.choice(RULES[rule]))

    async def rule_key(self) -> None:
        rule = self.source.choice(["paused", "concurrency", "rate"])
        await self.say(
            self.source.choice(QUEUES[:2]), self.source.choice("xyz"), rule, self.source.choice(RULES[rule])
        )

    async def say(self, queue: str, key: str, rule: str, value: Any) -> None:
        await self.desk.rule(queue, key or None, **{rule: value})
        self.model.say(queue, key, rule, value)

    async def resume(self) -> None:
        queue, key = self.source.choice(QUEUES[:2]), self.source.choice(["", "", "x", "y"])
        await self.desk.store.resume(queue, key or None, self.desk.now, "ann")
        self.model.resume(queue, key)

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
            world.model.forget_turns()
    await desk.assert_counts_are_true()


async def run_of(desk: FlowDesk, claim: Claim) -> Task | None:
    task = await desk.get(claim.task.id)
    return task if task.status is Status.RUNNING else None
