"""claim: due tasks, higher priority first, then earlier run_at, then order of acceptance, over all queues."""

from __future__ import annotations

import asyncio
import random

import pytest
from desk import DONE, FAILED, RELEASED, Desk, expect, ids_of, new
from msgspec.structs import replace

from jobpipe.core.errors import LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Status
from jobpipe.storage.base import MAX_CLAIM_BYTES, Settled

MIB = 1024 * 1024
AGAIN_AT_ONCE = Outcome(Kind.FAILED, retry_in=0.0)


async def test_tasks_come_in_the_order_of_acceptance(desk: Desk) -> None:
    await desk.accept("a", "b", "c")
    assert [ids_of(await desk.claim()) for _ in range(4)] == [["a"], ["b"], ["c"], []]


async def test_one_claim_gives_its_tasks_in_order(desk: Desk) -> None:
    await desk.accept("a", "b", "c")
    assert ids_of(await desk.claim(3)) == ["a", "b", "c"]


async def test_a_due_task_is_not_hidden_by_one_of_the_future(desk: Desk) -> None:
    await desk.accept("due", new("future", run_at=desk.now + 1000))
    assert ids_of(await desk.claim()) == ["due"]


async def test_higher_priority_comes_first_whatever_was_accepted_first(desk: Desk) -> None:
    await desk.accept(*(new(f"p{p}", priority=p) for p in (-100, 0, 7, 100, -1)))
    assert ids_of(await desk.claim(5)) == ["p100", "p7", "p0", "p-1", "p-100"]


async def test_within_a_priority_the_earlier_run_at_comes_first(desk: Desk) -> None:
    start = desk.now
    await desk.accept(new("late", run_at=start + 30), new("early", run_at=start + 10), "now")
    desk.clock.advance(1)
    assert ids_of(await desk.claim(3)) == ["now", "early", "late"]


async def test_queues_are_merged_into_one_order(desk: Desk) -> None:
    await desk.accept(*(new(f"t{i}", queue=f"q{i % 3}") for i in range(9)))
    assert ids_of(await desk.claim(9)) == [f"t{i}" for i in range(9)]


async def test_priority_is_compared_over_all_queues_together(desk: Desk) -> None:
    await desk.accept(
        new("a0", queue="a"),
        new("b5", queue="b", priority=5),
        new("a9", queue="a", priority=9),
        new("b0", queue="b"),
    )
    assert ids_of(await desk.claim(4)) == ["a9", "b5", "a0", "b0"]


@pytest.mark.parametrize("seed", range(3))
async def test_claims_of_any_size_follow_the_order_over_everything(desk: Desk, seed: int) -> None:
    source = random.Random(seed)
    start = desk.now
    for step in range(4):
        await desk.accept(
            *(
                new(
                    f"t{step}-{i}",
                    queue=f"q{source.randrange(4)}",
                    priority=source.choice([-5, 0, 0, 0, 5]),
                    run_at=start + source.choice([0, 0, 10, 20, 10**6]),
                )
                for i in range(25)
            )
        )
    desk.clock.advance(1)
    due = [task for task in await desk.listed() if task.run_at <= desk.now]
    expected = [task.id for task in sorted(due, key=lambda task: (-task.priority, task.run_at, task.seq))]
    claimed: list[str] = []
    while claims := await desk.claim(source.randint(1, 13)):
        claimed += ids_of(claims)
    assert claimed == expected


@pytest.mark.parametrize("seed", range(2))
async def test_the_order_holds_while_tasks_come_back_and_others_arrive(desk: Desk, seed: int) -> None:
    source = random.Random(seed)
    for step in range(40):
        await desk.accept(
            new(f"t{step}", queue=f"q{source.randrange(3)}", priority=source.randrange(3)),
            new(f"f{step}", queue=f"q{source.randrange(3)}", run_at=desk.now + source.randrange(3000)),
        )
        claims = await desk.claim(source.randint(1, 3))
        waiting = [
            task for task in await desk.listed() if task.status is Status.QUEUED and task.run_at <= desk.now
        ]
        for claim in claims:
            ahead = (-claim.task.priority, claim.task.run_at, claim.task.seq)
            assert all(ahead < (-task.priority, task.run_at, task.seq) for task in waiting)
        for claim in claims:
            await desk.settle(claim, source.choice([RELEASED, FAILED, AGAIN_AT_ONCE]))
        desk.clock.advance(source.random())


async def test_only_the_queues_asked_for_are_touched(desk: Desk) -> None:
    await desk.accept(*(new(f"{queue}{i}", queue=queue, priority=i) for queue in "abc" for i in range(2)))
    assert ids_of(await desk.claim(10, queues=["a", "c"])) == ["a1", "c1", "a0", "c0"]
    assert ids_of(await desk.claim(10, queues=["a", "c", "nobody"])) == []
    assert ids_of(await desk.claim(10)) == ["b1", "b0"]


async def test_a_claim_of_no_queue_gets_nothing(desk: Desk) -> None:
    await desk.accept("a")
    answer = await desk.ask(10, queues=[])
    assert (answer.claims, answer.next_due) == ([], None)


