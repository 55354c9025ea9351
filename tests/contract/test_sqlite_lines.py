"""SQLite: what memory knows of the tasks that come next is never wrong, however many levels and tasks there are."""

from __future__ import annotations

import random

import pytest
from desk import DONE, FAILED, RELEASED, Desk, OpenDesk, new

from jobpipe.core.task import NewTask, Task
from jobpipe.storage.sqlite import due
from jobpipe.storage.sqlite.line import MOST_BYTES

QUEUES = 20


@pytest.fixture
def url() -> str:
    return "memory:"


@pytest.fixture(autouse=True, params=[(4, 256), (256, 8192)], ids=["few lines", "many lines"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    lines, rows = request.param
    monkeypatch.setattr(due, "MOST_LINES", lines)
    monkeypatch.setattr(due, "MOST_ROWS", rows)


class Crowd:
    """Everybody at once, beside a plain dict that knows all waiting tasks."""

    def __init__(self, desk: Desk, seed: int) -> None:
        self.desk = desk
        self.source = random.Random(seed)
        self.waiting: dict[str, Task] = {}
        self.made = 0

    async def accept(self) -> None:
        tasks = [self.task() for _ in range(self.source.choice([1, 3, 40, 700]))]
        self.waiting |= {task.id: task for task in await self.desk.accept(*tasks)}

    def task(self) -> NewTask:
        self.made += 1
        later = self.source.choice([0, 0, 0, 500, 60_000])
        queue, priority = f"q{self.source.randrange(QUEUES)}", self.source.randrange(2)
        return new(f"t{self.made}", queue=queue, priority=priority, run_at=self.desk.now + later)

    async def claim(self) -> None:
        wanted = self.source.choice([None, {f"q{n}" for n in self.source.sample(range(QUEUES), 3)}])
        limit = self.source.choice([1, 5, 64, 512])
        due = [
            task
            for task in self.waiting.values()
            if task.run_at <= self.desk.now and (wanted is None or task.queue in wanted)
        ]
        due.sort(key=lambda task: (-task.priority, task.run_at, task.seq))
        claims = await self.desk.claim(limit, queues=wanted)
        assert [claim.task.id for claim in claims] == [task.id for task in due[:limit]]
        for claim in claims:
            assert claim.task.payload == self.waiting.pop(claim.task.id).payload
            outcome = self.source.choice([DONE, DONE, FAILED, RELEASED])
            await self.desk.settle(claim, outcome)
            if outcome is not DONE and not (task := await self.desk.get(claim.task.id)).finished:
                self.waiting[task.id] = task

    async def cancel(self) -> None:
        some = self.source.sample(sorted(self.waiting), min(3, len(self.waiting)))
        await self.desk.cancel(*some)
        for id_ in some:
            del self.waiting[id_]

    async def pass_time(self) -> None:
        self.desk.clock.advance(self.source.choice([0.1, 1, 30]))


@pytest.mark.parametrize("seed", range(4))
async def test_claims_come_in_order_over_more_levels_than_memory_knows(
    open_desk: OpenDesk, seed: int
) -> None:
    crowd = Crowd(await open_desk(), seed)
    for _ in range(120):
        await crowd.source.choice([crowd.accept, crowd.claim, crowd.claim, crowd.cancel, crowd.pass_time])()
    await crowd.desk.assert_counts_are_true()


async def test_large_payloads_are_not_kept_beyond_a_bound_and_arrive_whole(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    payloads = {f"t{n}": b'"' + bytes([97 + n]) * (MOST_BYTES // 2) + b'"' for n in range(8)}
    await desk.accept(*(new(id_, payload=payload) for id_, payload in payloads.items()))
    claims = await desk.claim(8)
    assert {claim.task.id: claim.task.payload for claim in claims} == payloads
    assert [claim.task.id for claim in claims] == list(payloads)
