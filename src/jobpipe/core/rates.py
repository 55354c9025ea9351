"""Rates: how many starts in how much time, and when the next one may come.

The spacing is the generic cell rate algorithm (ITU-T I.371, annex A): one number, the time at which a start would come
if all had kept their distance, stands for the whole past. It is stored with the starts that move it on.
"""

from __future__ import annotations

import re

from msgspec import Struct

MAX_LIMIT = 1_000_000
MIN_PERIOD_S, MAX_PERIOD_S = 0.001, 86_400.0
RESTED_S = 0.1
"""Without a burst of its own a rate lets through at once what comes within so many seconds."""

_SHORT = re.compile(r"([0-9]{1,7})/([smhd])")
_PERIODS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


class BadRate(ValueError):
    """What cannot be a rate; one line for people."""


class Rate(Struct, frozen=True):
    """At most `limit` starts a `period` (seconds), evenly spaced; after a rest `burst` of them at once.

    With a burst of 1 no half-open window of one period holds more than `limit` starts; with b, `limit + b - 1`. `sent`
    is its short form, if it came in that.
    """

    limit: int
    period: float
    burst: int | None = None
    sent: str | None = None

    @property
    def per_second(self) -> float:
        """Starts a second, to tell which of two rates is the stricter."""
        return self.limit / self.period

    @property
    def interval_us(self) -> int:
        """Microseconds between two starts, rounded up: never a start too many."""
        return max(1, -(-round(self.period * 1_000_000) // self.limit))

    @property
    def at_once(self) -> int:
        """How many may start together after a rest."""
        return self.burst if self.burst is not None else max(1, int(self.per_second * RESTED_S))

    def allowed(self, due_us: int, now_us: int) -> int:
        """How many may start now. `due_us` is the stored time: when the next start is due; 0 before the first."""
        return max(0, (now_us - max(due_us, now_us)) // self.interval_us + self.at_once)

    def after(self, starts: int, due_us: int, now_us: int) -> int:
        """The time to store once `starts` more began now."""
        return max(due_us, now_us) + starts * self.interval_us

    def opens_us(self, due_us: int) -> int:
        """From when on one more may start."""
        return due_us - (self.at_once - 1) * self.interval_us


def parse_rate(text: str) -> Rate:
    """The rate that "100/m" stands for (s, m, h, d). Raises BadRate."""
    match = _SHORT.fullmatch(text)
    if match is None:
        raise BadRate("must look like 100/m (s, m, h, d)")
    return checked(Rate(int(match[1]), _PERIODS[match[2]], sent=text))


def checked(rate: Rate) -> Rate:
    """The same rate. Raises BadRate where a number is out of its bounds."""
    if not 1 <= rate.limit <= MAX_LIMIT:
        raise BadRate(f"its limit must be 1 to {MAX_LIMIT}")
    if not MIN_PERIOD_S <= rate.period <= MAX_PERIOD_S:
        raise BadRate(f"its period must be {MIN_PERIOD_S} to {MAX_PERIOD_S:.0f} seconds")
    if rate.burst is not None and not 1 <= rate.burst <= rate.limit:
        raise BadRate("its burst must be 1 to its limit")
    return rate
