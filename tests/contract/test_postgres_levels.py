"""Where a claim looks: what cannot be vacuumed is not walked again and again, and nothing that waits is overlooked."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest
from desk import DONE, RELEASED, Desk, OpenDesk, ids_of, new, settlement

import postgres
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.levels import _END, LATE_MS, NEW

CHURN = 3_000


@pytest.fixture
def url() -> str:
    return postgres.empty_store()


async def churn(desk: Desk, count: int) -> None:
    """So many tasks come, run and end."""
    for at in range(0, count, 500):
        await desk.accept(*(f"c{at + n}" for n in range(500)))
        claims = await desk.claim(500)
        await desk.write(*(settlement(claim, DONE, desk.now) for claim in claims))


async def blocks(floors: dict[str, int]) -> int:
    """Blocks that a look reads which knows these queues, at priority 0."""
    text = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + sql.LEVELS
    connection = await asyncpg.connect(postgres.shared_cluster().url("manual"))
    try:
        await connection.execute("SET enable_seqscan = off")
        queues, times = ["", *floors], [0, *floors.values()]
        plan = await connection.fetchval(text, queues, [0] * len(queues), times, *_END, NEW)
    finally:
        await connection.close()
    top = json.loads(plan)[0]["Plan"]
    return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])


async def test_a_look_does_not_walk_again_over_what_a_snapshot_keeps_from_vacuum(desk: Desk) -> None:
    # Dead rows of other tests' queues lie between; the first look that comes by walks over them.
    await postgres.shared_cluster().ask("VACUUM jobpipe.tasks", "manual")
    holder = await asyncpg.connect(postgres.shared_cluster().url("manual"))
    await holder.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobpipe.tasks")
    try:
        await desk.accept("first")
        before = await blocks({"default": desk.now})
        await desk.claim(1)
        await churn(desk, CHURN)
        desk.clock.advance(1)
        await desk.accept("last")
        # The seeks read a block more each where the index has grown a level, however little is walked over.
        assert await blocks({"default": desk.now}) <= 2 * before
        assert await blocks({}) > before + 30
    finally:
        await holder.close()


async def test_whatever_others_queue_is_found_by_who_has_looked_before(open_desk: OpenDesk) -> None:
    """In queues known and unknown, before, between and after those known; at priorities above and below."""
    one, two = await open_desk(), await open_desk()
    found: list[str] = []
    names = ["m", "c", "t", "m.1", "a", "z", "mm", "c"]
    for n, queue in enumerate(names):
        for priority in (0, 5, -5, 100):
            two.clock.advance(LATE_MS / 1000)
            await two.accept(new(f"{n}-{priority}", queue=queue, priority=priority))
            one.store._s.levels.distrust()  # type: ignore[attr-defined] # as the news of it does
            found += ids_of(await one.claim(10))
    assert found == [f"{n}-{priority}" for n in range(len(names)) for priority in (0, 5, -5, 100)]


async def test_a_future_task_is_found_when_it_is_due_by_who_has_looked_before(open_desk: OpenDesk) -> None:
    one, two = await open_desk(), await open_desk()
    await two.accept(new("later", run_at=two.now + 600_000), new("sooner", run_at=two.now + 100_000))
    for _ in range(3):
        one.store._s.levels.distrust()  # type: ignore[attr-defined]
        assert await one.claim(10) == []
        one.clock.advance(40)
    one.store._s.levels.distrust()  # type: ignore[attr-defined]
    assert ids_of(await one.claim(10)) == ["sooner"]
    one.clock.advance(600)
    one.store._s.levels.distrust()  # type: ignore[attr-defined]
    assert ids_of(await one.claim(10)) == ["later"]


async def test_what_is_given_back_to_an_old_place_is_found_by_all_servers(open_desk: OpenDesk) -> None:
    """A task that ran for longer than a look goes back in time, and was released."""
    one, two = await open_desk(), await open_desk()
    await one.accept(new("later", run_at=one.now + 10**9))  # so that both know the level
    for turn in range(2):
        await one.accept(f"t{turn}")
        claim = await one.claim_one()
        one.clock.advance(2 * LATE_MS / 1000)
        for desk in (one, two):
            desk.store._s.levels.distrust()  # type: ignore[attr-defined]
            assert await desk.claim(1) == []
        await one.settle(claim, RELEASED)
        finder = (one, two)[turn]
        one.store._s.levels.distrust()  # type: ignore[attr-defined]
        async with asyncio.timeout(20):
            while not (found := await finder.claim(1)):
                await asyncio.sleep(0.02)
        assert ids_of(found) == [f"t{turn}"]
        await finder.settle(found[0], DONE)


async def test_a_level_behind_one_that_holds_nothing_any_more_is_not_forgotten(desk: Desk) -> None:
    """A claim reads fewer tasks of later levels, since each of the earlier ones is thought to have one."""
    await desk.claim(1)  # looks at all levels, and from now on knows them
    await desk.accept(*(new(f"gone{n}", queue=f"a{n}") for n in range(3)))
    desk.clock.advance(1)
    await desk.accept(
        *(new(f"t{n}", queue="b") for n in range(9)), *(new(f"u{n}", queue="c") for n in range(3))
    )
    await desk.cancel(*(f"gone{n}" for n in range(3)))
    order = [*(f"t{n}" for n in range(9)), *(f"u{n}" for n in range(3))]
    assert ids_of(await desk.claim(5)) == order[:5]
    assert ids_of(await desk.claim(5)) == order[5:10]
    assert ids_of(await desk.claim(5)) == order[10:]
