"""The delay before a retry stays where the documentation puts it."""

from __future__ import annotations

import math
import random

import pytest

from jobpipe.core.retry import RetryPolicy

SAMPLES = 10_000


@pytest.mark.parametrize("retry", range(1, 21))
def test_ten_thousand_delays_of_each_retry_are_in_the_documented_range(retry: int) -> None:
    policy = RetryPolicy()
    source = random.Random(retry)
    shortest = min(300.0, 0.2 * 2 ** (retry - 1))
    delays = [policy.delay(retry, source.random) for _ in range(SAMPLES)]
    assert min(delays) >= shortest
    assert max(delays) <= shortest + 0.1
    # They spread over the whole range: a jitter that is always zero is what one test would have caught.
    assert min(delays) < shortest + 0.01
    assert max(delays) > shortest + 0.09
    assert math.isclose(sum(delays) / SAMPLES, shortest + 0.05, abs_tol=0.005)


def test_the_delay_doubles_until_the_cap() -> None:
    policy = RetryPolicy(base=1.0, jitter=0.0, cap=10.0)
    assert [policy.delay(n, lambda: 0.5) for n in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_the_jitter_is_added_and_never_shortens() -> None:
    policy = RetryPolicy(base=1.0, jitter=0.5, cap=2.0)
    assert policy.delay(1, lambda: 0.0) == 1.0
    assert policy.delay(1, lambda: 0.5) == 1.25
    assert policy.delay(9, lambda: 0.5) == 2.25


@pytest.mark.parametrize("retry", [1001, 1024, 1025, 5000, 10**9])
def test_a_retry_number_beyond_every_float_still_waits_the_cap(retry: int) -> None:
    assert RetryPolicy(jitter=0.0).delay(retry, random.random) == 300.0


def test_a_huge_cap_gives_a_finite_delay() -> None:
    assert math.isfinite(RetryPolicy(base=0.2, cap=float("inf")).delay(5000, random.random))


def test_no_base_and_no_jitter_is_no_delay() -> None:
    assert RetryPolicy(base=0.0, jitter=0.0).delay(5000, random.random) == 0.0


@pytest.mark.parametrize("retry", [0, -1])
def test_retries_are_counted_from_one(retry: int) -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        RetryPolicy().delay(retry, random.random)
