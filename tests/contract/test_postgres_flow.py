"""Rules of queues and keys over several servers on one PostgreSQL: exact, and in force on all of them."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest
from desk import LOST, OpenStore, expect, ids_of, new
from flowdesk import FlowDesk, rate

import postgres
from jobpipe.core.task import Claim
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import Settled

SERVERS = 3


@pytest.fixture
def url() -> str:
    return postgres.empty_store()


@pytest.fixture
async def desks(open_store: OpenStore, clock: ManualClock) -> list[FlowDesk]:
    """Desks of several servers that know of each other."""
    desks = [FlowDesk(await open_store(), clock) for _ in range(SERVERS)]
    for desk in desks:
        desk.store._s.others = SERVERS - 1  # type: ignore[attr-defined] # as the next sign of life tells
    return desks


async def test_no_more_run_than_allowed_over_all_servers_at_any_moment(desks: list[FlowDesk]) -> None:
    await desks[0].rule(concurrency=3, key_concurrency=1)
    tasks = [new(f"{key}{n}", queue="q", key=key) for key in "abcdefgh" for n in range(15)]
    await desks[0].accept(*tasks)
    running: dict[str, str] = {}
    most = 0
    started: list[str] = []

    def begin(claims: list[Claim]) -> None:
        nonlocal most
        for claim in claims:
            assert claim.task.key not in running.values()
            running[claim.task.id] = claim.task.key or ""
            started.append(claim.task.id)
        most = max(most, len(running))

    async def work(desk: FlowDesk) -> None:
        while len(started) < len(tasks):
            claims = await desk.claim(2)
            begin(claims)
            await asyncio.sleep(0 if claims else 0.005)
            for claim in claims:
                running.pop(claim.task.id)  # before it is told: from then on another may start
                expect(Settled, await desk.settle(claim))

    async with asyncio.timeout(60):
        await asyncio.gather(*(work(desk) for desk in desks for _ in range(2)))
    assert most <= 3
    assert sorted(started) == sorted(task.id for task in tasks)


async def test_a_rule_is_in_force_within_a_second_on_servers_that_knew_of_none(desks: list[FlowDesk]) -> None:
    for desk in desks:
        assert await desk.claim(5) == []
    await desks[0].rule(paused=True)
    await asyncio.sleep(1.0)
    await desks[1].accept("t1", queue="q")
    assert await desks[2].claim(5) == []
    assert await desks[1].claim(5) == []
    await desks[1].store.resume("q", None, desks[1].now, "ann")
    async with asyncio.timeout(1):
        while not (claims := await desks[2].claim(5)):
            await asyncio.sleep(0.005)
    assert ids_of(claims) == ["t1"]


async def test_from_then_on_a_change_holds_everywhere_when_it_is_answered(desks: list[FlowDesk]) -> None:
    await desks[0].rule(concurrency=5)
    await asyncio.sleep(1.0)
    await desks[0].accept(*[f"t{n}" for n in range(9)], queue="q")
    for desk in desks:
        await desk.claim(1)
    await desks[0].rule(concurrency=1)
    assert await desks[1].claim(5) == []
    await desks[2].rule(concurrency=4)
    async with asyncio.timeout(1):
        while not (claims := await desks[1].claim(5)):
            await asyncio.sleep(0.005)
    assert len(claims) == 1
    await desks[0].rule(paused=True)
    await desks[0].rule(concurrency=9)
    assert await desks[2].claim(5) == []


async def test_what_a_killed_server_ran_holds_its_places_until_its_rescue(
    desks: list[FlowDesk], clock: ManualClock
) -> None:
    first, second, _ = desks
    await first.rule(key_concurrency=1)
    await asyncio.sleep(1.0)
    await first.accept(*[new(f"{key}{n}", queue="q", key=key) for key in "ab" for n in range(2)])
    assert len(await first.claim_remote(5, lease_s=5.0)) == 2
    first.store._s.alive_ms = 0  # type: ignore[attr-defined] # nobody hears of it any more
    assert await second.claim(5) == []
    clock.advance(6.0)
    assert await second.claim(5) == []
    for lost in await second.store.lost(10):
        expect(Settled, await second.settle(lost, LOST, rescue=True))
    assert len(await second.claim(5)) == 2
    assert await second.claim(5) == []


async def test_a_place_that_is_freed_on_one_server_is_given_on_another(desks: list[FlowDesk]) -> None:
    first, second, _ = desks
    await first.rule(concurrency=1)
    await asyncio.sleep(1.0)
    await first.accept("t1", "t2", queue="q")
    claim = await first.claim_one()
    assert await second.claim(5) == []
    heard = asyncio.Event()
    second.store.listen(lambda _: heard.set())
    await first.end(claim)
    await asyncio.wait_for(heard.wait(), 2)
    async with asyncio.timeout(2):
        while not (claims := await second.claim(5)):
            await asyncio.sleep(0.005)
    assert ids_of(claims) == ["t2"]


async def test_no_window_holds_more_starts_than_the_rate_over_all_servers(
    desks: list[FlowDesk], clock: ManualClock
) -> None:
    limit, period = 20, 0.5
    await desks[0].rule(rate=rate(limit, period, 1))
    await asyncio.sleep(1.0)
    await desks[0].accept(*[f"t{n}" for n in range(60)], queue="q")
    starts: list[int] = []
    async with asyncio.timeout(60):
        while len(starts) < 60:
            for claims in await asyncio.gather(*(desk.claim(7) for desk in desks)):
                starts.extend(claim.task.started_at or 0 for claim in claims)
            clock.advance(0.007)
    starts.sort()
    for at, start in enumerate(starts):
        assert sum(other < start + period * 1000 for other in starts[at:]) <= limit
    assert starts[-1] - starts[0] >= 59 * period * 1000 / limit


async def test_what_others_queue_by_key_is_found(desks: list[FlowDesk]) -> None:
    first, second, third = desks
    await first.rule(fair=True)
    await asyncio.sleep(1.0)
    await second.accept(*[new(f"a{n}", queue="q", key="a") for n in range(5)])
    await third.accept(new("b0", queue="q", key="b"), new("n0", queue="q"))
    await asyncio.sleep(0.05)
    assert sorted(ids_of(await first.claim(3))) == ["a0", "b0", "n0"]
    claims = await second.claim(10)
    assert ids_of(claims) == ["a1", "a2", "a3", "a4"]


async def test_what_is_held_is_not_looked_at(desks: list[FlowDesk]) -> None:
    """Of 300 keys at their limit none is met by the next claim."""
    first = desks[0]
    await first.rule(key_concurrency=1)
    await first.accept(*[new(f"t{key}-{n}", queue="q", key=str(key)) for key in range(300) for n in range(3)])
    claims = []
    while got := await first.claim(500):
        claims += got
    assert len(claims) == 300
    cluster = postgres.shared_cluster()
    ((open_,),) = await cluster.ask("SELECT count(*) FROM jobpipe.lanes WHERE opens = 0", "manual")
    assert open_ == 0
    await first.end(claims[7])
    await asyncio.sleep(0.03)
    assert ids_of(await first.claim(500)) == [claims[7].task.id.replace("-0", "-1")]


async def test_a_row_that_somebody_has_locked_costs_no_start_and_keeps_its_place(
    desks: list[FlowDesk],
) -> None:
    first = desks[0]
    await first.rule(rate=rate(1, 100.0, 1))
    await first.accept("t1", queue="q")
    cluster = postgres.shared_cluster()
    connection = await asyncpg.connect(cluster.url("manual"))
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM jobpipe.tasks WHERE id = 't1' FOR UPDATE")
            assert await first.claim(5) == []
    finally:
        await connection.close()
    await asyncio.sleep(0.05)
    assert ids_of(await first.claim(5)) == ["t1"]
