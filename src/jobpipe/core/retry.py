"""When to try again: exponential backoff with jitter, as a pure function of the retry's number and a random source."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class RetryPolicy(Struct, frozen=True):
    """The delay before retry number n (n = 1 for the first): `min(cap, base * 2^(n-1)) + random(0, jitter)` seconds.

    The exponential part is the "capped exponential backoff" of the AWS Architecture Blog (2015); the jitter is
    additive, so that the delay is never shorter than documented.
    """

    base: float = 0.2
    jitter: float = 0.1
    cap: float = 300.0

    def delay(self, retry: int, random: Callable[[], float]) -> float:
        """Seconds to wait before retry number `retry` (from 1); `random` gives floats in [0, 1)."""
        if retry < 1:
            raise ValueError(f"retries are counted from 1, not {retry}")
        exponent = min(retry - 1, 1000)  # 2.0**1024 overflows; any cap is reached long before
        return min(self.cap, self.base * 2.0**exponent) + random() * self.jitter


PATIENT = RetryPolicy(base=60.0, jitter=30.0, cap=6 * 3600.0)
"""For work that depends on the world outside: 1, 2, 4 ... minutes, at most six hours."""
PATIENT_RETRIES = 12
"""So many of these take a day."""
