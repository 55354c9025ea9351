"""Ids for tasks that came without one: UUIDs of version 7 (RFC 9562), rising within a process.

They sort by time, so that an index over ids grows at its end.
"""

from __future__ import annotations

from random import getrandbits

_TAIL_BITS = 74
_last = 0


def new_id(now: int) -> str:
    """A UUIDv7 for `now` (milliseconds), greater than every one made before, also when the clock went back."""
    global _last  # noqa: PLW0603 - the promise is one per process
    fresh = (now << _TAIL_BITS) | getrandbits(_TAIL_BITS)
    # Within one millisecond a random step keeps the order and still tells nobody the next id (method 2 of 6.2).
    value = _last = fresh if fresh >> _TAIL_BITS > _last >> _TAIL_BITS else _last + 1 + getrandbits(32)
    ms, tail = value >> _TAIL_BITS, value & ((1 << _TAIL_BITS) - 1)
    bits = (ms << 80) | (0x7 << 76) | ((tail >> 62) << 64) | (0b10 << 62) | (tail & ((1 << 62) - 1))
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
