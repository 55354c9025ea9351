"""Unique keys, requests that are sent again, expiry, and changes of waiting tasks, over every engine."""

from __future__ import annotations

from typing import Any

import pytest
from desk import DONE, FAILED, FAILED_FOR_GOOD, LOST, RELEASED, Desk, OpenDesk, codes_of, ids_of, new
from msgspec.structs import replace

from jobpipe.core.errors import AlreadyFinished, Invalid, NotFound, NotUnique, NotWaiting
from jobpipe.core.expiry import EXPIRED
from jobpipe.core.revision import Revision
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Found, Known, OnConflict, Unique, text_of

KEY = Unique("k")
REJECT, REPLACE = OnConflict.REJECT, OnConflict.REPLACE


def unique(id: str, rule: Unique = KEY, **fields: Any) -> NewTask:
    return new(id, uniqueness=text_of(rule), **fields)


async def insert(desk: Desk, *tasks: NewTask) -> list[Any]:
    return await desk.store.insert(tasks, desk.now)


async def stands_for(desk: Desk, *tasks: NewTask) -> list[str]:
    """What each item became: the id of the task that stands for it, or why it was refused."""
    return [
        answer.task.id
        if isinstance(answer, Known)
        else answer.id
        if isinstance(answer, Task)
        else answer.code
        for answer in await insert(desk, *tasks)
    ]


# --- unique keys ---


async def test_a_second_task_of_a_key_is_answered_by_the_living_one(desk: Desk) -> None:
    (first,) = await insert(desk, unique("a"))
    assert await insert(desk, unique("b")) == [Known(first, Found.DEDUPLICATED)]
    assert await stands_for(desk, unique("c", replace(KEY, on_conflict=REJECT))) == ["not_unique"]
    assert await stands_for(desk, unique("d", handler="other"), unique("e", Unique("other"))) == ["d", "e"]
    assert [task.id for task in await desk.listed()] == ["e", "d", "a"]


async def test_within_a_batch_items_meet_those_before_them(desk: Desk) -> None:
    answers = await insert(desk, unique("a"), unique("b"), new("c"), unique("c"), unique("d", Unique("l")))
    assert codes_of(answers) == ["task", "known", "task", "task_exists", "task"]
    assert answers[1].task == answers[0]


async def test_an_id_that_is_taken_comes_before_the_key(desk: Desk) -> None:
    await insert(desk, unique("a"))
    assert codes_of(await insert(desk, unique("a"))) == ["task_exists"]


async def test_a_full_queue_still_answers_with_the_living_one(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1)
    await insert(desk, unique("a"))
    assert await stands_for(desk, unique("b"), unique("c", Unique("l"))) == ["a", "queue_full"]


@pytest.mark.parametrize("outcome", [DONE, FAILED_FOR_GOOD])
async def test_a_key_lives_until_the_end(desk: Desk, outcome: Any) -> None:
    await insert(desk, unique("a"))
    claim = await desk.claim_one()
    assert await stands_for(desk, unique("b")) == ["a"]
    await desk.settle(claim, outcome)
    assert await stands_for(desk, unique("c")) == ["c"]


@pytest.mark.parametrize("outcome", [FAILED, RELEASED, LOST])
async def test_a_retry_or_release_keeps_the_key(desk: Desk, outcome: Any) -> None:
    await insert(desk, unique("a"))
    await desk.settle(await desk.claim_one(), outcome)
    assert await stands_for(desk, unique("b")) == ["a"]


async def test_a_key_until_the_start_is_free_from_the_first_claim_on(desk: Desk) -> None:
    rule = Unique("k", "start")
    await insert(desk, unique("a", rule))
    claim = await desk.claim_one()
    assert await stands_for(desk, unique("b", rule), unique("c", rule)) == ["b", "b"]
    await desk.settle(claim, RELEASED)  # never refused: two may then run
    assert {claim.task.id for claim in await desk.claim(5)} == {"a", "b"}


async def test_a_claim_of_a_worker_elsewhere_frees_it_too(desk: Desk) -> None:
    rule = Unique("k", "start")
    await insert(desk, unique("a", rule))
    await desk.claim(1, local=False, lease_s=30)
    assert await stands_for(desk, unique("b", rule)) == ["b"]


async def test_a_key_of_seconds_lives_so_long_ended_or_not(desk: Desk) -> None:
    rule = Unique("k", 10.0)
    await insert(desk, unique("a", rule))
    await desk.settle(await desk.claim_one(), DONE)
    desk.clock.advance(9.9)
    assert await stands_for(desk, unique("b", rule)) == ["a"]
    desk.clock.advance(0.1)
    assert await stands_for(desk, unique("c", rule)) == ["c"]


