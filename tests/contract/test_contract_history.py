"""attempts, error groups and summaries: what is kept of the past, and for how long."""

from __future__ import annotations

import pytest
from desk import (
    CANCELLED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LOST,
    RELEASED,
    Desk,
    OpenDesk,
    codes_of,
    ids_of,
    new,
    settlement,
)

from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.shape import error_group
from jobpipe.core.task import Attempt, Claim, Status, TaskError
from jobpipe.storage.base import MAX_ATTEMPTS, Summary, TaskFilter

TIMED_OUT = Outcome(Kind.TIMED_OUT, message="too slow", traceback="at line 1")


async def history(desk: Desk, id: str) -> list[tuple[int, str]]:
    attempts = await desk.store.attempts(id)
    assert attempts is not None
    return [(attempt.attempt, attempt.outcome) for attempt in attempts]


async def claim_again(desk: Desk, id: str, worker: str = "w") -> Claim:
    """Claim a task of `desk.start` that waits for its retry."""
    desk.clock.advance(3600)
    return await desk.claim_one(queues=[f"only-{id}"], worker=worker)


# --- attempts -----------------------------------------------------------------------------------------------------


async def test_an_unsuccessful_run_leaves_when_and_where_it_ran_and_why_it_ended(desk: Desk) -> None:
    started = desk.now
    claim = await desk.start("a")
    desk.clock.advance(2.5)
    await desk.settle(claim, TIMED_OUT)
    error = TaskError("timed_out", "too slow", "at line 1", 1, desk.now)
    assert await desk.store.attempts("a") == [Attempt(1, "timed_out", started, desk.now, "w", error)]
    assert (await desk.get("a")).last_error == error


async def test_the_attempts_of_a_task_are_told_oldest_first_the_running_one_is_none(desk: Desk) -> None:
    await desk.settle(await desk.start("a"), FAILED)
    await desk.settle(await claim_again(desk, "a"), TIMED_OUT)
    await desk.settle(await claim_again(desk, "a"), LOST, rescue=True)
    await claim_again(desk, "a")
    assert await history(desk, "a") == [(1, "failed"), (2, "timed_out"), (3, "lost")]


async def test_a_successful_run_leaves_nothing_but_what_stands_in_its_task(desk: Desk) -> None:
    await desk.finish("a", DONE)
    assert await desk.store.attempts("a") == []
    await desk.settle(await desk.start("b"), FAILED)
    await desk.settle(await claim_again(desk, "b", worker="other"), DONE)
    assert await history(desk, "b") == [(1, "failed")]


async def test_a_released_run_is_kept_although_its_attempt_is_taken_back(desk: Desk) -> None:
    await desk.settle(await desk.start("a"), RELEASED)
    await desk.settle(await claim_again(desk, "a"), FAILED)
    attempts = await desk.store.attempts("a")
    assert attempts is not None
    assert [(kept.attempt, kept.outcome, kept.error is None) for kept in attempts] == [
        (1, "released", True),
        (1, "failed", False),
    ]


@pytest.mark.parametrize("outcome", [CANCELLED, FAILED, RELEASED, LOST, TIMED_OUT], ids=lambda o: o.kind)
async def test_a_run_that_was_asked_to_cancel_is_kept_as_cancelled_whatever_became_of_it(
    desk: Desk, outcome: Outcome
) -> None:
    claim = await desk.start("a")
    await desk.cancel("a")
    await desk.settle(claim, outcome, task=await desk.get("a"))
    (attempt,) = await desk.store.attempts("a") or []
    assert (attempt.attempt, attempt.outcome, attempt.error) == (1, "cancelled", None)
    assert attempt.started_at == claim.task.started_at


async def test_a_task_that_never_ran_has_no_attempts_and_an_unknown_one_has_no_history(desk: Desk) -> None:
    await desk.accept("a")
    await desk.cancel("a")
    assert await desk.store.attempts("a") == []
    assert await desk.store.attempts("b") is None


async def test_a_settle_that_changes_nothing_leaves_no_attempt(desk: Desk) -> None:
    claim = await desk.start("a")
    to = settlement(claim, FAILED, desk.now)
    await desk.write(to)
    await desk.write(to)  # the same again
    again = await claim_again(desk, "a")
    await desk.settle(claim, FAILED)  # an old lease
    await desk.cancel("a")
    await desk.settle(again, FAILED)  # decided before the cancel
    assert await history(desk, "a") == [(1, "failed")]


async def test_a_batch_leaves_an_attempt_for_each_unsuccessful_run_of_it(desk: Desk) -> None:
    outcomes = [DONE, FAILED, DONE, FAILED_FOR_GOOD, RELEASED]
    claims = [await desk.start(f"t{i}") for i in range(len(outcomes))]
    await desk.write(*(settlement(c, o, desk.now) for c, o in zip(claims, outcomes, strict=True)))
    kept = [await history(desk, f"t{i}") for i in range(len(outcomes))]
    assert kept == [[], [(1, "failed")], [], [(1, "failed")], [(1, "released")]]


async def test_history_outlives_a_retry_by_hand(desk: Desk) -> None:
    await desk.finish("a", FAILED_FOR_GOOD)
    await desk.retry("a")
    assert await history(desk, "a") == [(1, "failed")]
    await desk.settle(await claim_again(desk, "a"), FAILED)
    assert await history(desk, "a") == [(1, "failed"), (1, "failed")]


