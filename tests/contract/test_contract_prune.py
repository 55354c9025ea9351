"""prune: finished tasks older than asked for are deleted, and nothing else."""

from __future__ import annotations

import pytest
from desk import DONE, FAILED, FAILED_FOR_GOOD, Desk, ids_of, new

from jobpipe.core.task import Status


async def one_of_each(desk: Desk, suffix: str = "") -> None:
    await desk.finish(f"done{suffix}", DONE)
    await desk.finish(f"failed{suffix}", FAILED_FOR_GOOD)
    await desk.accept(new(f"cancelled{suffix}", queue="cancelled"))
    await desk.cancel(f"cancelled{suffix}")


async def left(desk: Desk) -> list[str]:
    return sorted(ids_of(await desk.listed()))


async def test_each_kind_has_its_own_time(desk: Desk) -> None:
    await one_of_each(desk)
    assert await desk.store.prune(desk.now, desk.now, 100) == 0  # finished at that time is not before it
    assert await desk.store.prune(desk.now + 1, None, 100) == 2
    assert await left(desk) == ["failed"]
    assert await desk.store.prune(None, desk.now + 1, 100) == 1
    assert await left(desk) == []
    await desk.assert_counts_are_true()


async def test_none_keeps_all_of_a_kind_however_old(desk: Desk) -> None:
    await one_of_each(desk)
    desk.clock.advance(10**9)
    assert await desk.store.prune(None, None, 100) == 0
    assert len(await left(desk)) == 3


async def test_only_those_finished_before_the_time_go(desk: Desk) -> None:
    await one_of_each(desk, "-old")
    desk.clock.advance(10)
    await one_of_each(desk, "-new")
    assert await desk.store.prune(desk.now, desk.now, 100) == 3
    assert await left(desk) == ["cancelled-new", "done-new", "failed-new"]


async def test_waiting_and_running_tasks_are_never_pruned(desk: Desk) -> None:
    await desk.accept("queued")
    await desk.settle(await desk.start("retrying"), FAILED)
    await desk.start("running")
    await desk.start("cancelling")
    await desk.cancel("cancelling")
    assert await desk.store.prune(2**62, 2**62, 100) == 0
    assert len(await left(desk)) == 4


async def test_a_task_retried_after_its_end_is_not_pruned_for_that_end(desk: Desk) -> None:
    await desk.finish("a", FAILED_FOR_GOOD)
    await desk.retry("a")
    assert await desk.store.prune(2**62, 2**62, 100) == 0
    assert await desk.store.next_prunable() == (None, None)


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_the_limit_bounds_one_call_and_repeating_ends(desk: Desk, limit: int) -> None:
    for i in range(3):
        await one_of_each(desk, str(i))
    desk.clock.advance(1)
    slices: list[int] = []
    while pruned := await desk.store.prune(desk.now, desk.now, limit):
        slices.append(pruned)
        await desk.assert_counts_are_true()
    assert sum(slices) == 9
    assert set(slices[:-1]) <= {limit}
    assert await left(desk) == []


async def test_the_oldest_of_a_kind_go_first(desk: Desk) -> None:
    await desk.accept("c", "a", "b")
    claims = {claim.task.id: claim for claim in await desk.claim(3)}
    for id_ in "abc":
        await desk.settle(claims[id_], DONE)
        desk.clock.advance(1)
    assert await desk.store.prune(desk.now, None, 2) == 2
    assert await left(desk) == ["c"]


async def test_a_pruned_id_is_free(desk: Desk) -> None:
    await desk.finish("a")
    await desk.store.prune(desk.now + 1, None, 10)
    assert await desk.store.get(["a"]) == [None]
    (task,) = await desk.accept("a")
    assert task.status is Status.QUEUED


async def test_next_prunable_is_the_end_of_the_oldest_of_each_kind(desk: Desk) -> None:
    assert await desk.store.next_prunable() == (None, None)
    start = desk.now
    await desk.accept("a")
    await desk.cancel("a")
    assert await desk.store.next_prunable() == (start, None)
    desk.clock.advance(1)
    await desk.finish("b", DONE)
    await desk.finish("c", FAILED_FOR_GOOD)
    assert await desk.store.next_prunable() == (start, start + 1000)
    await desk.delete("a")
    assert await desk.store.next_prunable() == (start + 1000, start + 1000)
    await desk.delete("b", "c")
    assert await desk.store.next_prunable() == (None, None)