async def test_a_cancelled_a_deleted_and_a_pruned_task_free_their_keys(desk: Desk) -> None:
    for rule in (KEY, Unique("k", "start")):
        await insert(desk, unique("a", rule))
        await desk.cancel("a")
        assert await stands_for(desk, unique("b", rule)) == ["b"]
        await desk.cancel("b")
        await desk.store.delete(["a", "b"])
    lasting = Unique("k", 1000.0)
    await insert(desk, unique("c", lasting))
    await desk.settle(await desk.claim_one(), DONE)
    await desk.store.delete(["c"])
    await insert(desk, unique("d", lasting))
    await desk.settle(await desk.claim_one(), DONE)
    desk.clock.advance(5)
    assert await desk.store.prune(desk.now, desk.now, 10) == 1
    assert await stands_for(desk, unique("e", lasting)) == ["e"]


async def test_replacing_changes_the_waiting_task_and_its_place(desk: Desk) -> None:
    rule = replace(KEY, on_conflict=REPLACE)
    await insert(desk, unique("a", rule, payload=b"1", priority=5), new("plain"))
    (answer,) = await insert(desk, unique("b", rule, payload=b"22", priority=-3, run_at=desk.now + 2000))
    assert (answer.found, answer.task.id, answer.task.payload, answer.task.priority) == (
        Found.REPLACED, "a", b"22", -3,
    )  # fmt: skip
    assert await desk.get("a") == answer.task
    await desk.assert_counts_are_true()
    assert [claim.task.id for claim in await desk.claim(5)] == ["plain"]
    desk.clock.advance(2)
    assert (await desk.claim_one()).task.payload == b"22"
    assert (await insert(desk, unique("c", rule)))[0].found is Found.DEDUPLICATED
    await desk.assert_counts_are_true()


async def test_several_replacements_in_one_batch_leave_the_last(desk: Desk) -> None:
    rule = replace(KEY, on_conflict=REPLACE)
    await insert(desk, unique("old", replace(rule, key="o"), payload=b"0"))
    items = [unique(f"n{i}", rule, payload=b"%d" % i, priority=i) for i in range(3)]
    items += [unique(f"o{i}", replace(rule, key="o"), payload=b"%d" % (i + 7), priority=i) for i in range(3)]
    assert await stands_for(desk, *items) == ["n0"] * 3 + ["old"] * 3
    assert ((await desk.get("n0")).payload, (await desk.get("old")).payload) == (b"2", b"9")
    await desk.assert_counts_are_true()
    assert [claim.task.priority for claim in await desk.claim(5)] == [2, 2]


async def test_a_retry_by_hand_takes_the_key_again_or_is_refused(desk: Desk) -> None:
    for id_ in ("a", "b"):
        await insert(desk, unique(id_))
        await desk.settle(await desk.claim_one(), FAILED_FOR_GOOD)
    await insert(desk, unique("c"))
    assert codes_of(await desk.store.retry(["a"], desk.now)) == ["not_unique"]
    await desk.settle(await desk.claim_one(), DONE)
    answers = await desk.store.retry(["a", "b"], desk.now)
    assert [type(answer) for answer in answers] == [Task, NotUnique]
    assert await stands_for(desk, unique("d")) == ["a"]
    await desk.assert_counts_are_true()


async def test_a_retry_after_the_seconds_needs_no_key(desk: Desk) -> None:
    rule = Unique("k", 10.0)
    await insert(desk, unique("a", rule))
    await desk.settle(await desk.claim_one(), FAILED_FOR_GOOD)
    desk.clock.advance(11)
    await insert(desk, unique("b", rule))
    assert codes_of(await desk.store.retry(["a"], desk.now)) == ["task"]
    assert await stands_for(desk, unique("c", rule)) == ["b"]


# --- requests that are sent again ---


async def test_the_same_digest_is_answered_with_the_task_as_it_is_now(desk: Desk) -> None:
    await insert(desk, new("a", digest="1"))
    await desk.settle(await desk.claim_one(), DONE)
    (answer,) = await insert(desk, new("a", digest="1"))
    assert (answer.found, answer.task.status) == (Found.REPLAYED, Status.DONE)
    assert codes_of(await insert(desk, new("a", digest="2"), new("a"))) == [
        "idempotency_mismatch", "task_exists",
    ]  # fmt: skip
    await insert(desk, new("plain"))
    assert codes_of(await insert(desk, new("plain", digest="1"))) == ["task_exists"]


async def test_a_claim_that_is_not_written_yet_is_seen_by_a_replay(desk: Desk) -> None:
    await insert(desk, new("a", digest="1"))
    await desk.claim_one()
    (answer,) = await insert(desk, new("a", digest="1"))
    assert answer.task.status is Status.RUNNING


