"""A pool that claims ahead of its workers runs no more at a time for it, and gives back what does not begin soon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from typing import Any

import pytest
from test_work_pace import AHEAD_S, COOL_S, PATIENCE_S, Loop, hand_moved
from test_work_pool import SOON, Bench, Source, Told, claim, turns

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.executor import Executor
from jobpipe.work.pool import SETTLES_PER_WORKER, Pool

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
        self.calls += 1
        self.most_calls = max(self.most_calls, self.calls)
        self.asked_now.append(limit)
        try:
            await self._tell()
            if self.now_errors:
                raise self.now_errors.pop()
            with suppress(
                asyncio.CancelledError
            ):  # as a source may: what the server gave meanwhile still comes
                await self.now_open.wait()
            taken, self.waiting = self.waiting[:limit], self.waiting[limit:]
            return taken
        finally:
            self.calls -= 1

    async def settle_one(self, claim: Claim, outcome: Outcome) -> None:
        self.outcomes.append((claim.task.id, outcome.kind))
        await super().settle_one(claim, outcome)
        if outcome.kind is Kind.RELEASED:
            self.waiting = sorted([*self.waiting, claim], key=lambda one: self.order.index(one.task.id))
            await self._tell()

    async def put(self, *claims: Claim) -> None:
        self.order += [one.task.id for one in claims]
        await super().put(*claims)

    async def until_asked_now(self, *limits: int) -> None:
        await self.until(lambda: self.asked_now == list(limits))


class Rig:
    """A pool whose runs so far ended at such a pace that `most` tasks may wait; 0: nothing is known of its pace."""

    def __init__(self, loop: Loop, *claims: Claim, workers: int = 2, most: int = 2, **options: Any) -> None:
        self.source, self.bench, self.told = Backlog(*claims), Bench(), Told()
        self.executor = Executor(self.bench.app, cleanup=0.01, clock=ManualClock())
        now = self.source.claim_now
        self.pool = Pool(
            self.source, self.executor, workers, claim_now=now, watcher=self.told, **{**PLAIN, **options}
        )
        if most:
            loop.show(self.pool._ahead, most)
        self.pool.start()

    @property
    def waiting(self) -> list[str]:
        return [run.claim.task.id for run in self.pool.ahead]

    @property
    def begun(self) -> list[str]:
        leases = [lease for word, *leases in self.told.words if word == "begin" for lease in leases]
        return [lease.removeprefix("lease-") for lease in leases]

    @property
    def asked(self) -> tuple[list[int], list[int]]:
        """For how many tasks the source was asked: to wait for them, and for what is due now."""
        return self.source.limits, self.source.asked_now

    async def end(self, *ids: str) -> None:
        """Let these runs end, one after the other, and whatever follows from it happen."""
        for id in ids:
            await self.bench.until_running(id)
            self.bench.gate(id).set()
            assert await self.source.until_settled(id) == [Kind.DONE]
            await turns()


Rigs = Callable[..., Rig]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return hand_moved(monkeypatch)


@pytest.fixture
async def rigs(loop: Loop) -> AsyncIterator[Rigs]:
    made: list[Rig] = []

    def make(*claims: Claim, **options: Any) -> Rig:
        made.append(Rig(loop, *claims, **options))
        return made[-1]

    yield make
    for rig in made:
        rig.source.now_open.set()
        await rig.pool.drain(0)


def held(count: int) -> list[Claim]:
    return [claim(f"t{n}") for n in range(count)]


# --- claiming ---


async def test_free_workers_ask_for_what_may_wait_too_with_the_same_claim(rigs: Rigs) -> None:
    rig = rigs(*held(9), workers=2, most=3)
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert rig.asked == ([], [5])
    assert (rig.begun, rig.waiting, rig.pool.busy) == (["t0", "t1"], ["t2", "t3", "t4"], 2)


async def test_what_was_claimed_ahead_begins_in_the_order_of_its_claim_as_workers_become_free(
    rigs: Rigs,
) -> None:
    rig = rigs(*held(8))
    await rig.end("t0")
    assert (rig.begun, rig.waiting) == (["t0", "t1", "t2"], ["t3", "t4"])
    await rig.end("t2", "t1", "t4", "t3", "t5", "t6", "t7")
    assert rig.begun == ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"]
    assert (rig.bench.most, rig.source.most_calls) == (2, 1)


async def test_no_more_is_claimed_before_half_of_what_may_wait_has_begun(rigs: Rigs) -> None:
    rig = rigs(*held(20), workers=4, most=4)
    await rig.end("t0")
    assert rig.asked == ([], [8])
    await rig.end("t1")
    assert rig.asked == ([], [8, 2])
    await rig.end("t2")
    assert rig.asked == ([], [8, 2])
    await rig.end("t3")
    assert rig.asked == ([], [8, 2, 2])
    assert rig.waiting == ["t8", "t9", "t10", "t11"]


async def test_a_pool_of_unknown_pace_claims_nothing_ahead(rigs: Rigs) -> None:
    rig = rigs(*held(4), most=0)
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.asked) == ([], ([2], []))


async def test_what_may_wait_follows_the_pace_of_the_runs(rigs: Rigs, loop: Loop) -> None:
    rig = rigs(*held(20), most=0)
    await rig.end("t0")
    loop.advance(AHEAD_S / 2)
    await rig.end("t1")
    assert (rig.waiting, rig.asked) == ([], ([2, 1, 1], []))
    loop.advance(AHEAD_S / 2)
    await rig.end("t2")  # the second in this time
    assert (rig.waiting, rig.asked) == (["t5", "t6"], ([2, 1, 1], [3]))
    loop.advance(AHEAD_S / 2)
    await rig.end("t3", "t4")
    assert (rig.waiting, rig.asked) == (["t7", "t8"], ([2, 1, 1], [3, 1, 1]))
    loop.advance(AHEAD_S / 2)
    await rig.end("t5")  # the third
    assert (rig.waiting, rig.asked) == (["t8", "t9", "t10"], ([2, 1, 1], [3, 1, 1, 2]))


async def test_a_pool_whose_runs_become_slow_claims_no_more_ahead(rigs: Rigs, loop: Loop) -> None:
    rig = rigs(*held(9))
    await rig.bench.until_running("t0", "t1")
    loop.advance(AHEAD_S * 2)
    await rig.end("t0")
    assert (rig.waiting, rig.asked) == (["t3"], ([], [4]))
    await rig.end("t1", "t2")
    assert (rig.waiting, rig.asked) == ([], ([1], [4]))


async def test_a_claim_ahead_that_finds_nothing_ends_the_claiming_ahead(rigs: Rigs) -> None:
    rig = rigs(*held(4))
    await rig.end("t0")
    assert rig.asked == ([], [4, 1])
    await rig.source.put(*(claim(f"n{n}") for n in range(9)))
    await rig.end("t1")
    assert (rig.waiting, rig.asked) == ([], ([], [4, 1]))
    await rig.end("t2")
    assert (rig.begun[-1], rig.waiting, rig.asked) == ("n0", [], ([1], [4, 1]))


async def test_a_claim_ahead_that_fails_ends_the_claiming_ahead_and_nothing_else(rigs: Rigs) -> None:
    rig = rigs(*held(9))
    await rig.bench.until_running("t0", "t1")
    rig.source.now_errors = [ValueError("bug")]
    await rig.end("t0", "t1", "t2")
    await rig.bench.until_running("t3", "t4")
    await turns()
    assert (rig.waiting, rig.asked) == ([], ([1], [4, 1]))


async def test_a_claim_that_fails_ends_the_claiming_ahead_and_nothing_else(rigs: Rigs) -> None:
    rig = rigs()
    rig.source.claim_errors = [ValueError("bug")]
    await rig.source.until(lambda: len(rig.source.limits) == 2)
    await rig.source.put(*held(9))
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.asked) == ([], ([2, 2], [4]))


async def test_a_worker_that_is_free_by_then_begins_what_came_ahead_at_once(rigs: Rigs) -> None:
    rig = rigs(*held(8), most=4)
    await rig.bench.until_running("t0", "t1")
    rig.source.now_open.clear()
    await rig.end("t0", "t1")
    assert rig.asked == ([], [6, 2])
    await rig.end("t2", "t3", "t4")
    assert (rig.bench.running, rig.waiting) == ({"t5"}, [])
    rig.source.now_open.set()
    await rig.bench.until_running("t5", "t6")
    assert (rig.waiting, rig.bench.most, rig.source.most_calls) == (["t7"], 2, 1)


async def test_no_more_tasks_are_begun_than_the_pool_may_take_and_none_is_claimed_in_vain(rigs: Rigs) -> None:
    rig = rigs(*held(9), max_tasks=7, most=4)
    await rig.end("t0", "t1")
    assert (rig.waiting, rig.asked) == (["t4", "t5", "t6"], ([], [6, 1]))
    await rig.end("t2", "t3", "t4")
    assert (rig.waiting, rig.asked) == ([], ([], [6, 1]))
    await rig.told.until("spent")
    draining = asyncio.create_task(rig.pool.drain(60))
    rig.bench.gate("t5").set()
    rig.bench.gate("t6").set()
    await draining
    assert rig.begun == [f"t{n}" for n in range(7)]
    assert {kind for _, kind in rig.source.outcomes} == {Kind.DONE}
    assert len(rig.source.waiting) == 2


async def test_what_waits_does_not_count_as_taken_before_it_begins(rigs: Rigs) -> None:
    rig = rigs(*held(9), max_tasks=3)
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.asked, ("spent",) in rig.told.words) == (["t2"], ([], [3]), False)
    await rig.end("t0")
    assert (rig.begun, rig.asked, ("spent",) in rig.told.words) == (["t0", "t1", "t2"], ([], [3]), True)


async def test_nothing_is_claimed_ahead_while_too_many_settles_wait(rigs: Rigs) -> None:
    rig = rigs(*(claim(f"n{n}", "noop") for n in range(60)), workers=2, most=3)
    rig.source.open.clear()
    await turns(500)
    enough = SETTLES_PER_WORKER * (2 + 3)
    assert enough <= len(rig.source.handed_in) < enough + 2 + 3
    assert (rig.pool.busy, rig.source.calls) == (0, 0)
    rig.source.open.set()
    await rig.source.until_settled(*(f"n{n}" for n in range(60)))


# --- giving back ---


async def test_what_does_not_begin_soon_is_given_back_and_nothing_is_claimed_ahead_again(
    rigs: Rigs, loop: Loop
) -> None:
    rig = rigs(*held(5))
    await rig.bench.until_running("t0", "t1")
    loop.advance(PATIENCE_S * 0.75)
    await turns()
    assert (rig.waiting, rig.source.outcomes) == (["t2", "t3"], [])
    loop.advance(PATIENCE_S * 0.25)
    assert await rig.source.until_settled("t2", "t3") == [Kind.RELEASED] * 2
    await turns()
    assert (rig.waiting, rig.asked, rig.begun) == ([], ([], [4]), ["t0", "t1"])
    await rig.end("t0")
    assert (rig.waiting, rig.asked, rig.begun) == ([], ([1], [4]), ["t0", "t1", "t2"])


async def test_after_a_give_back_nothing_waits_for_a_while_and_then_by_a_new_pace(
    rigs: Rigs, loop: Loop
) -> None:
    rig = rigs(*held(4), *(claim(f"n{n}", "noop") for n in range(90)))
    await rig.bench.until_running("t0", "t1")
    loop.advance(PATIENCE_S)
    for n in range(4):
        loop.advance(AHEAD_S)
        rig.bench.gate(f"t{n}").set()
        await turns(20)
    assert (rig.waiting, rig.source.asked_now) == ([], [4])
    loop.advance(COOL_S)
    await rig.source.put(*(claim(f"m{n}") for n in range(9)))
    await rig.source.until_settled(*(f"n{n}" for n in range(90)))
    for n in range(4):
        await rig.end(f"m{n}")
        loop.advance(AHEAD_S / 2)
    assert rig.waiting
    assert len(rig.source.asked_now) > 1


async def test_each_claim_waits_for_its_own_time(rigs: Rigs, loop: Loop) -> None:
    rig = rigs(*held(9))
    await rig.bench.until_running("t0", "t1")
    loop.advance(AHEAD_S / 2)
    await rig.end("t0")
    assert rig.waiting == ["t3", "t4"]
    loop.advance(PATIENCE_S - AHEAD_S / 2)
    assert await rig.source.until_settled("t3") == [Kind.RELEASED]
    assert rig.waiting == ["t4"]
    loop.advance(AHEAD_S / 2)
    assert await rig.source.until_settled("t4") == [Kind.RELEASED]
    assert rig.waiting == []


async def test_what_is_given_back_does_not_count_as_taken(rigs: Rigs, loop: Loop) -> None:
    rig = rigs(*held(4), max_tasks=3)
    await rig.bench.until_running("t0", "t1")
    loop.advance(PATIENCE_S)
    assert await rig.source.until_settled("t2") == [Kind.RELEASED]
    assert (rig.asked, ("spent",) in rig.told.words) == (([], [3]), False)
    rig.bench.gate("t0").set()
    await rig.told.until("spent")
    assert rig.begun == ["t0", "t1", "t2"]


async def test_patience_ends_nothing_that_has_begun(rigs: Rigs, loop: Loop) -> None:
    rig = rigs(*held(4))
    await rig.end("t0")
    loop.advance(PATIENCE_S)
    assert await rig.source.until_settled("t3") == [Kind.RELEASED]
    assert (rig.bench.running, rig.waiting) == ({"t1", "t2"}, [])
    await rig.end("t2")


async def test_a_task_that_must_run_alone_is_given_back_and_then_claimed_when_its_turn_comes(
    rigs: Rigs,
) -> None:
    rig = rigs(*held(4), claim("a", alone=True), *(claim(f"n{n}", "noop") for n in range(9)))
    await rig.end("t0")
    assert rig.asked == ([], [4, 1])
    assert await rig.source.until_settled("a") == [Kind.RELEASED]
    await rig.end("t1", "t2", "t3")
    await rig.bench.until_running("a")
    assert (rig.bench.running, rig.pool.busy, rig.waiting) == ({"a"}, 1, [])
    rig.bench.gate("a").set()
    assert set(await rig.source.until_settled("a", *(f"n{n}" for n in range(9)))) == {Kind.DONE}
    assert rig.source.outcomes.count(("a", Kind.RELEASED)) == 1
    assert rig.begun == ["t0", "t1", "t2", "t3", "a", *(f"n{n}" for n in range(9))]


async def test_free_workers_too_give_a_task_back_that_must_run_alone_and_came_with_what_waits(
    rigs: Rigs,
) -> None:
    rig = rigs(claim("a", alone=True), *held(5))
    await rig.bench.until_running("t0", "t1")
    await turns()
    assert (rig.waiting, rig.source.outcomes) == (["t2"], [("a", Kind.RELEASED)])
    await rig.end("t0", "t1")
    assert (rig.bench.running, rig.asked) == ({"t2"}, ([1], [4]))  # the free worker's own claim is for `a`
    await rig.end("t2")
    assert rig.bench.running == {"a"}
    rig.bench.gate("a").set()
    await rig.end("t3", "t4")
    assert rig.begun == ["t0", "t1", "t2", "a", "t3", "t4"]
    assert rig.source.settled["a"].kind is Kind.DONE


async def test_a_task_that_waits_ahead_can_be_cancelled(rigs: Rigs) -> None:
    rig = rigs(*held(4))
    await rig.bench.until_running("t0", "t1")
    assert rig.waiting == ["t2", "t3"]
    assert rig.pool.cancel("lease-t2")
    assert not rig.pool.cancel("lease-t2")
    assert await rig.source.until_settled("t2") == [Kind.CANCELLED]
    await rig.end("t0")
    await rig.bench.until_running("t3")
    assert rig.begun == ["t0", "t1", "t3"]
