"""What reading a request costs grows no faster than its bytes, whatever they are: each shape is doubled and timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from jobpipe.core.errors import JobpipeError
from jobpipe.core.keys import BadKeys, parse_keys
from jobpipe.core.shape import message_shape
from jobpipe.http.browser import Guard
from jobpipe.http.request_line import foreign_method
from jobpipe.wire import Defaults, filters, requests, working
from jobpipe.wire.strict import check_utf8
from jobpipe.wire.times import parse_time

pytestmark = pytest.mark.alone

SIZE = 40 * 1024
"""Bytes of the smaller of two bodies: what takes quadratic time takes a good part of a second."""
ENOUGH_S = 0.02
"""A body that is read within this time may be timed wrongly, and harms nobody."""
ROUNDS = 6
"""Only what costs too much each time does: another program on the same core makes any single time a long one."""
DEFAULTS = Defaults(max_body=64 * 1024 * 1024)

ENDS = ("", '"', '"}', '"}]', "}", "]", "}]", "\\")
UNITS = (
    "[",
    "{",
    '"',
    "\\",
    '\\"',
    '\\\\"',
    '"\\',
    "`",
    "'",
    ",",
    '",',
    "[]",
    "[[],",
    '{"a":',
    "{},",
    '"a":1,',
    "1",
    "-",
    ".",
    "0.",
    "1e",
    " ",
    "\n",
    "{}\n",
    "\t\n",
    "\u00e4",
    "\\ud800",
    "\\u0000",
    "\x1b[",
    "<",
    "$.",
    "field `",
    "missing required field `",
    "Object contains unknown field `",
    " - at `$",
    "[...]",
    "0:",
    "2026-",
    "//",
    "*/",
    "%25",
    "+",
)
STARTS = (
    "",
    "[",
    '"',
    "[" * 3000,
    "[" * 3000 + '"',
    '{"a":"',
    '{"a":',
    '{"',
    '{"id":"',
    '{"id":',
    '{"payload":"',
    '{"payload":[',
    '{"payload":',
    '{"max_retries":',
    '{"priority":',
    '{"delay":',
    '{"timeout":',
    '{"run_at":"',
    '{"queue":"',
    '{"handler":"',
    '[{"id":"',
    '[{"payload":"',
    '[{"payload":[',
    '[{"',
    '[{"id":"a","lease_id":"',
    '[{"id":"a","lease_id":"b","outcome":"',
    '[{"id":"a","lease_id":"b","outcome":"done","result":',
    '[{"id":"a","lease_id":"b","outcome":"done","result":[[],"',
    '[{"id":"a","lease_id":"b","outcome":"failed","error":{"message":"',
    '[{"id":"a","lease_id":"b","outcome":"failed","retry_in":',
    '{"worker_id":"',
    '{"worker_id":"w","queues":["',
    '{"worker_id":"w","leases":[{"id":"',
    '{"worker_id":"w","max":',
    '{"status":"',
    '{"ids":["',
    '{"error_type":"',
    '{"error_group":"',
    '{"created_after":"',
    '{"id_prefix":"',
    '{"limit":',
)

FEW = ("", "[", "[" * 3000, "[" * 3000 + '"', '[{"id":"a","lease_id":"b","outcome":"')
"""These are ended in every way."""

BODIES: dict[str, Callable[[bytes], Any]] = {
    "enqueue": lambda body: requests.parse_object(body, DEFAULTS, 0),
    "batch": lambda body: requests.parse_array(body, DEFAULTS, 0),
    "lines": lambda body: requests.parse_lines(body, DEFAULTS, 0),
    "lease": working.parse_lease,
    "settle": lambda body: working.parse_settles(body, DEFAULTS.max_body),
    "extend": working.parse_extend,
    "bulk": filters.parse_bulk,
    "utf8": check_utf8,
}


def seconds(read: Callable[[Any], Any], given: Any, tries: int = 1) -> float:
    """How long reading it takes; whether it is refused does not matter."""
    best = float("inf")
    for _ in range(tries):
        began = time.thread_time()
        with suppress(JobpipeError, ValueError, BadKeys):
            read(given)
        best = min(best, time.thread_time() - began)
    return best


def grown(start: str, unit: str, end: str, size: int) -> bytes:
    return (start + unit * (size // len(unit.encode())) + end).encode()


def superlinear(read: Callable[[Any], Any], make: Callable[[int], Any]) -> str | None:
    """What the shape costs, when twice the bytes cost much more than twice the time."""
    if (twice := seconds(read, make(2 * SIZE))) < ENOUGH_S:
        return None
    once = seconds(read, make(SIZE), 3)
    for _ in range(ROUNDS):
        twice = min(twice, seconds(read, make(2 * SIZE), 2))
        if twice < max(3 * once, ENOUGH_S):
            return None
        once = min(once, seconds(read, make(SIZE)))
    return f"{SIZE} bytes {once:.3f} s, twice as many {twice:.3f} s"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("route", BODIES)
def test_twice_the_body_costs_twice_the_time(route: str) -> None:
    read = BODIES[route]
    read_twice = {
        (start[:40], unit, end): found
        for start in STARTS
        for unit in UNITS
        for end in (ENDS if start in FEW else ENDS[1:2])
        if (found := superlinear(read, lambda size, s=start, u=unit, e=end: grown(s, u, e, size)))
    }
    assert read_twice == {}


@pytest.mark.parametrize(
    "name",
    ["status", "queue", "handler", "error_type", "id_prefix", "created_after", "limit", "cursor", "id", "x"],
)
def test_a_query_costs_what_its_bytes_cost(name: str) -> None:
    costly = {
        unit: found
        for unit in (*UNITS, "&", "=", "&a=", "%", "%2", "%ff", ";", f"&{name}=")
        if (
            found := superlinear(
                filters.parse_listing, lambda size, u=unit: f"{name}={u * (size // len(u))}".encode()
            )
        )
    }
    assert costly == {}


@pytest.mark.parametrize(
    "read",
    [
        message_shape,
        parse_time,
        parse_keys,
        lambda text: Guard(frozenset()).refusal("GET", b"/", {b"host": text.encode()}),
        lambda text: Guard(frozenset()).refusal("GET", b"/", {b"host": b"a", b"origin": text.encode()}),
        lambda text: foreign_method(text.encode(), behind=True),
        lambda text: requests.valid_traceparent(text.encode()),
    ],
    ids=["shape", "time", "keys", "host", "origin", "method", "traceparent"],
)
def test_texts_of_strangers_are_read_in_linear_time(read: Callable[[str], Any]) -> None:
    units = (*UNITS, "0x", "a", "8-", "12345678-", "'a", "A ", "A b ", "http://", "[:", "a:", "00-")
    costly = {
        unit: found
        for unit in units
        if (found := superlinear(read, lambda size, u=unit: u * (size // len(u))))
    }
    assert costly == {}
