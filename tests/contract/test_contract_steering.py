"""cancel, retry and delete: what people ask of tasks, each id answered for itself, in order."""

from __future__ import annotations

import asyncio

import pytest
from desk import (
    CANCELLED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LOST,
    Desk,
    OpenDesk,
    codes_of,
    expect,
    expect_all,
    ids_of,
    new,
)
from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Status, Task
from jobpipe.storage.base import Cancelled, Settled


async def in_every_status(desk: Desk) -> dict[Status, str]:
    """One task in each status, named after it."""
    await desk.finish("done", DONE)
    await desk.finish("failed", FAILED_FOR_GOOD)
    await desk.start("running")
    await desk.accept("cancelled", "queued", queue="waiting")
    await desk.cancel("cancelled")
    return {status: str(status) for status in Status}


# --- cancel ---


async def test_a_queued_task_is_cancelled_at_once(desk: Desk) -> None:
    (task,) = await desk.accept("a")
    desk.clock.advance(1)
    (answer,) = await desk.cancel("a")
    assert answer == Cancelled(replace(task, status=Status.CANCELLED, finished_at=desk.now))
    assert await desk.get("a") == expect(Cancelled, answer).task
    assert await desk.claim(10) == []


async def test_a_task_of_the_future_and_one_that_waits_for_its_retry_can_be_cancelled(desk: Desk) -> None:
    await desk.settle(await desk.start("b"), FAILED)
    await desk.accept(new("a", run_at=desk.now + 10**9))
    assert codes_of(await desk.cancel("a", "b")) == ["cancelled", "cancelled"]
    task = await desk.get("b")
    assert (task.status, task.attempts, task.failures) == (Status.CANCELLED, 1, 1)
    desk.clock.advance(10**7)
    assert await desk.claim(10) == []


async def test_a_running_task_is_marked_and_its_lease_is_told(desk: Desk) -> None:
    claim = await desk.start("a")
    (answer,) = await desk.cancel("a")
    assert answer == Cancelled(replace(claim.task, cancel_requested=True), claim.lease_id)
    assert await desk.get("a") == expect(Cancelled, answer).task


async def test_a_running_task_can_be_cancelled_again_with_the_same_answer(desk: Desk) -> None:
    await desk.start("a")
    assert await desk.cancel("a") == await desk.cancel("a")


async def test_cancel_answers_each_status_in_the_order_asked(desk: Desk) -> None:
    await in_every_status(desk)
    answers = await desk.cancel("failed", "queued", "nobody", "done", "running", "cancelled")
    assert codes_of(answers) == [
        "already_finished", "cancelled", "not_found", "already_finished", "cancelled", "already_finished",
    ]  # fmt: skip
    await desk.assert_counts_are_true()


async def test_an_id_that_comes_twice_in_a_cancel_is_met_as_the_first_left_it(desk: Desk) -> None:
    await desk.accept("q")
    claim = await desk.start("r")
    answers = await desk.cancel("q", "r", "q", "r", "q")
    assert codes_of(answers) == [
        "cancelled",
        "cancelled",
        "already_finished",
        "cancelled",
        "already_finished",
    ]
    assert expect(Cancelled, answers[3]).lease_id == claim.lease_id
    await desk.assert_counts_are_true()


async def test_a_cancelled_task_leaves_its_place_in_the_queue(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1)
    await desk.accept("a")
    await desk.cancel("a")
    assert codes_of(await desk.insert("b")) == ["task"]


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.TIMED_OUT, Kind.RELEASED, Kind.LOST, Kind.CANCELLED])
async def test_a_running_task_that_was_cancelled_ends_so_whatever_its_run_comes_to(
    desk: Desk, kind: Kind
) -> None:
    claim = await desk.start("a")
    await desk.cancel("a")
    assert await desk.settle(claim, Outcome(kind), task=await desk.get("a")) == Settled(Status.CANCELLED)
    task = await desk.get("a")
    assert (task.attempts, task.failures, task.lost, task.cancel_requested) == (1, 0, 0, True)


async def test_claim_and_cancel_at_once_leave_one_of_the_two_orders(desk: Desk) -> None:
    for i in range(20):
        await desk.accept(f"t{i}")
        claims, (cancelled,) = await asyncio.gather(desk.claim(), desk.cancel(f"t{i}"))
        lease_id = expect(Cancelled, cancelled).lease_id
        assert lease_id == (claims[0].lease_id if claims else None)
        assert (await desk.get(f"t{i}")).status is (Status.RUNNING if claims else Status.CANCELLED)


# --- retry ---


@pytest.mark.parametrize("how", ["failed", "cancelled queued", "cancelled running"])
async def test_a_retried_task_begins_anew_and_keeps_its_place_and_last_error(desk: Desk, how: str) -> None:
    claim = await desk.start("a", max_retries=1)
    await desk.settle(claim, FAILED)
    desk.clock.advance(60)
    if how == "cancelled queued":
        await desk.cancel("a")
    else:
        claim = await desk.claim_one()
        if how == "failed":
            await desk.settle(claim, FAILED)
        else:
            await desk.cancel("a")
            await desk.settle(claim, CANCELLED, task=await desk.get("a"))
    ended = await desk.get("a")
    assert ended.finished
    desk.clock.advance(5)
    (task,) = await desk.retry("a")
    assert task == await desk.get("a")
    assert task == replace(
        ended, status=Status.QUEUED, attempts=0, failures=0, lost=0, run_at=desk.now, started_at=None,
        finished_at=None, cancel_requested=False, worker=None, result=None,
    )  # fmt: skip
    assert task.last_error is not None
    again = await desk.claim_one()
    assert (again.task.attempts, again.task.failures) == (1, 0)
    await desk.assert_counts_are_true()


