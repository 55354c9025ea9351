"""Rules of queues and keys: what they let start, and when; what they have used up is what runs."""

from __future__ import annotations

from itertools import pairwise

import pytest
from desk import CANCELLED, DONE, FAILED, LOST, RELEASED, OpenStore, expect, ids_of, new
from flowdesk import FlowDesk, rate

from jobpipe.core.errors import Invalid, LeaseLost, QueueFull, TooManyQueues
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.rules import Said
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage.base import Settled


@pytest.fixture
async def desk(open_store: OpenStore, clock: ManualClock) -> FlowDesk:
    return FlowDesk(await open_store(max_queues=5), clock)


async def test_a_paused_queue_gives_nothing_and_takes_everything(desk: FlowDesk) -> None:
    await desk.rule(paused=True)
    await desk.accept("t1", queue="q")
    await desk.accept("t2", queue="other")
    assert ids_of(await desk.claim(10)) == ["t2"]
    answer = await desk.ask(10)
    assert answer.claims == []
    assert answer.next_due is None
    assert await desk.held("t1") == "paused"
    await desk.store.resume("q", None, desk.now, "ann")
    assert ids_of(await desk.claim(10)) == ["t1"]


async def test_no_more_run_than_the_concurrency_allows(desk: FlowDesk) -> None:
    await desk.rule(concurrency=2)
    await desk.accept("t1", "t2", "t3", "t4", queue="q")
    first = await desk.claim(10)
    assert ids_of(first) == ["t1", "t2"]
    answer = await desk.ask(10)
    assert answer.claims == []
    assert answer.next_due is None
    assert await desk.held("t3") == "concurrency"
    await desk.end(first[0])
    assert ids_of(await desk.claim(10)) == ["t3"]


@pytest.mark.parametrize("outcome", [DONE, FAILED, RELEASED])
async def test_every_end_of_a_run_frees_its_place_once(desk: FlowDesk, outcome: Outcome) -> None:
    await desk.rule(concurrency=1)
    await desk.accept("t1", "t2", "t3", queue="q", max_retries=0)
    claim = await desk.claim_one()
    expect(Settled, await desk.settle(claim, outcome))
    again = await desk.settle(claim, outcome)
    assert isinstance(again, Settled)
    assert again.repeated
    assert len(await desk.claim(10)) == 1


async def test_a_lost_workers_place_is_free_at_its_rescue_and_not_before(desk: FlowDesk) -> None:
    await desk.rule(concurrency=1)
    await desk.accept("t1", "t2", queue="q")
    (claim,) = await desk.claim_remote(1, lease_s=5.0)
    desk.clock.advance(6.0)
    assert await desk.claim(10) == []
    (lost,) = await desk.store.lost(10)
    expect(Settled, await desk.settle(lost, LOST, rescue=True))
    (taken,) = await desk.claim(10)
    # The stale worker's settle frees nothing a second time.
    expect(LeaseLost, await desk.settle(claim))
    assert await desk.claim(10) == []
    await desk.end(taken)
    assert len(await desk.claim(10)) == 1


async def test_a_cancelled_run_holds_its_place_until_it_ends(desk: FlowDesk) -> None:
    await desk.rule(concurrency=1)
    await desk.accept("t1", "t2", queue="q")
    claim = await desk.claim_one()
    await desk.cancel("t1")
    assert await desk.claim(10) == []
    expect(Settled, await desk.settle(claim, CANCELLED, task=await desk.get("t1")))
    assert ids_of(await desk.claim(10)) == ["t2"]


async def test_a_lowered_limit_stops_nothing_and_a_raised_one_lets_more_start(desk: FlowDesk) -> None:
    await desk.rule(concurrency=3)
    await desk.accept(*[f"t{n}" for n in range(8)], queue="q")
    claims = await desk.claim(10)
    await desk.rule(concurrency=1)
    await desk.end(claims[0], claims[1])
    assert await desk.claim(10) == []
    await desk.end(claims[2])
    assert len(await desk.claim(10)) == 1
    await desk.rule(concurrency=4)
    assert len(await desk.claim(10)) == 3
    await desk.rule(concurrency=None)
    assert len(await desk.claim(10)) == 1


async def test_what_ran_before_the_limit_was_set_counts(desk: FlowDesk) -> None:
    await desk.accept("t1", "t2", "t3", queue="q")
    claims = await desk.claim(2)
    await desk.rule(concurrency=2)
    assert await desk.claim(10) == []
    await desk.end(claims[0])
    assert ids_of(await desk.claim(10)) == ["t3"]


