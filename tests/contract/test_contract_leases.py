"""extend, lost and next_expiry: how long a claim holds, and who is found gone."""

from __future__ import annotations

import pytest
from desk import DONE, LOST, RELEASED, Desk, expect, ids_of, new, settlement
from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost
from jobpipe.core.task import Claim, Status
from jobpipe.storage.base import Extended, Extension, LostClaim, Settled

DAY = 86_400


async def lost_ids(desk: Desk, limit: int = 100) -> list[str]:
    return [lost.task.id for lost in await desk.store.lost(limit)]


async def leased(desk: Desk, id: str, lease_s: float = 30.0) -> Claim:
    await desk.accept(id)
    (claim,) = await desk.claim_remote(lease_s=lease_s)
    return claim


# --- extend ---


async def test_an_extended_lease_holds_from_now_for_its_new_length(desk: Desk) -> None:
    claim = await leased(desk, "a", 30)
    desk.clock.advance(20)
    answer = expect(Extended, await desk.extend(claim, 30))
    assert (answer.lease_until, answer.cancel_requested) == (desk.now + 30_000, False)
    desk.clock.advance(29)
    assert await lost_ids(desk) == []
    desk.clock.advance(1)
    assert await lost_ids(desk) == ["a"]


async def test_an_extension_can_also_shorten(desk: Desk) -> None:
    claim = await leased(desk, "a", 3600)
    await desk.extend(claim, 5)
    desk.clock.advance(5)
    assert await lost_ids(desk) == ["a"]


async def test_extending_changes_nothing_of_the_task(desk: Desk) -> None:
    claim = await leased(desk, "a")
    await desk.extend(claim)
    assert await desk.get("a") == claim.task


async def test_extending_tells_that_cancelling_was_requested(desk: Desk) -> None:
    claim = await leased(desk, "a")
    await desk.cancel("a")
    assert expect(Extended, await desk.extend(claim)).cancel_requested


async def test_extending_a_claim_without_end_keeps_it_without_end(desk: Desk) -> None:
    claim = await desk.start("a")
    assert await desk.extend(claim, 5) == Extended(None, cancel_requested=False)
    desk.clock.advance(DAY)
    assert await lost_ids(desk) == []
    await desk.cancel("a")
    assert await desk.extend(claim, 5) == Extended(None, cancel_requested=True)


async def test_an_old_lease_extends_nothing(desk: Desk) -> None:
    old = await leased(desk, "a")
    await desk.settle(old, RELEASED)
    expect(LeaseLost, await desk.extend(old))
    (claim,) = await desk.claim_remote(lease_s=5)
    expect(LeaseLost, await desk.extend(old, 3600))
    desk.clock.advance(5)
    assert await lost_ids(desk) == ["a"]
    assert claim.lease_id != old.lease_id


async def test_a_claim_over_its_end_can_be_extended_until_it_is_rescued(desk: Desk) -> None:
    claim = await leased(desk, "a", 5)
    desk.clock.advance(6)
    expect(Extended, await desk.extend(claim, 5))
    assert await lost_ids(desk) == []
    desk.clock.advance(6)
    (lost,) = await desk.store.lost(1)
    await desk.settle(lost, LOST, rescue=True)
    expect(LeaseLost, await desk.extend(claim, 5))


@pytest.mark.parametrize("lease_id", ["", ".", "x.1.1", "1.1.99999999999999999999", "\u0661.\u0661.\u0661"])
async def test_garbage_extends_nothing(desk: Desk, lease_id: str) -> None:
    await leased(desk, "a")
    (answer,) = await desk.store.extend([Extension("a", lease_id, 30)])
    expect(LeaseLost, answer)


async def test_a_batch_of_extensions_is_answered_item_by_item(desk: Desk) -> None:
    a, b = await leased(desk, "a"), await leased(desk, "b")
    wanted = [
        Extension("a", b.lease_id, 60),
        Extension("a", a.lease_id, 60),
        Extension("nobody", a.lease_id, 60),
        Extension("b", b.lease_id, 90),
        Extension("a", a.lease_id, 70),
    ]
    crossed, first, unknown, second, again = await desk.store.extend(wanted)
    expect(LeaseLost, crossed)
    expect(LeaseLost, unknown)
    assert expect(Extended, first).lease_until == desk.now + 60_000
    assert expect(Extended, second).lease_until == desk.now + 90_000
    assert expect(Extended, again).lease_until == desk.now + 70_000
    assert await desk.store.next_expiry() == pytest.approx(70)


# --- lost ---


async def test_a_lease_is_lost_when_its_time_has_passed_and_not_before(desk: Desk) -> None:
    claim = await leased(desk, "a", 30)
    desk.clock.advance(29.999)
    assert await desk.store.lost(10) == []
    desk.clock.advance(0.001)
    (lost,) = await desk.store.lost(10)
    assert lost == LostClaim(claim.task, claim.lease_id, orphaned=False, ran_s=lost.ran_s)
    assert lost.ran_s in (None, 30.0)  # a store without a clock of its own cannot tell


