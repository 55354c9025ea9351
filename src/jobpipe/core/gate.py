"""What a queue, or one of its keys, has used up of its rules, and when the next start may come.

What runs is told by who keeps the running claims, and is never counted beside them: a gate that is made anew from those
claims says the same.
"""

from __future__ import annotations

from typing import Literal

from jobpipe.core.rates import Rate
from jobpipe.core.rules import MAX_HOLD_S, NO_RULES, Rules

UNBOUNDED = 1 << 40
Held = Literal["paused", "key_paused", "hold", "concurrency", "key_concurrency", "rate", "key_rate"]
"""Why a due task is not to be claimed."""


class Gate:
    """`rules` and what counts against them: what runs, when the next start is due by the rate (microseconds, 0 before
    the first), and until when a 429 from outside holds it (milliseconds).
    """

    __slots__ = ("hold_until", "next_us", "rules", "running")

    def __init__(
        self, rules: Rules = NO_RULES, running: int = 0, next_us: int = 0, hold_until: int = 0
    ) -> None:
        self.rules = rules
        self.running = running
        self.next_us = next_us
        self.hold_until = hold_until

    def room(self, now: int) -> int:
        """How many may start at `now` (milliseconds)."""
        rules = self.rules
        if rules.paused or self.holds(now):
            return 0
        room = UNBOUNDED if rules.concurrency is None else rules.concurrency - self.running
        if rules.rate is not None:
            room = min(room, rules.rate.allowed(self._due_us(rules.rate, now), now * 1000))
        return max(0, room)

    def opens(self, now: int) -> int | None:
        """From when on one more may start, if nothing else happens; None: not by time."""
        rules = self.rules
        if rules.paused or (rules.concurrency is not None and self.running >= rules.concurrency):
            return None
        opens = self.hold_until if self.holds(now) else now
        if rules.rate is not None:
            opens = max(opens, -(-rules.rate.opens_us(self._due_us(rules.rate, now)) // 1000))
        return opens

    def holds(self, now: int) -> bool:
        """Whether a hold is on; one that lies further ahead than any may was set before the clock was put back."""
        return now < self.hold_until <= now + MAX_HOLD_S * 1000

    def start(self, now: int) -> None:
        """One more runs."""
        self.running += 1
        rate = self.rules.rate
        if rate is not None:
            self.next_us = rate.after(1, self._due_us(rate, now), now * 1000)

    def undo(self) -> None:
        """The start that was the latest did not happen."""
        self.running -= 1
        if self.rules.rate is not None:
            self.next_us -= self.rules.rate.interval_us

    def end(self) -> None:
        """One that ran does so no more."""
        self.running -= 1

    def hold(self, until: int) -> None:
        """Nothing starts before `until`, or before what was said earlier."""
        self.hold_until = max(self.hold_until, until)

    def _due_us(self, rate: Rate, now: int) -> int:
        """No start is due later than a full burst from now: else a slower rate was in force, or the clock put back."""
        return min(self.next_us, now * 1000 + rate.at_once * rate.interval_us)


def held(queue: Gate, key: Gate | None, now: int) -> Held | None:
    """The first reason why a due task of this queue and key may not start."""
    reasons: list[tuple[Held, bool]] = [
        ("paused", queue.rules.paused),
        ("key_paused", key is not None and key.rules.paused),
        ("hold", queue.holds(now) or (key is not None and key.holds(now))),
        ("concurrency", _used_up(queue)),
        ("key_concurrency", key is not None and _used_up(key)),
        ("rate", queue.room(now) <= 0),
        ("key_rate", key is not None and key.room(now) <= 0),
    ]
    return next((reason for reason, so in reasons if so), None)


def _used_up(gate: Gate) -> bool:
    return gate.rules.concurrency is not None and gate.running >= gate.rules.concurrency