async def test_history_goes_with_its_task(desk: Desk) -> None:
    for id in ("a", "b", "c"):
        await desk.finish(id, FAILED_FOR_GOOD)
        desk.clock.advance(1)
    assert codes_of(await desk.delete("a")) == ["task"]
    assert await desk.store.prune(None, desk.now - 1000, 10) == 1
    assert [await desk.store.attempts(id) for id in ("a", "b")] == [None, None]
    assert await history(desk, "c") == [(1, "failed")]
    await desk.accept("a", "b")
    assert [await desk.store.attempts(id) for id in ("a", "b")] == [[], []]


async def test_a_new_task_never_inherits_the_history_of_a_deleted_one(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    await desk.finish("newest", FAILED_FOR_GOOD)
    await desk.delete("newest")
    await desk.store.close()
    again = await open_desk()
    try:
        await again.accept("another")  # a store may give it the place in the order that is free again
        assert await again.store.attempts("another") == []
    finally:
        await again.store.close()


async def test_only_the_newest_thousand_attempts_of_a_task_are_kept(desk: Desk) -> None:
    claim = await desk.start("a")
    for _ in range(MAX_ATTEMPTS + 5):
        desk.clock.advance(1)
        await desk.settle(claim, RELEASED)
        claim = await desk.claim_one()
    attempts = await desk.store.attempts("a")
    assert attempts is not None
    assert len(attempts) == MAX_ATTEMPTS
    assert attempts[-1].ended_at == desk.now
    assert [kept.ended_at for kept in attempts] == sorted({kept.ended_at for kept in attempts})


# --- groups of errors -----------------------------------------------------------------------------------------------


def failed(message: str, **fields: object) -> Outcome:
    return Outcome(Kind.FAILED, error_type="ValueError", message=message, retryable=False, **fields)  # type: ignore[arg-type]


async def in_group(desk: Desk, group: str, **conditions: object) -> list[str]:
    return ids_of(await desk.listed(TaskFilter(error_group=group, **conditions)))  # type: ignore[arg-type]


async def test_tasks_that_failed_alike_are_found_by_their_group(desk: Desk) -> None:
    await desk.finish("a", failed("user 1 not found"))
    await desk.finish("b", failed("user 22 not found"))
    await desk.finish("c", failed("disk full"))
    await desk.finish("d", failed("user 1 not found"), handler="another")
    await desk.finish("e")
    group, _ = error_group("h", "ValueError", "user 3 not found")
    assert await in_group(desk, group) == ["b", "a"]
    matches = await desk.store.match(TaskFilter(error_group=group, status=Status.FAILED), 1, None)
    assert matches.ids == ["b"]
    assert matches.next_seq is not None


async def test_a_task_is_in_the_group_of_its_last_error_as_long_as_it_has_that(desk: Desk) -> None:
    one, _ = error_group("h", "ValueError", "one")
    two, _ = error_group("h", "ValueError", "two")
    await desk.settle(await desk.start("a"), Outcome(Kind.FAILED, error_type="ValueError", message="one"))
    await desk.settle(await claim_again(desk, "a"), RELEASED)
    assert await in_group(desk, one) == ["a"]
    await desk.settle(await claim_again(desk, "a"), failed("two"))
    assert (await in_group(desk, one), await in_group(desk, two)) == ([], ["a"])
    await desk.retry("a")
    assert await in_group(desk, two, status=Status.QUEUED) == ["a"]
    assert await in_group(desk, two, status=Status.FAILED) == []


# --- summaries ------------------------------------------------------------------------------------------------------


async def test_the_summaries_of_a_span_come_by_minute_and_exactly_as_kept(desk: Desk) -> None:
    kept = [
        Summary(10, "one", b'{"done":1.10}'),
        Summary(11, "one", '{"h":"ä"}'.encode()),
        Summary(11, "two", b""),
        Summary(13, "one", b"{}"),
    ]
    for summary in reversed(kept):
        await desk.store.keep_summary(summary, 0)
    assert await desk.store.summaries(10, 14) == kept
    assert await desk.store.summaries(11, 13) == kept[1:3]
    assert await desk.store.summaries(14, 99) == []


async def test_a_summary_takes_the_place_of_the_same_servers_earlier_one_of_that_minute(desk: Desk) -> None:
    for server, data in (("one", b"1"), ("two", b"2"), ("one", b"3")):
        await desk.store.keep_summary(Summary(10, server, data), 0)
    assert await desk.store.summaries(0, 99) == [Summary(10, "one", b"3"), Summary(10, "two", b"2")]


async def test_keeping_a_summary_forgets_those_of_older_minutes(desk: Desk) -> None:
    for minute in range(10, 20):
        await desk.store.keep_summary(Summary(minute, "one", b"{}"), minute - 3)
    assert [summary.minute for summary in await desk.store.summaries(0, 99)] == [16, 17, 18, 19]


# --- several servers ------------------------------------------------------------------------------------------------


async def test_what_a_server_announced_last_is_told_until_it_has_been_silent_for_too_long(desk: Desk) -> None:
    assert await desk.store.announced() == []
    await desk.store.announce("one", b'{"busy":1}')
    await desk.store.announce("two", b"[]")
    desk.clock.advance(20)
    await desk.store.announce("one", b'{"busy":2}')
    assert sorted(await desk.store.announced()) == [b"[]", b'{"busy":2}']
    desk.clock.advance(20)
    assert await desk.store.announced() == [b'{"busy":2}']
    desk.clock.advance(20)
    assert await desk.store.announced() == []


async def test_a_server_does_not_hear_its_own_voice(desk: Desk) -> None:
    heard: list[bytes | None] = []
    desk.store.listen(heard.append)
    desk.store.publish(b"{}")
    await desk.finish("a")
    await desk.finish("b", FAILED)
    assert heard == []


async def test_publishing_raises_nothing_before_opening_and_after_closing(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    await desk.accept(new("a"))
    await desk.store.close()
    desk.store.publish(b"{}")
