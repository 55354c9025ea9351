"""A pool that claimed ahead still runs each task once, and leaves nothing behind when it is drained."""

from __future__ import annotations

import asyncio
import random

import pytest
from test_work_ahead import Rig, held
from test_work_pool import claim, turns

from jobpipe.core.lifecycle import Kind
from jobpipe.work import ahead


@pytest.fixture(autouse=True)
def _swift(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "SWIFT_S", float("inf"))
    monkeypatch.setattr(ahead, "PATIENCE_S", 3600.0)


async def test_a_drain_gives_back_at_once_what_waits_and_begins_nothing_more() -> None:
    rig = Rig(*held(4))
    await rig.source.until_asked_now(2)
    await turns()
    rig.bench.gate("t0").set()  # a worker becomes free in the same moment
    draining = asyncio.create_task(rig.pool.drain(60))
    assert await rig.source.until_settled("t2", "t3") == [Kind.RELEASED] * 2
    rig.bench.gate("t1").set()
    await draining
    assert rig.begun == ["t0", "t1"]
    assert sorted(rig.source.outcomes[2:]) == [
        ("t0", Kind.DONE), ("t1", Kind.DONE), ("t2", Kind.RELEASED), ("t3", Kind.RELEASED)
    ]  # fmt: skip


async def test_what_a_claim_ahead_still_brings_to_a_drain_is_given_back() -> None:
    rig = Rig(*held(4))
    rig.source.now_open.clear()
    await rig.source.until_asked_now(2)
    await rig.pool.drain(0.01)
    assert sorted(rig.source.outcomes[2:]) == [(f"t{n}", Kind.RELEASED) for n in range(4)]
    assert rig.begun == ["t0", "t1"]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("patience", [0.0, 3600.0])
async def test_every_task_is_run_once_whatever_is_given_back_meanwhile(
    monkeypatch: pytest.MonkeyPatch, patience: float, seed: int
) -> None:
    monkeypatch.setattr(ahead, "PATIENCE_S", patience)
    chance = random.Random(seed)
    ids = [f"t{n}" for n in range(200)]
    rig = Rig(*(claim(id, "dawdle", alone=chance.random() < 0.02) for id in ids), workers=3)
    most = 0

    @rig.bench.app.handler("dawdle")
    async def dawdle() -> None:
        nonlocal most
        most = max(most, rig.pool.busy)
        await turns(chance.choice([0, 0, 0, 1, 5, 30]))

    await rig.source.until(lambda: [k for _, k in rig.source.outcomes].count(Kind.DONE) == 203)
    await rig.pool.drain(1)
    assert sorted(rig.begun) == sorted(ids)
    done = [id for id, kind in rig.source.outcomes if kind is Kind.DONE and id in ids]
    assert sorted(done) == sorted(ids)
    assert (most, rig.waiting, len(rig.source.asked_now) > 1) == (3, [], True)
