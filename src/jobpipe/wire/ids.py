"""Ids for tasks that came without one: UUIDs of version 7 (RFC 9562), rising within a process.

They sort by time, so that an index over ids grows at its end.
"""

from __future__ import annotations

import os

from jobpipe.runtime.randomness import getrandbits

_TAIL_BITS = 74
_LOW_BITS = 62
_LOW = (1 << _LOW_BITS) - 1
_VARIANT = 0b10 << _LOW_BITS
_last = 0
_high = -1
_prefix = ""


def new_id(now: int) -> str:
    """A UUIDv7 for `now` (milliseconds), greater than every one made before, also when the clock went back."""
    global _last, _high, _prefix  # noqa: PLW0603 - the promise is one per process
    # Within one millisecond a random step keeps the order and still tells nobody the next id (method 2 of 6.2).
    later = now > _last >> _TAIL_BITS
    value = _last = (now << _TAIL_BITS) | getrandbits(_TAIL_BITS) if later else _last + 1 + getrandbits(32)
    high = value >> _LOW_BITS
    if (
        high != _high
    ):  # the same for nearly all ids of a millisecond: writing it once halves the cost of an id
        _high = high
        digits = f"{high >> 12:012x}"
        _prefix = f"{digits[:8]}-{digits[8:]}-7{high & 0xFFF:03x}-"
    low = f"{value & _LOW | _VARIANT:x}"
    return f"{_prefix}{low[:4]}-{low[4:]}"


def _begin_anew() -> None:
    """In a forked child: steps from the parent's last id could meet the steps of its other children."""
    global _last  # noqa: PLW0603 - as above
    _last = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)