@pytest.mark.parametrize("priority", [-100, 0, 100])
async def test_a_task_of_the_future_is_never_claimed_before_its_time(desk: Desk, priority: int) -> None:
    await desk.accept(new("later", run_at=desk.now + 1000, priority=priority))
    desk.clock.advance(0.999)
    assert await desk.claim(10) == []
    desk.clock.advance(0.001)
    assert ids_of(await desk.claim(10)) == ["later"]


async def test_a_future_task_of_high_priority_does_not_hold_back_a_due_one_of_low(desk: Desk) -> None:
    await desk.accept(new("later", run_at=desk.now + 1000, priority=100), new("low", priority=-100))
    assert ids_of(await desk.claim(10)) == ["low"]


async def test_a_limit_is_kept(desk: Desk) -> None:
    await desk.accept(*(f"t{i}" for i in range(5)))
    assert ids_of(await desk.claim(2)) == ["t0", "t1"]
    assert ids_of(await desk.claim(2)) == ["t2", "t3"]
    assert ids_of(await desk.claim(2)) == ["t4"]


async def test_a_claim_marks_the_task_as_running_and_tells_it_as_stored(desk: Desk) -> None:
    await desk.accept("a")
    desk.clock.advance(3)
    claim = await desk.claim_one(worker="w-1")
    task = claim.task
    assert task == await desk.get("a")
    assert (task.status, task.attempts, task.worker, task.started_at) == (Status.RUNNING, 1, "w-1", desk.now)
    assert claim.lease_until is None


async def test_every_claim_raises_the_attempts(desk: Desk) -> None:
    await desk.accept(new("a", max_retries=10))
    for attempt in range(1, 5):
        claim = await desk.claim_one()
        assert claim.task.attempts == attempt
        await desk.settle(claim, AGAIN_AT_ONCE)


async def test_a_lease_id_is_new_at_every_claim(desk: Desk) -> None:
    await desk.accept(*(f"t{i}" for i in range(5)))
    seen: set[str] = set()
    for _ in range(4):
        claims = await desk.claim(5)
        assert len(claims) == 5
        seen |= {claim.lease_id for claim in claims}
        for claim in claims:
            await desk.settle(claim, RELEASED)
    assert len(seen) == 20


async def test_a_claim_with_a_lease_tells_its_end_in_wall_time(desk: Desk) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote(lease_s=12.5)
    assert claim.lease_until == desk.now + 12_500


@pytest.mark.parametrize("workers", [2, 20])
async def test_concurrent_claims_never_share_a_task(desk: Desk, workers: int) -> None:
    await desk.accept(*(new(f"t{i}", queue=f"q{i % 3}") for i in range(100)))
    answers = await asyncio.gather(*(desk.claim(7, worker=f"w{i}") for i in range(workers)))
    claims = [claim for answer in answers for claim in answer]
    assert len(claims) == min(100, 7 * workers)
    assert len({claim.task.id for claim in claims}) == len(claims)
    assert len({claim.lease_id for claim in claims}) == len(claims)
    for i, answer in enumerate(answers):
        assert {claim.task.worker for claim in answer} <= {f"w{i}"}


async def test_concurrent_claims_and_inserts_lose_nothing(desk: Desk) -> None:
    claims, _ = await asyncio.gather(
        asyncio.gather(*(desk.claim(3) for _ in range(20))),
        asyncio.gather(*(desk.accept(f"a{i}", f"b{i}") for i in range(30))),
    )
    taken = ids_of(claim for answer in claims for claim in answer)
    rest = ids_of(await desk.claim(100))
    assert sorted(taken + rest) == sorted(f"{letter}{i}" for letter in "ab" for i in range(30))


# --- bytes ---


