"""settle: a transition is written if the claim still holds, and otherwise nothing changes."""

from __future__ import annotations

import asyncio

import pytest
from desk import (
    CANCELLED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LOST,
    RELEASED,
    Desk,
    codes_of,
    expect,
    ids_of,
    new,
    settlement,
)
from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost, NotFound
from jobpipe.core.lifecycle import HANDLER_MISSING, Kind, Outcome
from jobpipe.core.task import Status, TaskError
from jobpipe.storage.base import CancelChanged, Settled, Settlement

MISSING_ERROR = "the workers that took the task have no handler 'h'"

RESULTS = [
    b'"ok"',
    b"null",
    b"1.10",
    b"123456789012345678901234567890",
    rb'"a\u0000b"',
    b"[" * 99 + b"]" * 99,
]


async def test_done_is_stored_with_its_result_and_end(desk: Desk) -> None:
    claim = await desk.start("a", payload=b"[1]")
    desk.clock.advance(2)
    assert await desk.settle(claim, DONE) == Settled(Status.DONE)
    assert await desk.get("a") == replace(
        claim.task, status=Status.DONE, finished_at=desk.now, result=DONE.result
    )


async def test_a_retryable_failure_waits_for_its_time(desk: Desk) -> None:
    claim = await desk.start("a")
    desk.clock.advance(2)
    failed = Outcome(
        Kind.FAILED, error_type="KeyError", message="'\u00e4'\x00\n", traceback="tb", retry_in=5.0
    )
    assert await desk.settle(claim, failed) == Settled(Status.QUEUED)
    assert await desk.get("a") == replace(
        claim.task, status=Status.QUEUED, failures=1, run_at=desk.now + 5000, started_at=None, worker=None,
        last_error=TaskError("KeyError", "'\u00e4'\x00\n", "tb", 1, desk.now),
    )  # fmt: skip
    assert await desk.claim() == []
    desk.clock.advance(5)
    again = await desk.claim_one()
    assert (again.task.attempts, again.task.failures) == (2, 1)
    assert again.task.last_error is not None


async def test_a_final_failure_keeps_worker_start_and_error(desk: Desk) -> None:
    claim = await desk.start("a")
    assert await desk.settle(claim, FAILED_FOR_GOOD) == Settled(Status.FAILED)
    assert await desk.get("a") == replace(
        claim.task, status=Status.FAILED, failures=1, finished_at=desk.now,
        last_error=TaskError("ValueError", "no", None, 1, desk.now),
    )  # fmt: skip


async def test_a_task_whose_handler_is_missing_waits_and_leaves_no_attempt_until_it_fails(desk: Desk) -> None:
    claim = await desk.start("a", max_retries=0)
    first_due = claim.task.run_at
    for pause in (1, 2, 4):
        assert await desk.settle(claim, HANDLER_MISSING) == Settled(Status.QUEUED)
        assert await desk.get("a") == replace(
            claim.task, status=Status.QUEUED, attempts=0, run_at=desk.now + pause * 1000, started_at=None,
            worker=None, last_error=TaskError("unknown_handler", MISSING_ERROR, None, 1, desk.now, first_due),
        )  # fmt: skip
        assert await desk.claim() == []
        desk.clock.advance(pause)
        claim = await desk.claim_one()
        assert claim.task.attempts == 1
    assert await desk.store.attempts("a") == []
    desk.clock.advance(3600)
    assert await desk.settle(claim, HANDLER_MISSING) == Settled(Status.FAILED)
    failed = await desk.get("a")
    assert (failed.attempts, failed.failures, failed.lost) == (0, 0, 0)
    assert failed.last_error == TaskError("unknown_handler", MISSING_ERROR, None, 1, desk.now)
    await desk.store.retry(["a"], desk.now)
    assert await desk.settle(await desk.claim_one(), HANDLER_MISSING) == Settled(Status.QUEUED)


