"""A pool that claims ahead of its workers runs no more at a time for it, and gives back what cannot begin at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from test_work_pool import SOON, Bench, Source, Told, claim, turns

from jobpipe.clock import ManualClock
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim
from jobpipe.work import ahead
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool

PLAIN: dict[str, Any] = {"backoff": SOON, "settle_grace": 0.01}


class Backlog(Source):
    """A source that can also be asked for what is due now; what is released goes back to its place."""

    def __init__(self, *claims: Claim) -> None:
        super().__init__(*claims)
        self.order = [one.task.id for one in claims]
        self.asked_now: list[int] = []
        self.now_errors: list[Exception] = []
        self.now_open = asyncio.Event()
        self.now_open.set()
        self.outcomes: list[tuple[str, Kind]] = []

    async def claim_now(self, limit: int) -> Sequence[Claim]:
        self.asked_now.append(limit)
        await self._tell()
        if self.now_errors:
            raise self.now_errors.pop()
        with suppress(asyncio.CancelledError):  # as a source may: what the server gave meanwhile still comes
            await self.now_open.wait()
        taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
        return taken

    async def settle_one(self, claim: Claim, outcome: Outcome) -> None:
        self.outcomes.append((claim.task.id, outcome.kind))
        await super().settle_one(claim, outcome)
        if outcome.kind is Kind.RELEASED:
            self.waiting = sorted([*self.waiting, claim], key=lambda one: self.order.index(one.task.id))
            await self._tell()

    async def until_asked_now(self, *limits: int) -> None:
        await self.until(lambda: self.asked_now == list(limits))


class Rig:
    """A pool with two workers that are swift as soon as each was through a run, as two no-ops are put first."""

    def __init__(self, *claims: Claim, workers: int = 2, **options: Any) -> None:
        warm = (claim(f"w{n}", "noop") for n in range(workers))
        self.source, self.bench, self.told = Backlog(*warm, *claims), Bench(), Told()
        self.executor = Executor(self.bench.app, cleanup=0.01, clock=ManualClock())
        now = self.source.claim_now
        self.pool = Pool(
            self.source, self.executor, workers, claim_now=now, watcher=self.told, **{**PLAIN, **options}
        )
        self.pool.start()

    @property
    def waiting(self) -> list[str]:
        return [run.claim.task.id for run in self.pool.ahead]

    @property
    def begun(self) -> list[str]:
        leases = [lease for word, *leases in self.told.words if word == "begin" for lease in leases]
        return [lease.removeprefix("lease-") for lease in leases if "-w" not in lease]


Rigs = Callable[..., Rig]


@pytest.fixture
async def rigs(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rigs]:
    monkeypatch.setattr(ahead, "SWIFT_S", float("inf"))
    monkeypatch.setattr(ahead, "PATIENCE_S", 3600.0)
    made: list[Rig] = []

    def make(*claims: Claim, **options: Any) -> Rig:
        made.append(Rig(*claims, **options))
        return made[-1]

    yield make
    for rig in made:
        rig.source.now_open.set()
        await rig.pool.drain(0)


def held(count: int) -> list[Claim]:
    return [claim(f"t{n}") for n in range(count)]


# --- claiming ---


async def test_what_is_claimed_ahead_waits_for_a_worker_and_begins_in_the_order_of_its_claim(
    rigs: Rigs,
) -> None:
    rig = rigs(*held(5))
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.pool.busy, rig.source.asked_now) == (["t2", "t3"], 2, [2])
    for n in range(5):
        await rig.bench.until_running(f"t{n}")
        rig.bench.gate(f"t{n}").set()
    await rig.source.until_settled(*(f"t{n}" for n in range(5)))
    assert rig.begun == ["t0", "t1", "t2", "t3", "t4"]
    assert rig.bench.most == 2


async def test_no_more_is_claimed_before_half_of_what_waits_has_begun(rigs: Rigs) -> None:
    rig = rigs(*held(12), workers=4)
    await rig.source.until_asked_now(4)
    for n, asked in ((0, [4]), (1, [4, 2])):
        rig.bench.gate(f"t{n}").set()
        await rig.bench.until_running(f"t{n + 4}")
        await turns()
        assert rig.source.asked_now == asked


async def test_a_pool_whose_runs_are_slow_claims_nothing_ahead(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "SWIFT_S", 0.0)
    rig = rigs(*held(4))
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.source.asked_now) == ([], [])


async def test_a_claim_ahead_that_finds_nothing_ends_the_claiming_ahead(rigs: Rigs) -> None:
    rig = rigs(*held(2))
    await rig.bench.until_running("t0", "t1")
    await rig.source.put(claim("t2"))
    await turns()
    assert (rig.waiting, rig.source.asked_now) == ([], [2])
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t2")


async def test_a_claim_ahead_that_fails_ends_nothing(rigs: Rigs) -> None:
    rig = rigs(*held(3))
    rig.source.now_errors = [ValueError("bug")]
    await rig.bench.until_running("t0", "t1")
    await rig.source.until_asked_now(2)
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t2")


async def test_a_worker_that_is_free_by_then_begins_what_came_ahead_at_once(rigs: Rigs) -> None:
    rig = rigs(*held(4))
    rig.source.now_open.clear()
    await rig.bench.until_running("t0", "t1")
    await rig.source.until_asked_now(2)
    rig.bench.gate("t0").set()
    await rig.source.until_settled("t0")
    rig.source.now_open.set()
    await rig.bench.until_running("t1", "t2")
    assert (rig.waiting, rig.bench.most) == (["t3"], 2)


async def test_no_more_tasks_are_begun_than_the_pool_may_take_and_none_is_claimed_in_vain(rigs: Rigs) -> None:
    rig = rigs(*held(9), max_tasks=5)
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, ("spent",) in rig.told.words) == (["t2"], False)
    rig.bench.gate("t0").set()
    await rig.told.until("spent")
    draining = asyncio.create_task(rig.pool.drain(60))
    rig.bench.gate("t1").set()
    rig.bench.gate("t2").set()
    await draining
    assert rig.begun == ["t0", "t1", "t2"]
    assert {kind for _, kind in rig.source.outcomes} == {Kind.DONE}
    assert len(rig.source.waiting) == 6


# --- giving back ---


async def test_what_cannot_begin_at_once_is_given_back_and_nothing_is_claimed_ahead_again(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.0)
    rig = rigs(*held(4))
    assert await rig.source.until_settled("t2", "t3") == [Kind.RELEASED] * 2
    await turns()
    assert (rig.waiting, rig.source.asked_now, rig.begun) == ([], [2], ["t0", "t1"])
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t2")


async def test_what_is_given_back_does_not_count_as_taken(
    rigs: Rigs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.0)
    rig = rigs(*held(4), max_tasks=5)
    assert await rig.source.until_settled("t2") == [Kind.RELEASED]
    assert (rig.source.asked_now, ("spent",) in rig.told.words) == ([1], False)
    rig.bench.gate("t0").set()
    await rig.told.until("spent")
    assert rig.begun == ["t0", "t1", "t2"]


async def test_patience_ends_nothing_that_has_begun(rigs: Rigs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_S", 0.05)
    rig = rigs(*held(4))
    await rig.source.until(lambda: bool(rig.source.asked_now))
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t2")
    assert await rig.source.until_settled("t3") == [Kind.RELEASED]
    assert rig.bench.running >= {"t1", "t2"}
    rig.bench.gate("t2").set()
    assert await rig.source.until_settled("t2") == [Kind.DONE]


async def test_a_task_that_must_run_alone_is_given_back_and_then_claimed_when_its_turn_comes(
    rigs: Rigs,
) -> None:
    rig = rigs(*held(2), claim("a", alone=True), *(claim(f"n{n}", "noop") for n in range(9)))
    assert await rig.source.until_settled("a") == [Kind.RELEASED]
    rig.bench.gate("t0").set()
    rig.bench.gate("t1").set()
    await rig.bench.until_running("a")
    assert (rig.bench.running, rig.pool.busy, rig.waiting) == ({"a"}, 1, [])
    rig.bench.gate("a").set()
    assert set(await rig.source.until_settled("a", *(f"n{n}" for n in range(9)))) == {Kind.DONE}
    assert rig.source.outcomes.count(("a", Kind.RELEASED)) == 1


async def test_a_task_that_waits_ahead_can_be_cancelled(rigs: Rigs) -> None:
    rig = rigs(*held(4))
    await rig.source.until_asked_now(2)
    await turns()
    assert rig.pool.cancel("lease-t2")
    assert not rig.pool.cancel("lease-t2")
    assert await rig.source.until_settled("t2") == [Kind.CANCELLED]
    rig.bench.gate("t0").set()
    await rig.bench.until_running("t3")
    assert rig.begun == ["t0", "t1", "t3"]