async def test_each_key_has_its_own_limit_and_slows_no_other(desk: FlowDesk) -> None:
    await desk.rule(key_concurrency=1)
    await desk.accept(*[new(f"a{n}", queue="q", key="a") for n in range(50)])
    await desk.accept(new("b1", queue="q", key="b"), new("none1", queue="q"), new("none2", queue="q"))
    claims = await desk.claim(10)
    assert ids_of(claims) == ["a0", "b1", "none1", "none2"]
    assert await desk.held("a1") == "key_concurrency"
    await desk.end(claims[0])
    assert ids_of(await desk.claim(10)) == ["a1"]


async def test_a_key_may_have_rules_of_its_own(desk: FlowDesk) -> None:
    await desk.rule(key_concurrency=1)
    await desk.rule(key="premium", concurrency=3)
    await desk.rule(key="free", concurrency="none")
    await desk.rule(key="late", paused=True)
    for key in ("premium", "free", "late", "plain"):
        await desk.accept(*[new(f"{key}{n}", queue="q", key=key) for n in range(5)])
    claimed = sorted(ids_of(await desk.claim(100)))
    assert claimed == [*(f"free{n}" for n in range(5)), "plain0", *(f"premium{n}" for n in range(3))]
    assert await desk.held("late0") == "key_paused"
    await desk.store.unsay("q", "late")
    assert ids_of(await desk.claim(100)) == ["late0"]


async def test_one_key_is_paused_in_a_queue_without_other_rules(desk: FlowDesk) -> None:
    await desk.accept(new("t1", queue="q", key="a"), new("t2", queue="q", key="b"), new("t3", queue="q"))
    await desk.rule(key="a", paused=True)
    assert ids_of(await desk.claim(10)) == ["t2", "t3"]


async def test_a_rate_spaces_starts_and_tells_when_the_next_may_come(desk: FlowDesk) -> None:
    await desk.rule(rate=rate(2, 1.0, 1))
    await desk.accept(*[f"t{n}" for n in range(5)], queue="q")
    assert len(await desk.claim(10)) == 1
    answer = await desk.ask(10)
    assert answer.claims == []
    assert answer.next_due is not None
    assert 0 < answer.next_due - desk.now <= 501
    assert await desk.held("t1") == "rate"
    desk.clock.advance(0.4)
    assert await desk.claim(10) == []
    desk.clock.advance(0.11)
    assert len(await desk.claim(10)) == 1


async def test_after_a_rest_a_burst_may_start(desk: FlowDesk) -> None:
    await desk.rule(rate=rate(10, 1.0, 3))
    await desk.accept(*[f"t{n}" for n in range(9)], queue="q")
    assert len(await desk.claim(10)) == 3
    desk.clock.advance(0.1)
    assert len(await desk.claim(10)) == 1
    desk.clock.advance(60.0)
    assert len(await desk.claim(10)) == 3


async def test_each_key_has_its_own_rate(desk: FlowDesk) -> None:
    await desk.rule(key_rate=rate(1, 10.0, 1))
    await desk.accept(*[new(f"{key}{n}", queue="q", key=key) for key in "ab" for n in range(2)])
    assert ids_of(await desk.claim(10)) == ["a0", "b0"]
    assert await desk.held("a1") == "key_rate"
    answer = await desk.ask(10)
    assert answer.next_due is not None
    assert 9_900 < answer.next_due - desk.now <= 10_001
    desk.clock.advance(10.01)
    assert ids_of(await desk.claim(10)) == ["a1", "b1"]


async def test_released_starts_count_against_a_rate(desk: FlowDesk) -> None:
    await desk.rule(rate=rate(1, 10.0, 1))
    await desk.accept("t1", queue="q")
    expect(Settled, await desk.settle(await desk.claim_one(), RELEASED))
    assert await desk.claim(10) == []
    desk.clock.advance(10.01)
    assert len(await desk.claim(10)) == 1


async def test_fair_keys_take_turns_and_a_new_one_comes_behind_those_that_wait(desk: FlowDesk) -> None:
    await desk.rule(fair=True)
    await desk.accept(*[new(f"a{n}", queue="q", key="a") for n in range(100)])
    await desk.accept(*[new(f"b{n}", queue="q", key="b") for n in range(2)], new("n0", queue="q"))
    assert ids_of(await desk.claim(5)) == ["a0", "b0", "n0", "a1", "b1"]
    await desk.accept(*[new(f"c{n}", queue="q", key="c") for n in range(10)])
    started = ids_of(await desk.claim(25))
    assert sum(id.startswith("c") for id in started) == 10


async def test_priority_stands_over_turns(desk: FlowDesk) -> None:
    await desk.rule(fair=True)
    await desk.accept(*[new(f"a{n}", queue="q", key="a", priority=5) for n in range(3)])
    await desk.accept(new("b0", queue="q", key="b"), new("a9", queue="q", key="a"))
    assert ids_of(await desk.claim(10)) == ["a0", "a1", "a2", "b0", "a9"]