async def test_a_release_takes_the_attempt_back_and_keeps_the_place_of_its_task(desk: Desk) -> None:
    claim = await desk.start("a")
    desk.clock.advance(1)
    assert await desk.settle(claim, RELEASED) == Settled(Status.QUEUED)
    assert await desk.get("a") == replace(
        claim.task, status=Status.QUEUED, attempts=0, started_at=None, worker=None
    )
    await desk.accept(new("b", queue="only-a"))
    assert ids_of(await desk.claim(5)) == ["a", "b"]


async def test_a_run_that_was_asked_to_stop_ends_as_cancelled(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.cancel("a")
    running = await desk.get("a")
    assert await desk.settle(claim, CANCELLED, task=running) == Settled(Status.CANCELLED)
    assert await desk.get("a") == replace(running, status=Status.CANCELLED, finished_at=desk.now)


async def test_success_after_a_failure_keeps_the_last_error(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.settle(claim, Outcome(Kind.FAILED, message="first", retry_in=0.0))
    await desk.settle(await desk.claim_one(), DONE)
    task = await desk.get("a")
    assert (task.status, task.attempts, task.failures) == (Status.DONE, 2, 1)
    assert task.last_error is not None
    assert task.last_error.message == "first"


@pytest.mark.parametrize(
    "outcomes",
    [
        [DONE] * 3,
        [FAILED_FOR_GOOD] * 3,
        [RELEASED] * 3,
        [HANDLER_MISSING] * 3,
        [DONE, FAILED_FOR_GOOD, RELEASED],
    ],
    ids=["done", "failed", "released", "missing", "mixed"],
)
async def test_ends_that_are_alike_and_ends_that_are_not_are_written_as_each_is(
    desk: Desk, outcomes: list[Outcome]
) -> None:
    await desk.accept(*(new(f"t{i}") for i in range(len(outcomes))))
    claims = await desk.claim(len(outcomes))
    decided = [settlement(claim, outcome, desk.now) for claim, outcome in zip(claims, outcomes, strict=True)]
    answers = await desk.write(*decided)
    for claim, settle, answer in zip(claims, decided, answers, strict=True):
        assert settle.transition is not None
        task = await desk.get(claim.task.id)
        assert answer == Settled(settle.transition.status)
        assert (task.status, task.attempts, task.result, task.finished_at) == (
            settle.transition.status, settle.transition.attempts, settle.transition.result,
            settle.transition.finished_at,
        )  # fmt: skip
        assert len(await desk.store.attempts(task.id) or []) == settle.transition.is_attempt
    await desk.assert_counts_are_true()


@pytest.mark.parametrize("result", RESULTS, ids=range(len(RESULTS)))
async def test_a_result_comes_back_byte_for_byte(desk: Desk, result: bytes) -> None:
    await desk.finish("a", Outcome(Kind.DONE, result=result))
    assert (await desk.get("a")).result == result
    assert [task.result for task in await desk.listed()] == [result]


async def test_results_of_one_batch_are_not_mixed_up_with_each_other_or_with_payloads(desk: Desk) -> None:
    results = [b"1", None, b'"two"', None, b"[3]", b"1.10"]
    await desk.accept(*(new(f"t{i}", payload=b'"p%d"' % i) for i in range(len(results))))
    claims = await desk.claim(len(results))
    await desk.write(
        *(
            settlement(claim, Outcome(Kind.DONE, result=result), desk.now)
            for claim, result in zip(claims, results, strict=True)
        )
    )
    tasks = [task for task in await desk.store.get([f"t{i}" for i in range(len(results))]) if task]
    assert [task.result for task in tasks] == results
    assert [task.payload for task in tasks] == [b'"p%d"' % i for i in range(len(results))]


async def test_settles_of_concurrent_calls_are_answered_each_for_itself(desk: Desk) -> None:
    await desk.accept(*(new(f"t{i}") for i in range(40)))
    claims = await desk.claim(40)
    outcomes = [DONE, FAILED, FAILED_FOR_GOOD, RELEASED] * 10
    expected = [Status.DONE, Status.QUEUED, Status.FAILED, Status.QUEUED] * 10
    answers = await asyncio.gather(*map(desk.settle, claims, outcomes))
    assert answers == [Settled(status) for status in expected]
    assert [(await desk.get(f"t{i}")).status for i in range(40)] == expected
    await desk.assert_counts_are_true()


async def test_a_stale_settle_of_the_same_batch_does_not_hold_up_the_one_that_holds(desk: Desk) -> None:
    """As when two workers settle one task at the same moment: each is answered for itself."""
    old = await desk.start("a")
    await desk.settle(old, RELEASED)
    claim = await desk.claim_one()
    stale, holds = settlement(old, FAILED, desk.now), settlement(claim, DONE, desk.now)
    assert codes_of(await desk.write(stale, holds, stale)) == ["lease_lost", "settled", "lease_lost"]
    assert (await desk.get("a")).status is Status.DONE
    await desk.assert_counts_are_true()


async def test_settles_of_one_claim_in_one_batch_are_answered_one_after_the_other(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.cancel("a")
    unaware = settlement(claim, FAILED, desk.now)
    aware = settlement(claim, FAILED, desk.now, task=await desk.get("a"))
    asking = Settlement("a", claim.lease_id, None)
    answers = await desk.write(unaware, aware, unaware, asking)
    again = Settled(Status.CANCELLED, repeated=True)
    assert answers == [CancelChanged(), Settled(Status.CANCELLED), again, again]
    await desk.assert_counts_are_true()


# --- claims that do not hold ---


@pytest.mark.parametrize("outcome", [FAILED, RELEASED, LOST])
async def test_settle_with_an_old_lease_changes_nothing(desk: Desk, outcome: Outcome) -> None:
    old = await desk.start("a")
    await desk.settle(old, outcome)
    desk.clock.advance(60)
    claim = await desk.claim_one()
    for late in (DONE, FAILED, RELEASED):
        expect(LeaseLost, await desk.settle(old, late))
    assert await desk.get("a") == claim.task
    assert await desk.settle(claim, DONE) == Settled(Status.DONE)


async def test_settle_with_the_lease_of_another_task_changes_nothing(desk: Desk) -> None:
    a, b = await desk.start("a"), await desk.start("b")
    crossed = settlement(replace(a, lease_id=b.lease_id), DONE, desk.now)
    expect(LeaseLost, *await desk.write(crossed))
    assert [await desk.get("a"), await desk.get("b")] == [a.task, b.task]


async def test_settle_of_an_unknown_id_with_a_lease_that_holds_changes_nothing(desk: Desk) -> None:
    claim = await desk.start("a")
    to = settlement(claim, DONE, desk.now)
    expect(NotFound, *await desk.write(replace(to, id="nobody")))
    assert await desk.get("a") == claim.task


GARBAGE = [
    "", ".", "..", "1", "0.0.0", "-1", "a.b.c", "\u0661.\u0661.\u0661", "\u00b2", "x" * 10_000, "1" * 30,
    "' OR 1=1 --", "\u00e4\U0001f600", "null", "9.9.9223372036854775807", "9.9.9223372036854775808", "1.1.1e0",
    "1.1. 1", "1.1.+1", "1.1.1_0", "%", "1.1.0x1",
]  # fmt: skip


async def test_settle_with_a_garbage_lease_is_lost_and_changes_nothing(desk: Desk) -> None:
    claim = await desk.start("a")
    to = settlement(claim, DONE, desk.now)
    for lease_id in GARBAGE:
        expect(LeaseLost, *await desk.write(replace(to, lease_id=lease_id)))
        expect(NotFound, *await desk.write(replace(to, id="nobody", lease_id=lease_id)))
    assert await desk.get("a") == claim.task
    assert await desk.settle(claim) == Settled(Status.DONE)


async def test_a_lease_with_anything_added_or_cut_does_not_hold(desk: Desk) -> None:
    claim = await desk.start("a")
    to = settlement(claim, DONE, desk.now)
    for wrong in (f" {claim.lease_id}", f"{claim.lease_id} ", f"{claim.lease_id}0", claim.lease_id[1:]):
        expect(LeaseLost, *await desk.write(replace(to, lease_id=wrong)))
    expect(LeaseLost, *await desk.write(replace(to, lease_id=claim.lease_id.upper() + ".1")))
    assert await desk.get("a") == claim.task


@pytest.mark.parametrize("status", [Status.QUEUED, Status.DONE, Status.FAILED, Status.CANCELLED])
async def test_a_task_that_does_not_run_takes_no_settle_of_a_stranger(desk: Desk, status: Status) -> None:
    claim = await desk.start("a")
    if status is Status.CANCELLED:
        await desk.settle(claim, RELEASED)
        await desk.cancel("a")
    else:
        outcome = {Status.QUEUED: FAILED, Status.DONE: DONE, Status.FAILED: FAILED_FOR_GOOD}[status]
        await desk.settle(claim, outcome)
    before = await desk.get("a")
    assert before.status is status
    expect(LeaseLost, await desk.settle(replace(claim, lease_id="dead.1.1"), DONE))
    assert await desk.get("a") == before


async def test_settle_after_delete_is_not_found(desk: Desk) -> None:
    claim = await desk.finish("a")
    await desk.delete("a")
    expect(NotFound, await desk.settle(claim, DONE))


async def test_settle_after_prune_is_not_found(desk: Desk) -> None:
    claim = await desk.finish("a")
    assert await desk.store.prune(desk.now + 1, None, 10) == 1
    expect(NotFound, await desk.settle(claim, DONE))


async def test_settle_after_delete_does_not_touch_a_new_task_of_the_same_id(desk: Desk) -> None:
    old = await desk.finish("a")
    await desk.delete("a")
    claim = await desk.start("a")
    expect(LeaseLost, await desk.settle(old, FAILED))
    assert await desk.get("a") == claim.task


# --- the same settle again ---


@pytest.mark.parametrize("outcome", [DONE, FAILED, FAILED_FOR_GOOD, RELEASED, LOST])
async def test_the_same_settle_twice_gets_the_same_answer_and_counts_once(
    desk: Desk, outcome: Outcome
) -> None:
    claim = await desk.start("a")
    first = expect(Settled, await desk.settle(claim, outcome))
    before = await desk.get("a")
    desk.clock.advance(1)
    for _ in range(3):
        again = expect(Settled, await desk.settle(claim, outcome))
        assert (again.status, again.repeated) == (first.status, True)
    assert await desk.get("a") == before
    await desk.assert_counts_are_true()


async def test_another_outcome_for_a_settled_claim_gets_the_answer_of_the_first(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.settle(claim, DONE)
    before = await desk.get("a")
    assert await desk.settle(claim, FAILED) == Settled(Status.DONE, repeated=True)
    assert await desk.get("a") == before


async def test_the_same_settle_twice_in_one_batch_is_written_once_and_answered_twice(desk: Desk) -> None:
    claim = await desk.start("a")
    to = settlement(claim, FAILED, desk.now)
    first, second = await desk.write(to, to)
    assert first == Settled(Status.QUEUED)
    assert second == Settled(Status.QUEUED, repeated=True)
    assert (await desk.get("a")).failures == 1
    await desk.assert_counts_are_true()


async def test_the_same_settle_sent_by_many_at_once_is_written_once_and_answered_to_all(desk: Desk) -> None:
    claims = [await desk.start("a"), await desk.start("b")]
    answers = await asyncio.gather(*(desk.settle(claims[i % 2], DONE) for i in range(20)))
    assert {expect(Settled, answer).status for answer in answers} == {Status.DONE}
    assert sum(not expect(Settled, answer).repeated for answer in answers) == 2
    await desk.assert_counts_are_true()


async def test_asking_for_an_earlier_answer_writes_nothing(desk: Desk) -> None:
    claim = await desk.start("a")
    asking = Settlement("a", claim.lease_id, None)
    assert not isinstance((await desk.write(asking))[0], Settled)
    assert await desk.get("a") == claim.task
    await desk.settle(claim, DONE)
    assert await desk.write(asking) == [Settled(Status.DONE, repeated=True)]


async def test_a_settled_claim_is_lost_once_the_task_is_claimed_again(desk: Desk) -> None:
    old = await desk.start("a")
    await desk.settle(old, RELEASED)
    assert await desk.settle(old, RELEASED) == Settled(Status.QUEUED, repeated=True)
    await desk.claim_one()
    expect(LeaseLost, await desk.settle(old, RELEASED))


async def test_a_settled_claim_keeps_its_answer_when_people_queue_the_task_again(desk: Desk) -> None:
    old = await desk.finish("a", FAILED_FOR_GOOD)
    await desk.retry("a")
    assert await desk.settle(old, FAILED_FOR_GOOD) == Settled(Status.FAILED, repeated=True)
    assert (await desk.get("a")).status is Status.QUEUED


async def test_a_rescued_claims_holder_learns_that_it_lost(desk: Desk) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote()
    assert await desk.settle(claim, LOST, rescue=True) == Settled(Status.QUEUED)
    for outcome in (DONE, LOST):
        expect(LeaseLost, await desk.settle(claim, outcome))
    task = await desk.get("a")
    assert (task.status, task.lost) == (Status.QUEUED, 1)


async def test_a_rescue_that_comes_after_the_settle_changes_nothing(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.settle(claim, DONE)
    before = await desk.get("a")
    await desk.settle(claim, LOST, rescue=True)
    assert await desk.get("a") == before
    assert await desk.settle(claim, DONE) == Settled(Status.DONE, repeated=True)


async def test_a_settle_and_a_rescue_at_once_are_written_once(desk: Desk) -> None:
    for i in range(10):
        claim = await desk.start(f"t{i}")
        await asyncio.gather(desk.settle(claim, DONE), desk.settle(claim, LOST, rescue=True))
        task = await desk.get(f"t{i}")
        assert (task.status, task.lost) in [(Status.DONE, 0), (Status.QUEUED, 1)]
        await desk.assert_counts_are_true()


# --- the cancel flag ---


async def test_a_settle_decided_before_a_cancel_is_not_written(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.cancel("a")
    running = await desk.get("a")
    for outcome in (DONE, FAILED, RELEASED):
        assert await desk.settle(claim, outcome) == CancelChanged()
    assert await desk.get("a") == running
    assert await desk.settle(claim, DONE, task=running) == Settled(Status.DONE)


async def test_a_settle_decided_with_a_cancel_that_nobody_asked_for_is_not_written(desk: Desk) -> None:
    claim = await desk.start("a")
    imagined = replace(claim.task, cancel_requested=True)
    assert await desk.settle(claim, CANCELLED, task=imagined) == CancelChanged()
    assert await desk.get("a") == claim.task


async def test_a_changed_flag_fails_no_neighbour_of_the_batch(desk: Desk) -> None:
    a, b, c = [await desk.start(id_) for id_ in "abc"]
    await desk.cancel("b")
    answers = await desk.write(*(settlement(claim, DONE, desk.now) for claim in (a, b, c)))
    assert answers == [Settled(Status.DONE), CancelChanged(), Settled(Status.DONE)]


async def test_a_batch_is_answered_in_order_whatever_becomes_of_each_item(desk: Desk) -> None:
    good, cancelled, old = [await desk.start(id_) for id_ in ("good", "cancelled", "old")]
    await desk.cancel("cancelled")
    await desk.settle(old, RELEASED)
    repeated = settlement(old, RELEASED, desk.now)
    unknown = replace(repeated, id="unknown")
    stale = replace(repeated, lease_id="a.1.1")
    answers = await desk.write(
        unknown, settlement(cancelled, DONE, desk.now), stale, settlement(good, DONE, desk.now), repeated
    )
    assert codes_of(answers) == ["not_found", "cancelchanged", "lease_lost", "settled", "settled"]


async def test_an_empty_batch_is_answered_with_nothing(desk: Desk) -> None:
    assert await desk.write() == []


async def test_a_cancel_and_a_settle_at_once_leave_one_of_the_two_orders(desk: Desk) -> None:
    for i in range(20):
        claim = await desk.start(f"t{i}")
        settled, (cancelled,) = await asyncio.gather(desk.settle(claim, DONE), desk.cancel(f"t{i}"))
        task = await desk.get(f"t{i}")
        if settled == Settled(Status.DONE):
            assert (codes_of([cancelled]), task.status) == (["already_finished"], Status.DONE)
        else:
            assert (settled, task.status, task.cancel_requested) == (CancelChanged(), Status.RUNNING, True)