async def test_retry_answers_each_status_in_the_order_asked(desk: Desk) -> None:
    await in_every_status(desk)
    answers = await desk.retry("running", "failed", "nobody", "queued", "cancelled", "done")
    assert codes_of(answers) == [
        "not_retryable",
        "task",
        "not_found",
        "not_retryable",
        "task",
        "not_retryable",
    ]
    assert sorted(ids_of(await desk.claim(10))) == ["cancelled", "failed", "queued"]
    await desk.assert_counts_are_true()


async def test_an_id_that_comes_twice_in_a_retry_is_queued_once(desk: Desk) -> None:
    await desk.finish("a", FAILED_FOR_GOOD)
    assert codes_of(await desk.retry("a", "a", "a")) == ["task", "not_retryable", "not_retryable"]
    assert ids_of(await desk.claim(10)) == ["a"]
    await desk.assert_counts_are_true()


async def test_a_retry_is_never_refused_for_fullness(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1, max_queues=1)
    await desk.finish("a", FAILED_FOR_GOOD, max_retries=0)
    await desk.accept("b", queue="only-a")
    assert codes_of(await desk.retry("a")) == ["task"]
    assert (await desk.store.counts())[Status.QUEUED] == 2
    assert codes_of(await desk.insert("c", queue="only-a")) == ["queue_full"]


async def test_settles_and_losses_are_never_refused_for_fullness(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1)
    for i, outcome in enumerate((FAILED, LOST, Outcome(Kind.RELEASED))):
        await desk.accept(new(f"t{i}", queue=f"q{i}"))
        claim = await desk.claim_one(queues=[f"q{i}"])
        await desk.accept(new(f"u{i}", queue=f"q{i}"))
        assert await desk.settle(claim, outcome) == Settled(Status.QUEUED)
    assert (await desk.store.counts())[Status.QUEUED] == 6


async def test_the_lease_of_before_a_retry_settles_nothing_after_the_next_claim(desk: Desk) -> None:
    old = await desk.finish("a", FAILED_FOR_GOOD)
    await desk.retry("a")
    claim = await desk.claim_one()
    expect(LeaseLost, await desk.settle(old, DONE))
    assert await desk.get("a") == claim.task


async def test_a_retried_task_keeps_its_order_of_acceptance(desk: Desk) -> None:
    await desk.finish("a", FAILED_FOR_GOOD)
    await desk.accept("b", queue="only-a")
    await desk.retry("a")
    assert ids_of(await desk.claim(2)) == ["a", "b"]


# --- delete ---


async def test_delete_answers_what_the_task_was_and_forgets_it(desk: Desk) -> None:
    await desk.finish("a", payload=b"[1.10]")
    was = await desk.get("a")
    assert await desk.delete("a") == [was]
    assert await desk.store.get(["a"]) == [None]
    assert await desk.listed() == []
    assert codes_of(await desk.delete("a")) == ["not_found"]


async def test_delete_answers_each_status_in_the_order_asked(desk: Desk) -> None:
    await in_every_status(desk)
    answers = await desk.delete("running", "failed", "nobody", "queued", "cancelled", "done")
    assert codes_of(answers) == ["not_finished", "task", "not_found", "not_finished", "task", "task"]
    assert sorted(ids_of(await desk.listed())) == ["queued", "running"]
    await desk.assert_counts_are_true()


async def test_an_id_that_comes_twice_in_a_delete_is_not_found_the_second_time(desk: Desk) -> None:
    await desk.finish("a")
    await desk.accept("b")
    assert codes_of(await desk.delete("a", "b", "a", "b")) == [
        "task",
        "not_finished",
        "not_found",
        "not_finished",
    ]
    await desk.assert_counts_are_true()


async def test_a_deleted_id_is_free(desk: Desk) -> None:
    await desk.finish("a")
    await desk.delete("a")
    (task,) = expect_all(Task, await desk.insert("a"))
    assert (task.status, task.attempts) == (Status.QUEUED, 0)


async def test_concurrent_verbs_on_the_same_tasks_leave_true_counts(desk: Desk) -> None:
    for i in range(10):
        await desk.finish(f"f{i}", FAILED_FOR_GOOD)
    ids = [f"f{i}" for i in range(10)]
    retried, deleted, cancelled = await asyncio.gather(desk.retry(*ids), desk.delete(*ids), desk.cancel(*ids))
    for i, id_ in enumerate(ids):
        (task,) = await desk.store.get([id_])
        assert (task is None) == isinstance(deleted[i], Task)
        assert (task is not None) or not isinstance(retried[i], Task) or isinstance(cancelled[i], Cancelled)
    await desk.assert_counts_are_true()


async def test_get_answers_every_id_in_order_twice_if_asked_twice(desk: Desk) -> None:
    a, b = await desk.accept("a", "b")
    assert await desk.store.get(["b", "x", "a", "b"]) == [b, None, a, b]
    assert await desk.store.get([]) == []


@pytest.mark.parametrize("verb", ["cancel", "retry", "delete"])
async def test_an_empty_list_of_ids_is_answered_with_nothing(desk: Desk, verb: str) -> None:
    assert await getattr(desk, verb)() == []