async def test_a_lost_claim_stays_until_it_is_settled_and_is_then_gone(desk: Desk) -> None:
    await leased(desk, "a", 5)
    desk.clock.advance(5)
    (lost,) = await desk.store.lost(10)
    assert await desk.store.lost(10) == [lost]
    assert (await desk.get("a")).status is Status.RUNNING
    assert await desk.settle(lost, LOST, rescue=True) == Settled(Status.QUEUED)
    assert await desk.store.lost(10) == []


async def test_a_holder_that_comes_back_before_the_rescue_still_settles(desk: Desk) -> None:
    claim = await leased(desk, "a", 5)
    desk.clock.advance(50)
    (lost,) = await desk.store.lost(10)
    assert await desk.settle(claim, DONE) == Settled(Status.DONE)
    await desk.settle(lost, LOST, rescue=True)
    assert (await desk.get("a")).status is Status.DONE
    assert await desk.store.lost(10) == []


async def test_the_longest_gone_come_first_and_a_limit_is_kept(desk: Desk) -> None:
    for id_, lease_s in (("c", 30.0), ("a", 10.0), ("d", 40.0), ("b", 20.0)):
        await leased(desk, id_, lease_s)
    desk.clock.advance(35)
    assert await lost_ids(desk, 2) == ["a", "b"]
    assert await lost_ids(desk) == ["a", "b", "c"]


async def test_a_lost_claim_shows_the_task_as_it_is_now(desk: Desk) -> None:
    await leased(desk, "a", 5)
    await desk.cancel("a")
    desk.clock.advance(5)
    (lost,) = await desk.store.lost(1)
    assert lost.task == await desk.get("a")
    assert lost.task.cancel_requested
    assert await desk.settle(lost, LOST, rescue=True) == Settled(Status.CANCELLED)


async def test_claims_without_end_are_never_lost_while_the_process_lives(desk: Desk) -> None:
    await desk.start("a")
    desk.clock.advance(10 * DAY)
    assert await desk.store.lost(10) == []
    assert await desk.store.next_expiry() is None


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_jump_of_the_wall_clock_by_a_day_expires_nothing(desk: Desk, days: int) -> None:
    await leased(desk, "a", 30)
    desk.clock.jump(days * DAY)
    assert await desk.store.lost(10) == []
    assert await desk.store.next_expiry() == pytest.approx(30)
    desk.clock.advance(29.9)
    assert await desk.store.lost(10) == []
    desk.clock.advance(0.2)
    assert await lost_ids(desk) == ["a"]


@pytest.mark.parametrize("days", [-1, 1])
async def test_an_extension_across_a_jump_of_the_wall_clock_gets_its_full_length(
    desk: Desk, days: int
) -> None:
    claim = await leased(desk, "a", 30)
    desk.clock.jump(days * DAY)
    assert expect(Extended, await desk.extend(claim, 30)).lease_until == desk.now + 30_000
    desk.clock.advance(29.9)
    assert await desk.store.lost(10) == []


# --- next_expiry ---


async def test_nothing_expires_in_an_empty_store(desk: Desk) -> None:
    assert await desk.store.next_expiry() is None


async def test_the_next_expiry_is_that_of_the_first_lease_to_end(desk: Desk) -> None:
    a, b = await leased(desk, "a", 30), await leased(desk, "b", 20)
    assert await desk.store.next_expiry() == pytest.approx(20)
    desk.clock.advance(5)
    assert await desk.store.next_expiry() == pytest.approx(15)
    await desk.settle(b)
    assert await desk.store.next_expiry() == pytest.approx(25)
    await desk.extend(a, 100)
    assert await desk.store.next_expiry() == pytest.approx(100)
    await desk.settle(a)
    assert await desk.store.next_expiry() is None


async def test_the_next_expiry_is_zero_while_a_lost_claim_waits_for_its_rescue(desk: Desk) -> None:
    await leased(desk, "a", 5)
    desk.clock.advance(50)
    assert await desk.store.next_expiry() == 0
    (lost,) = await desk.store.lost(1)
    await desk.settle(lost, LOST, rescue=True)
    assert await desk.store.next_expiry() is None


async def test_a_thousand_leases_that_end_together_are_found_slice_by_slice_once_each(desk: Desk) -> None:
    await desk.accept(*(new(f"t{i}") for i in range(1000)))
    await desk.claim_remote(1000, lease_s=30)
    desk.clock.advance(31)
    rescued: list[str] = []
    while lost := await desk.store.lost(130):
        rescued += ids_of(claim.task for claim in lost)
        await desk.write(*(settlement(claim, LOST, desk.now, rescue=True) for claim in lost))
    assert sorted(rescued) == sorted(f"t{i}" for i in range(1000))
    await desk.assert_counts_are_true()


async def test_a_settle_with_a_crossed_lease_keeps_the_lease_alive(desk: Desk) -> None:
    a, b = await leased(desk, "a"), await leased(desk, "b")
    await desk.write(settlement(replace(a, lease_id=b.lease_id), DONE, desk.now))
    expect(Extended, await desk.extend(a))
    expect(Extended, await desk.extend(b))
