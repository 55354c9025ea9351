"""insert: accept each task in order, or say why not, item by item."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from desk import DONE, FAILED_FOR_GOOD, Desk, OpenDesk, codes_of, expect, ids_of, new

from jobpipe.core.errors import QueueFull, TaskExists, TooManyQueues
from jobpipe.core.task import NewTask, Status, Task

MIB = 1024 * 1024


async def test_accepted_tasks_get_their_place_in_the_order_of_the_batch(desk: Desk) -> None:
    accepted = await desk.accept("c", "a", "b")
    assert ids_of(accepted) == ["c", "a", "b"]
    assert [task.seq for task in accepted] == sorted({task.seq for task in accepted})
    (later,) = await desk.accept("d")
    assert later.seq > accepted[-1].seq


async def test_the_answer_is_the_task_as_it_is_stored(desk: Desk) -> None:
    accepted = await desk.accept(
        new("plain"),
        new(
            "full", handler="mail.send", payload=b'{"to": "a@b"}', queue="mail", priority=-100, max_retries=0,
            run_at=desk.now + 5000, timeout=2.5, traceparent="00-1-2-01",
        ),
    )  # fmt: skip
    assert [await desk.get(task.id) for task in accepted] == accepted
    plain, full = accepted
    assert (plain.status, plain.queue, plain.priority, plain.max_retries) == (Status.QUEUED, "default", 0, 3)
    assert (plain.created_at, plain.run_at, plain.payload) == (desk.now, desk.now, b"null")
    assert (plain.attempts, plain.failures, plain.lost) == (0, 0, 0)
    assert (plain.started_at, plain.finished_at, plain.worker, plain.result) == (None, None, None, None)
    assert (full.run_at, full.timeout, full.traceparent) == (desk.now + 5000, 2.5, "00-1-2-01")


@pytest.mark.parametrize(("kinds", "count"), [(1, 80), (2, 500), (40, 80)])
async def test_each_task_of_a_batch_is_stored_as_itself_whatever_it_shares_with_others(
    desk: Desk, kinds: int, count: int
) -> None:
    def mixed(i: int) -> NewTask:
        kind = i % kinds
        return new(
            f"t{i}", payload=b"1" * (1 + i % 7), queue=f"q{kind % 3}", handler=f"h{kind % 5}",
            priority=kind % 4, max_retries=kind % 6, timeout=None if kind % 2 else kind + 0.5,
            run_at=desk.now + kind * 1000, traceparent=f"00-{kind}",
        )  # fmt: skip

    await desk.accept("t7", "t64")
    answers = await desk.insert(*map(mixed, range(count)))
    assert [i for i, answer in enumerate(answers) if isinstance(answer, TaskExists)] == [7, 64]
    accepted = [answer for answer in answers if isinstance(answer, Task)]
    assert [task.seq for task in accepted] == sorted(task.seq for task in accepted)
    assert [await desk.get(task.id) for task in accepted] == accepted
    for i, answer in enumerate(answers):
        if isinstance(answer, Task):
            wanted = mixed(i)
            assert [getattr(answer, name) for name in NewTask.__struct_fields__] == [
                getattr(wanted, name) for name in NewTask.__struct_fields__
            ]
    await desk.assert_counts_are_true()


async def test_an_empty_batch_is_answered_with_nothing(desk: Desk) -> None:
    assert await desk.insert() == []


async def test_an_id_that_is_taken_is_refused_and_its_task_unchanged(desk: Desk) -> None:
    (first,) = await desk.accept(new("a", payload=b"1"))
    (no,) = await desk.insert(new("a", payload=b"2", queue="other"))
    assert expect(TaskExists, no).field == "id"
    assert await desk.get("a") == first


@pytest.mark.parametrize("outcome", [DONE, FAILED_FOR_GOOD])
async def test_an_id_stays_taken_when_its_task_is_finished(desk: Desk, outcome: object) -> None:
    await desk.finish("a", outcome)
    assert codes_of(await desk.insert("a")) == ["task_exists"]


async def test_the_first_of_two_equal_ids_in_a_batch_wins(desk: Desk) -> None:
    answers = await desk.insert(new("a", payload=b"1"), new("b"), new("a", payload=b"2"), new("b"))
    assert codes_of(answers) == ["task", "task", "task_exists", "task_exists"]
    assert (await desk.get("a")).payload == b"1"
    await desk.assert_counts_are_true()


async def test_old_and_new_ids_in_one_batch_are_answered_each_for_itself(desk: Desk) -> None:
    await desk.accept("a", "c")
    assert codes_of(await desk.insert("a", "b", "c", "d")) == ["task_exists", "task", "task_exists", "task"]
    assert ids_of(await desk.listed()) == ["d", "b", "c", "a"]
    await desk.assert_counts_are_true()


async def test_one_id_posted_by_fifty_at_once_is_one_task(desk: Desk) -> None:
    calls = [desk.insert(new("same", payload=str(i).encode())) for i in range(50)]
    answers = [answer for (answer,) in await asyncio.gather(*calls)]
    (winner,) = [answer for answer in answers if isinstance(answer, Task)]
    assert codes_of(answers).count("task_exists") == 49
    assert await desk.get("same") == winner
    await desk.assert_counts_are_true()


async def test_concurrent_batches_that_overlap_accept_each_id_once(desk: Desk) -> None:
    source = random.Random(3)
    batches = [source.sample([f"t{i}" for i in range(60)], 20) for _ in range(30)]
    answers = await asyncio.gather(*(desk.insert(*batch) for batch in batches))
    accepted = [answer.id for batch in answers for answer in batch if isinstance(answer, Task)]
    assert sorted(accepted) == sorted({id_ for batch in batches for id_ in batch})
    assert [len(batch) for batch in answers] == [20] * 30
    for batch, answered in zip(batches, answers, strict=True):
        for id_, answer in zip(batch, answered, strict=True):
            assert not isinstance(answer, Task) or answer.id == id_
    await desk.assert_counts_are_true()


# --- capacity ---


async def test_a_queue_takes_exactly_its_capacity(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=3)
    assert codes_of(await desk.insert("a", "b", "c")) == ["task"] * 3
    (no,) = await desk.insert("d")
    expect(QueueFull, no)
    assert await desk.store.get(["d"]) == [None]


async def test_a_queue_that_fills_up_refuses_only_what_is_beyond(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=3)
    await desk.accept("a")
    answers = await desk.insert("b", "c", "d", new("e", queue="other"), "f")
    assert codes_of(answers) == ["task", "task", "queue_full", "task", "queue_full"]
    await desk.assert_counts_are_true()


async def test_concurrent_calls_share_the_room_that_is_left(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=10)
    answers = await asyncio.gather(*(desk.insert(f"a{i}", f"b{i}") for i in range(20)))
    assert codes_of(answer for batch in answers for answer in batch).count("task") == 10
    assert (await desk.store.counts())[Status.QUEUED] == 10


async def test_a_duplicate_is_told_so_even_when_the_queue_is_full(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=2)
    await desk.accept("a", "b")
    assert codes_of(await desk.insert("a", "c", "b")) == ["task_exists", "queue_full", "task_exists"]


async def test_an_id_refused_for_fullness_is_not_taken_by_that(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=1)
    await desk.accept("a")
    assert codes_of(await desk.insert("b", new("b", queue="other"))) == ["queue_full", "task"]
    assert (await desk.get("b")).queue == "other"


async def test_tasks_of_the_future_and_of_every_priority_count_against_the_capacity(
    open_desk: OpenDesk,
) -> None:
    desk = await open_desk(capacity=3)
    await desk.accept(new("a", run_at=desk.now + 10**9), new("b", priority=100), new("c", priority=-100))
    assert codes_of(await desk.insert("d")) == ["queue_full"]


async def test_running_and_finished_tasks_leave_their_place_to_others(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=2)
    await desk.accept("a", "b")
    first, second = await desk.claim(2)
    assert codes_of(await desk.insert("c", "d", "e")) == ["task", "task", "queue_full"]
    await desk.settle(first, DONE)
    await desk.settle(second, FAILED_FOR_GOOD)
    assert codes_of(await desk.insert("e")) == ["queue_full"]
    await desk.cancel("c")
    assert codes_of(await desk.insert("e")) == ["task"]


# --- names of queues ---


async def test_a_name_beyond_the_allowed_number_is_refused(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=2)
    answers = await desk.insert(
        new("a", queue="one"), new("b", queue="two"), new("c", queue="three"), new("d", queue="one")
    )
    assert codes_of(answers) == ["task", "task", "too_many_queues", "task"]
    (no,) = await desk.insert(new("e", queue="three"))
    expect(TooManyQueues, no)
    assert codes_of(await desk.insert(new("f", queue="two"))) == ["task"]
    await desk.assert_counts_are_true()


async def test_names_that_hold_only_finished_tasks_still_count(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=1)
    await desk.finish("a")
    assert codes_of(await desk.insert(new("b", queue="other"))) == ["too_many_queues"]


async def test_a_name_is_free_when_its_last_task_is_deleted(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=1)
    await desk.finish("a")
    await desk.delete("a")
    assert codes_of(await desk.insert(new("b", queue="other"))) == ["task"]
    assert codes_of(await desk.insert(new("c", queue="only-a"))) == ["too_many_queues"]


async def test_a_name_is_free_when_its_last_task_is_pruned(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=1)
    await desk.finish("a")
    assert await desk.store.prune(desk.now + 1, None, 10) == 1
    assert codes_of(await desk.insert(new("b", queue="other"))) == ["task"]


async def test_a_duplicate_is_told_so_even_when_there_are_too_many_names(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=1)
    await desk.accept(new("a", queue="one"))
    assert codes_of(await desk.insert(new("a", queue="two"), new("b", queue="two"))) == [
        "task_exists",
        "too_many_queues",
    ]


async def test_a_name_whose_only_task_was_refused_takes_no_place(open_desk: OpenDesk) -> None:
    desk = await open_desk(max_queues=2)
    await desk.accept(new("a", queue="one"))
    answers = await desk.insert(new("a", queue="two"), new("b", queue="three"))
    assert codes_of(answers) == ["task_exists", "task"]


# --- times ---


@pytest.mark.parametrize("run_at", [-(10**15), 0, 1])
async def test_a_task_for_the_past_is_due_now_and_not_before_others(desk: Desk, run_at: int) -> None:
    await desk.accept("early")
    (task,) = await desk.accept(new("past", run_at=run_at))
    assert task.run_at == desk.now
    assert ids_of(await desk.claim(2)) == ["early", "past"]


async def test_a_task_for_now_or_later_keeps_its_time(desk: Desk) -> None:
    for i, run_at in enumerate((desk.now, desk.now + 1, desk.now + 10**12)):
        (task,) = await desk.accept(new(f"t{i}", run_at=run_at))
        assert task.run_at == run_at == (await desk.get(task.id)).run_at


async def test_a_timeout_is_kept_to_the_last_bit(desk: Desk) -> None:
    timeouts = [0.1, 0.1 + 0.2, 1 / 3, 1e-3, 12345.678901234567, 315_576_000.0, 2.0**-20]
    tasks = await desk.accept(*(new(f"t{i}", timeout=timeout) for i, timeout in enumerate(timeouts)))
    assert [task.timeout for task in tasks] == timeouts
    assert await desk.store.get([task.id for task in tasks]) == tasks


async def test_whole_numbers_are_kept_to_the_last_digit(desk: Desk) -> None:
    numbers = [-(2**63), 2**63 - 1, 2**53 + 1]
    tasks = await desk.accept(*(new(f"t{n}", max_retries=n, priority=n) for n in numbers))
    assert [(task.max_retries, task.priority) for task in tasks] == [(n, n) for n in numbers]
    assert await desk.store.get([task.id for task in tasks]) == tasks


# --- bytes ---

PAYLOADS = {
    "big integer": b'{"n": 123456789012345678901234567890, "m": -9223372036854775809}',
    "trailing zero": b"[1.10, 1.0, 100e-2]",
    "beyond every float": b"[1e999, -1e999, 1e-999]",
    "five thousand digits": b"9" * 5000,
    "escaped NUL": rb'"a\u0000b"',
    "escaped surrogate pair": rb'"\ud83d\ude00"',
    "escaped slash": rb'"\/\u002f"',
    "unicode": '"\u00e4\u00f6\u00fc \U0001f600 \u2028 \u4e2d\ufeff"'.encode(),
    "white space": b' \t\r\n{ "a" :\n1 } ',
    "equal keys": b'{"a": 1, "a": 2}',
    "empty string": b'""',
    "null": b"null",
    "nested": b"[" * 128 + b"]" * 128,
    "quotes": rb'"\" \\ %s ?1 \u0027; DROP TABLE tasks; --"',
    "a MiB": json.dumps("x\u00e4" * (MIB // 8)).encode() + b" " * (MIB // 2),
}


@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_payload_comes_back_byte_for_byte_everywhere(desk: Desk, name: str) -> None:
    payload = PAYLOADS[name]
    (task,) = await desk.accept(new("a", payload=payload))
    assert task.payload == payload
    assert (await desk.get("a")).payload == payload
    assert [task.payload for task in await desk.listed()] == [payload]
    assert (await desk.claim_one()).task.payload == payload


async def test_payloads_of_one_batch_are_not_mixed_up(desk: Desk) -> None:
    payloads = list(PAYLOADS.values())
    await desk.accept(*(new(f"t{i}", payload=payload) for i, payload in enumerate(payloads)))
    claims = await desk.claim(len(payloads))
    assert [claim.task.payload for claim in claims] == payloads
    tasks = await desk.store.get([f"t{i}" for i in reversed(range(len(payloads)))])
    assert [task.payload for task in tasks if task] == payloads[::-1]


async def test_payloads_of_concurrent_calls_are_not_mixed_up(desk: Desk) -> None:
    payloads = list(PAYLOADS.values()) * 3
    calls = [desk.accept(new(f"t{i}", payload=payload)) for i, payload in enumerate(payloads)]
    answers = await asyncio.gather(*calls)
    assert [task.payload for (task,) in answers] == payloads
    tasks = await desk.store.get([f"t{i}" for i in range(len(payloads))])
    assert [task.payload for task in tasks if task] == payloads


@pytest.mark.parametrize(
    "text", ["'; DROP TABLE tasks; --", '"', "\\", "\u00e4\U0001f600", "%_?1", "a\nb", "\x7f\x01"]
)
async def test_names_are_data_whatever_they_look_like(desk: Desk, text: str) -> None:
    (task,) = await desk.accept(new(text, handler=text, queue=text, traceparent=text))
    assert await desk.get(text) == task
    claim = await desk.claim_one(queues=[text], worker=text)
    assert (claim.task.id, claim.task.queue, claim.task.worker) == (text, text, text)