async def test_queues_with_and_without_rules_are_claimed_from_in_order(desk: FlowDesk) -> None:
    await desk.rule(concurrency=5)
    for n in range(4):
        await desk.accept(new(f"t{n}", queue="q" if n % 2 else "plain"))
        desk.clock.advance(0.01)
    assert ids_of(await desk.claim(10)) == ["t0", "t1", "t2", "t3"]


async def test_what_a_rate_lets_start_comes_by_its_own_place_among_queues(desk: FlowDesk) -> None:
    await desk.rule(rate="1/s")
    await desk.accept("q1", "q2", queue="q")
    desk.clock.advance(0.001)
    assert ids_of(await desk.claim(10)) == ["q1"]
    desk.clock.advance(0.1)
    await desk.accept("t1", queue="other")
    desk.clock.advance(1.0)
    assert ids_of(await desk.claim(1)) == ["q2"]
    assert ids_of(await desk.claim(1)) == ["t1"]


async def test_what_a_keys_rate_lets_start_comes_by_its_own_place_among_queues(desk: FlowDesk) -> None:
    await desk.rule(key_rate="1/s")
    await desk.accept(*(new(id, queue="q", key="x") for id in ("x1", "x2")))
    assert ids_of(await desk.claim(10)) == ["x1"]
    desk.clock.advance(0.1)
    await desk.accept("t1", queue="other")
    desk.clock.advance(0.1)
    await desk.accept(new("y1", queue="q", key="y"))
    desk.clock.advance(1.0)
    assert ids_of(await desk.claim(3)) == ["x2", "t1", "y1"]


async def test_keys_that_waited_before_their_queue_became_fair_take_turns(desk: FlowDesk) -> None:
    await desk.rule(key_concurrency=9)
    await desk.accept(*(new(f"{key}{n}", queue="q", key=key) for key in "xy" for n in range(4)))
    assert ids_of(await desk.claim(1)) == ["x0"]
    await desk.rule(fair=True)
    turns = [ids_of(await desk.claim(1))[0][0] for _ in range(6)]
    assert all(one != other for one, other in pairwise(turns)), turns


async def test_what_was_held_and_limits_nothing_is_claimed_ahead(desk: FlowDesk) -> None:
    await desk.accept("t1", queue="q")
    (claim,) = await desk.claim(1)
    await desk.settle(claim, Outcome(Kind.RELEASED, retry_in=0.3, hold="queue"))
    assert await desk.claim(10, free=0) == []
    desk.clock.advance(1.0)
    assert ids_of(await desk.claim(10, free=0)) == ["t1"]


async def test_what_is_claimed_ahead_is_none_of_a_limited_queue(desk: FlowDesk) -> None:
    await desk.rule(concurrency=5)
    await desk.accept("t1", "t2", queue="q")
    await desk.accept("p1", "p2", "p3", queue="plain")
    assert ids_of(await desk.claim(10, free=1)) == ["t1", "p1", "p2", "p3"]
    answer = await desk.ask(10, free=0)
    assert answer.claims == []
    assert answer.next_due is None or answer.next_due > desk.now
    assert ids_of(await desk.claim(10, free=3)) == ["t2"]


async def test_a_throttled_run_holds_its_key_and_no_other(desk: FlowDesk) -> None:
    await desk.accept(*[new(f"{key}{n}", queue="q", key=key) for key in "ab" for n in range(2)])
    claim = await desk.claim_one()
    expect(Settled, await desk.settle(claim, Outcome(Kind.RELEASED, retry_in=30, hold="key")))
    task = await desk.get("a0")
    assert (task.attempts, task.failures) == (0, 0)
    assert ids_of(await desk.claim(10)) == ["b0", "b1"]
    assert await desk.held("a1") == "hold"
    (a, b) = await desk.keys_of()
    assert a.hold_until is not None
    assert b.hold_until is None
    desk.clock.advance(30.01)
    assert ids_of(await desk.claim(10)) == ["a1", "a0"]


async def test_a_throttled_run_without_a_key_holds_its_queue_for_an_hour_at_most(desk: FlowDesk) -> None:
    await desk.accept("t1", "t2", queue="q")
    claim = await desk.claim_one()
    expect(Settled, await desk.settle(claim, Outcome(Kind.RELEASED, retry_in=9999.0, hold="key")))
    assert await desk.claim(10) == []
    hold = (await desk.rules_of()).hold_until
    assert hold is not None
    assert hold - desk.now == pytest.approx(3_600_000, abs=2)
    desk.clock.advance(3600.01)
    assert ids_of(await desk.claim(10)) == ["t2"]


async def test_a_hold_ends_by_hand(desk: FlowDesk) -> None:
    await desk.accept("t1", "t2", queue="q")
    expect(
        Settled, await desk.settle(await desk.claim_one(), Outcome(Kind.RELEASED, retry_in=60, hold="queue"))
    )
    assert await desk.claim(10) == []
    await desk.store.resume("q", None, desk.now, "ann")
    assert ids_of(await desk.claim(10)) == ["t2"]
    assert await desk.store.rules("q", desk.now) == []


