"""A pool that claimed ahead still runs each task once, and leaves nothing behind when it is drained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import pytest
from test_work_ahead import Rig, held
from test_work_pace import AHEAD_S, PATIENCE_S, Loop, hand_moved
from test_work_pool import claim, turns

from jobpipe.core.lifecycle import Kind
from jobpipe.work.context import Context


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    return hand_moved(monkeypatch)


async def test_a_drain_gives_back_at_once_what_waits_and_begins_nothing_more(loop: Loop) -> None:
    rig = Rig(loop, *held(4))
    await rig.bench.until_running("t0", "t1")
    assert rig.waiting == ["t2", "t3"]
    rig.bench.gate("t0").set()  # a worker becomes free in the same moment
    draining = asyncio.create_task(rig.pool.drain(60))
    assert await rig.source.until_settled("t2", "t3") == [Kind.RELEASED] * 2
    rig.bench.gate("t1").set()
    await draining
    assert rig.begun == ["t0", "t1"]
    assert sorted(rig.source.outcomes) == [
        ("t0", Kind.DONE), ("t1", Kind.DONE), ("t2", Kind.RELEASED), ("t3", Kind.RELEASED)
    ]  # fmt: skip


async def test_what_a_claim_ahead_still_brings_to_a_drain_is_given_back(loop: Loop) -> None:
    rig = Rig(loop, *held(6))
    await rig.bench.until_running("t0", "t1")
    rig.source.now_open.clear()
    await rig.end("t0")
    await rig.source.until_asked_now(4, 1)
    assert rig.waiting == ["t3"]
    await rig.pool.drain(0.01)
    assert sorted(rig.source.outcomes) == [
        ("t0", Kind.DONE), ("t1", Kind.RELEASED), ("t2", Kind.RELEASED), ("t3", Kind.RELEASED), ("t4", Kind.RELEASED)
    ]  # fmt: skip
    assert rig.begun == ["t0", "t1", "t2"]


async def test_patience_that_ends_after_a_drain_changes_nothing(loop: Loop) -> None:
    rig = Rig(loop, *held(4))
    await rig.bench.until_running("t0", "t1")
    await rig.pool.drain(0)
    outcomes = list(rig.source.outcomes)
    loop.advance(PATIENCE_S)
    await turns()
    assert rig.source.outcomes == outcomes
    assert sorted(id for id, _ in outcomes) == ["t0", "t1", "t2", "t3"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("steps", [(0.0,), (0.0, AHEAD_S / 8), (0.0, AHEAD_S / 8, PATIENCE_S)])
async def test_every_task_is_run_once_whatever_is_given_back_meanwhile(
    loop: Loop, steps: Sequence[float], seed: int
) -> None:
    chance = random.Random(seed)
    ids = [f"t{n}" for n in range(200)]
    alone = {id for id in ids if chance.random() < 0.02}
    rig = Rig(loop, *(claim(id, "dawdle", alone=id in alone) for id in ids), workers=3, most=5)
    running: set[str] = set()
    most, beside_alone = 0, list[set[str]]()

    @rig.bench.app.handler("dawdle")
    async def dawdle(ctx: Context) -> None:
        nonlocal most
        running.add(ctx.id)
        most = max(most, len(running))
        if running & alone and len(running) > 1:
            beside_alone.append(set(running))
        asyncio.get_running_loop().call_soon(loop.advance, chance.choice(steps))
        await turns(chance.choice([0, 0, 0, 1, 5, 30]))
        running.remove(ctx.id)

    await rig.source.until(lambda: [k for _, k in rig.source.outcomes].count(Kind.DONE) == 200)
    await rig.pool.drain(1)
    assert sorted(rig.begun) == sorted(ids)
    assert sorted(id for id, kind in rig.source.outcomes if kind is Kind.DONE) == sorted(ids)
    assert (most, beside_alone, rig.waiting, rig.source.most_calls) == (3, [], [], 1)
    assert rig.source.asked_now
    if len(steps) > 1:  # time passes, so that there is a pace again after a give-back
        assert len(rig.source.asked_now) > 1
    if PATIENCE_S in steps:
        assert [kind for _, kind in rig.source.outcomes].count(Kind.RELEASED) > 0