async def test_what_is_answered_again_is_as_the_items_before_it_left_it(desk: Desk) -> None:
    await insert(desk, unique("a", digest="1"))
    replacing, again = unique("b", replace(KEY, on_conflict=REPLACE), payload=b"[2]"), unique("a", digest="1")
    replaced, replayed = await insert(desk, replacing, again)
    assert (replaced.found, replayed.found) == (Found.REPLACED, Found.REPLAYED)
    assert replayed.task == replaced.task == await desk.get("a")


# --- expiry ---


async def test_a_task_that_was_not_claimed_in_time_ends_as_cancelled(desk: Desk) -> None:
    at = desk.now + 5000
    await insert(desk, unique("a", expires_at=at), new("b", expires_at=at + 1000), new("c", priority=-1))
    assert await desk.store.next_expiring() == at
    assert await desk.store.expire(desk.now, 10) == []
    desk.clock.advance(5)
    assert [claim.task.id for claim in await desk.claim(1)] == ["b"]
    (ended,) = await desk.store.expire(desk.now, 10)
    assert (ended.id, ended.status, ended.finished_at) == ("a", Status.CANCELLED, desk.now)
    assert ended.last_error is not None
    assert ended.last_error.type == EXPIRED
    assert await desk.get("a") == ended
    assert await desk.store.next_expiring() is None
    assert await stands_for(desk, unique("d")) == ["d"]
    await desk.assert_counts_are_true()


async def test_a_claim_gets_as_many_as_it_wants_of_those_that_have_not_expired(desk: Desk) -> None:
    late = [new(f"late-{n}", expires_at=desk.now + 1000) for n in range(5)]
    await insert(desk, *late, *(new(f"n{n}") for n in range(5)))
    desk.clock.advance(1)
    assert ids_of(await desk.claim(4)) == ["n0", "n1", "n2", "n3"]
    assert ids_of(await desk.claim(4)) == ["n4"]


async def test_where_the_clock_is_set_back_what_was_passed_over_is_claimed_after_all(
    desk: Desk, url: str
) -> None:
    await insert(desk, new("a", expires_at=desk.now + 1000), new("b", expires_at=desk.now + 9000), new("c"))
    desk.clock.advance(2)
    assert (await desk.claim_one()).task.id == "b"
    (counts,) = await desk.store.queues(desk.now)
    assert counts.oldest_ready == desk.now - 2000
    desk.clock.jump(-2)  # on PostgreSQL the database's clock judges, which has not moved
    assert ids_of(await desk.claim(9)) == (["c"] if url.startswith("postgres") else ["a", "c"])
    await desk.assert_counts_are_true()


async def test_one_that_was_claimed_before_is_left_alone(desk: Desk) -> None:
    await insert(desk, new("a", expires_at=desk.now + 1000))
    await desk.settle(await desk.claim_one(), RELEASED)
    desk.clock.advance(2)
    assert await desk.store.expire(desk.now, 10) == []
    assert (await desk.claim_one()).task.id == "a"


async def test_a_retry_by_hand_clears_the_expiry(desk: Desk) -> None:
    await insert(desk, new("a", expires_at=desk.now + 1000))
    desk.clock.advance(1)
    await desk.store.expire(desk.now, 10)
    (again,) = await desk.store.retry(["a"], desk.now)
    assert isinstance(again, Task)
    assert again.expires_at is None
    assert (await desk.claim_one()).task.id == "a"


# --- changes ---


async def test_a_waiting_task_is_changed(desk: Desk) -> None:
    await insert(desk, new("a", priority=1), new("b", run_at=desk.now + 60_000))
    now = desk.now
    revision = Revision(payload=b"[1]", priority=9, max_retries=7, timeout=1.5, expires_at=now + 99_000)
    task = await desk.store.revise("b", replace(revision, run_at=now), now)
    assert isinstance(task, Task)
    assert (task.payload, task.priority, task.max_retries, task.timeout) == (b"[1]", 9, 7, 1.5)
    assert await desk.get("b") == task
    await desk.assert_counts_are_true()
    assert [claim.task.id for claim in await desk.claim(5)] == ["b", "a"]


async def test_what_does_not_wait_is_not_changed(desk: Desk) -> None:
    await insert(desk, new("a"), new("w", expires_at=desk.now + 1000, run_at=desk.now + 500))
    claim = await desk.claim_one()
    revision = Revision(priority=3)
    assert isinstance(await desk.store.revise("a", revision, desk.now), NotWaiting)
    await desk.settle(claim, DONE)
    assert isinstance(await desk.store.revise("a", revision, desk.now), AlreadyFinished)
    assert isinstance(await desk.store.revise("none", revision, desk.now), NotFound)
    late = Revision(run_at=desk.now + 1001)
    assert isinstance(await desk.store.revise("w", late, desk.now), Invalid)
    assert (await desk.get("w")).run_at == desk.now + 500
    await desk.assert_counts_are_true()