async def test_a_capacity_of_its_own(desk: FlowDesk) -> None:
    await desk.rule(capacity=2)
    answers = await desk.insert("t1", "t2", "t3", queue="q")
    expect(QueueFull, answers[2])
    await desk.accept("t4", "t5", "t6", queue="other")
    await desk.rule(capacity=3)
    await desk.accept("t3", queue="q")


async def test_of_several_apps_the_strictest_holds_and_people_stand_over_them(desk: FlowDesk) -> None:
    await desk.declare("shop", q=Said(concurrency=5, fair=True), only_apps=Said(capacity=7))
    await desk.declare("mail", q=Said(concurrency=3))
    assert (await desk.rules_of()).rules.concurrency == 3
    await desk.rule(concurrency=9)
    found = await desk.rules_of()
    assert found.rules.concurrency == 9
    assert found.rules.fair
    assert found.declared == {"shop": Said(concurrency=5, fair=True), "mail": Said(concurrency=3)}
    assert found.people is not None
    assert found.people.changed_by == "ann"
    await desk.rule(concurrency="none")
    assert (await desk.rules_of()).rules.concurrency is None
    await desk.store.unsay("q", None)
    assert (await desk.rules_of()).rules.concurrency == 3
    assert [rules.queue for rules in await desk.store.rules(None, desk.now)] == ["only_apps", "q"]


async def test_a_lower_release_changes_nothing(desk: FlowDesk) -> None:
    assert await desk.declare("shop", 3, q=Said(concurrency=5))
    assert not await desk.declare("shop", 2, q=Said(concurrency=1))
    assert (await desk.rules_of()).rules.concurrency == 5
    assert await desk.declare("shop", 3)
    assert await desk.store.rules("q", desk.now) == []


async def test_a_queue_with_rules_counts_as_one_of_the_names(desk: FlowDesk) -> None:
    for n in range(5):
        await desk.rule(f"q{n}", capacity=9)
    expect(TooManyQueues, await desk.say("q5", None, {"capacity": 9}))
    expect(TooManyQueues, (await desk.insert("t1", queue="q6"))[0])
    await desk.accept("t1", queue="q0")


async def test_keys_are_listed_by_name_with_what_they_use(desk: FlowDesk) -> None:
    await desk.accept(*[new(f"{key}{n}", queue="q", key=key) for key in "abc" for n in range(3)])
    await desk.rule(key="z", concurrency=2)
    await desk.rule(key_concurrency=1)
    await desk.claim(10)
    found = [(use.key, use.queued, use.running, use.rules.concurrency) for use in await desk.keys_of()]
    assert found == [("a", 2, 1, 1), ("b", 2, 1, 1), ("c", 2, 1, 1), ("z", 0, 0, 2)]
    assert [use.key for use in await desk.keys_of(limit=2, after="a")] == ["b", "c"]


async def test_rules_and_what_they_used_up_outlive_a_restart(
    open_store: OpenStore, clock: ManualClock, url: str
) -> None:
    if url == "memory:":
        return
    desk = FlowDesk(await open_store(), clock)
    await desk.rule("busy", concurrency=2)
    await desk.rule("slow", rate=rate(1, 100.0, 1))
    await desk.rule("keyed", key_concurrency=1)
    await desk.rule("keyed", "x", paused=True)
    for queue in ("busy", "slow"):
        await desk.accept(*[new(f"{queue}{n}", queue=queue) for n in range(3)])
    await desk.accept(*[new(f"{key}{n}", queue="keyed", key=key) for key in "xy" for n in range(2)])
    claims = await desk.claim_remote(100)
    assert sorted(ids_of(claims)) == ["busy0", "busy1", "slow0", "y0"]
    await desk.store.close()
    again = FlowDesk(await open_store(), clock)
    assert await again.claim(100) == []
    assert await again.held("slow1") == "rate"
    assert await again.held("x0") == "key_paused"
    await again.end(*claims)
    assert sorted(ids_of(await again.claim(100))) == ["busy2", "y1"]
    clock.advance(101.0)
    assert ids_of(await again.claim(100)) == ["slow1"]


async def test_a_key_has_at_most_ten_thousand_with_rules(
    desk: FlowDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for engine in ("sqlite", "postgres"):
        monkeypatch.setattr(f"jobpipe.storage.{engine}.flow.MAX_KEY_RULES", 2)
    await desk.rule(key="a", paused=True)
    await desk.rule(key="b", paused=True)
    expect(Invalid, await desk.say("q", "c", {"paused": True}))
    await desk.rule(key="a", concurrency=1)
