"""Rules of queues and keys, and rates, as pure values."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.core.rates import BadRate, Rate, checked, parse_rate
from jobpipe.core.rules import NOTHING_SAID, Rules, Said, changed, in_force

S = 1_000_000
RATES = st.builds(Rate, st.integers(1, 50), st.sampled_from([0.001, 0.7, 1.0, 60.0]), st.just(1)) | st.builds(
    Rate, st.integers(5, 50), st.sampled_from([1.0, 60.0]), st.integers(1, 5) | st.none()
)


@given(RATES, st.lists(st.integers(0, 3_000_000), min_size=2, max_size=300), st.randoms())
def test_no_window_of_a_period_holds_more_starts_than_the_rate(
    rate: Rate, pauses: list[int], source: random.Random
) -> None:
    now, due, starts = 10**15, 0, []
    for pause in pauses:
        now += pause
        taken = min(rate.allowed(due, now), source.randint(0, 100))
        if taken:
            due = rate.after(taken, due, now)
            starts += [now] * taken
    period = round(rate.period * S)
    for i, begin in enumerate(starts):
        within = sum(1 for at in starts[i:] if at < begin + period)
        assert within <= rate.limit + rate.at_once - 1


@given(RATES, st.integers(0, 10**9))
def test_the_next_start_may_come_when_it_is_said_to_and_not_before(rate: Rate, later: int) -> None:
    now = 10**15
    due = rate.after(rate.allowed(0, now), 0, now)
    assert rate.allowed(due, now) == 0
    assert rate.allowed(due, rate.opens_us(due) - 1) == 0
    assert rate.allowed(due, rate.opens_us(due)) == 1
    assert rate.allowed(due, now + later) <= rate.at_once


def test_a_rate_is_used_up_in_full() -> None:
    rate, due, now, starts = parse_rate("100/m"), 0, 10**15, 0
    for _ in range(600):
        if n := rate.allowed(due, now):
            due, starts = rate.after(n, due, now), starts + n
        now += 100_000
    assert starts == 100


def test_what_comes_within_a_tenth_of_a_second_may_come_at_once() -> None:
    assert parse_rate("1000/s").at_once == 100
    assert parse_rate("100/m").at_once == 1
    assert Rate(100, 60.0, 7).at_once == 7


@pytest.mark.parametrize("text", ["", "100", "100/x", "0/s", "-1/s", "1.5/s", "1000001/s", "100/ m", "1e3/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(BadRate):
        parse_rate(text)


@pytest.mark.parametrize("rate", [Rate(1, 0.0), Rate(1, 90_000.0), Rate(5, 1.0, 6), Rate(5, 1.0, 0)])
def test_numbers_out_of_bounds_are_refused(rate: Rate) -> None:
    with pytest.raises(BadRate):
        checked(rate)


def test_people_stand_over_apps_rule_by_rule() -> None:
    app = Said(concurrency=5, rate=parse_rate("100/m"))
    assert in_force([app], Said(concurrency=9)) == Rules(concurrency=9, rate=parse_rate("100/m"))
    assert in_force([app], Said(concurrency="none", rate="none")) == Rules()
    assert in_force([app], NOTHING_SAID) == Rules(concurrency=5, rate=parse_rate("100/m"))


def test_of_several_apps_the_strictest_holds_rule_by_rule() -> None:
    one = Said(concurrency=5, rate=parse_rate("100/m"), key_concurrency=1)
    other = Said(concurrency=8, rate=parse_rate("1/s"), fair=True, capacity=10)
    assert in_force([one, other], NOTHING_SAID) == Rules(
        capacity=10, concurrency=5, rate=parse_rate("1/s"), key_concurrency=1, fair=True
    )


def test_an_app_cannot_pause() -> None:
    assert not in_force([Said(paused=True)], NOTHING_SAID).paused
    assert in_force([], Said(paused=True)).paused


def test_a_key_goes_by_its_own_rules_else_by_its_queues() -> None:
    queue = Rules(concurrency=50, key_concurrency=1, key_rate=parse_rate("1/s"))
    assert queue.of_key(NOTHING_SAID) == Rules(concurrency=1, rate=parse_rate("1/s"))
    assert queue.of_key(Said(concurrency=10, rate="none", paused=True)) == Rules(paused=True, concurrency=10)


def test_a_change_takes_back_with_none_and_leaves_the_rest() -> None:
    said = Said(concurrency=5, fair=True)
    assert changed(said, {"concurrency": None, "capacity": 7}) == Said(capacity=7, fair=True)
    assert changed(said, {}) == said