async def test_a_claim_hands_out_at_most_its_bytes(desk: Desk) -> None:
    third = b" " * (MAX_CLAIM_BYTES // 3 + 1)
    await desk.accept(*(new(f"t{i}", payload=third) for i in range(5)))
    answer = await desk.ask(10)
    assert ids_of(answer.claims) == ["t0", "t1"]
    assert answer.next_due is not None
    assert answer.next_due <= desk.now
    assert ids_of(await desk.claim(10)) == ["t2", "t3"]
    assert ids_of(await desk.claim(10)) == ["t4"]


async def test_bytes_that_fit_exactly_are_handed_out(desk: Desk) -> None:
    await desk.accept(*(new(f"t{i}", payload=b" " * (MAX_CLAIM_BYTES // 4)) for i in range(5)))
    assert len(await desk.claim(10)) == 4


async def test_one_task_beyond_the_bytes_is_handed_out_alone(desk: Desk) -> None:
    await desk.accept(new("huge", payload=b" " * (MAX_CLAIM_BYTES + 1)), "small")
    assert ids_of(await desk.claim(10)) == ["huge"]
    assert ids_of(await desk.claim(10)) == ["small"]


async def test_a_big_task_is_not_overtaken_by_a_small_one_that_would_fit(desk: Desk) -> None:
    await desk.accept("first", new("huge", payload=b" " * MAX_CLAIM_BYTES), "small")
    assert ids_of(await desk.claim(10)) == ["first"]
    assert ids_of(await desk.claim(10)) == ["huge"]


# --- next_due ---


async def test_an_empty_store_has_nothing_due_ever(desk: Desk) -> None:
    assert (await desk.ask()).next_due is None


async def test_the_last_due_task_leaves_nothing_due(desk: Desk) -> None:
    await desk.accept("a")
    assert (await desk.ask(2)).next_due is None


async def test_more_due_tasks_are_due_now(desk: Desk) -> None:
    await desk.accept("a", "b")
    answer = await desk.ask(1)
    assert answer.next_due is not None
    assert answer.next_due <= desk.now


async def test_the_nearest_future_is_told_over_all_queues_and_priorities(desk: Desk) -> None:
    await desk.accept(
        new("a", queue="a", priority=9, run_at=desk.now + 3000),
        new("b", queue="b", run_at=desk.now + 2000),
        new("c", queue="c", run_at=desk.now + 4000),
    )
    assert (await desk.ask()).next_due == desk.now + 2000
    assert (await desk.ask(queues=["a", "c"])).next_due == desk.now + 3000
    assert (await desk.ask(queues=["c"])).next_due == desk.now + 4000
    assert (await desk.ask(queues=["d"])).next_due is None


async def test_the_next_of_the_same_queue_is_told_beside_what_was_claimed(desk: Desk) -> None:
    await desk.accept("a", new("b", run_at=desk.now + 5000), new("c", run_at=desk.now + 7000))
    answer = await desk.ask(10)
    assert (ids_of(answer.claims), answer.next_due) == (["a"], desk.now + 5000)


async def test_due_tasks_of_other_queues_are_not_told(desk: Desk) -> None:
    await desk.accept(new("a", queue="a"), new("b", queue="b", run_at=desk.now + 9000))
    assert (await desk.ask(queues=["b"])).next_due == desk.now + 9000


async def test_a_task_that_waits_for_its_retry_is_told(desk: Desk) -> None:
    claim = await desk.start("a")
    await desk.settle(claim, Outcome(Kind.FAILED, retry_in=42.0))
    assert (await desk.ask()).next_due == desk.now + 42_000


async def test_a_cancelled_future_task_is_forgotten_when_its_time_comes(desk: Desk) -> None:
    await desk.accept(new("a", run_at=desk.now + 1000), new("b", run_at=desk.now + 5000))
    await desk.cancel("a")
    due = (await desk.ask()).next_due
    assert due is not None
    assert due <= desk.now + 5000  # earlier costs a look, later would lose the task
    desk.clock.advance(1)
    answer = await desk.ask()
    assert (answer.claims, answer.next_due) == ([], desk.now + 4000)


async def test_a_new_task_that_is_due_earlier_moves_the_time_forward(desk: Desk) -> None:
    await desk.accept(new("late", run_at=desk.now + 9000))
    assert (await desk.ask()).next_due == desk.now + 9000
    await desk.accept(new("early", run_at=desk.now + 4000))
    assert (await desk.ask()).next_due == desk.now + 4000
    desk.clock.advance(9)
    assert ids_of(await desk.claim(5)) == ["early", "late"]


@pytest.mark.parametrize("seed", range(2))
async def test_looking_whenever_told_finds_every_task_at_its_time(desk: Desk, seed: int) -> None:
    """A worker that sleeps until `next_due` never finds a task later than it was due."""
    source = random.Random(seed)
    for i in range(60):
        await desk.accept(
            new(f"t{i}", queue=f"q{i % 3}", priority=i % 2, run_at=desk.now + source.randrange(1, 5000))
        )
    await desk.cancel(*(f"t{i}" for i in source.sample(range(60), 20)))
    found = 0
    while (answer := await desk.ask(source.randint(1, 4))).claims or answer.next_due is not None:
        for claim in answer.claims:
            assert claim.task.run_at == desk.now
        found += len(answer.claims)
        if not answer.claims:
            assert answer.next_due is not None
            assert answer.next_due > desk.now
            desk.clock.advance((answer.next_due - desk.now) / 1000)
    assert found == 40


async def test_no_lease_id_tells_another(desk: Desk) -> None:
    for n in range(6):
        await desk.accept(f"t{n}")
    claims = [
        *await desk.claim_remote(limit=2),
        *await desk.claim(limit=2),
        *await desk.claim_remote(limit=2),
    ]
    tokens = [claim.lease_id.replace("-", "").split(".")[-2] for claim in claims]
    assert len(set(tokens)) == 6
    assert all(len(token) >= 16 and int(token, 16) for token in tokens)
    assert len({token[:4] for token in tokens}) > 1  # nor do they count upwards
    assert len({token[-4:] for token in tokens}) > 1
    # What a holder can derive from its own: the same, for the task behind it.
    mine, other = claims[0], claims[-1]
    guessed = f"{mine.lease_id.rpartition('.')[0]}.{other.lease_id.rpartition('.')[2]}"
    expect(LeaseLost, await desk.settle(replace(other, lease_id=guessed), DONE))
    assert isinstance(await desk.settle(other, DONE), Settled)
