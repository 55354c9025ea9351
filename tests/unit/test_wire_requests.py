"""Batches made to waste memory or time are refused before they do."""

from __future__ import annotations

import gc
import time
import tracemalloc

import pytest

from jobpipe.core.errors import Invalid, InvalidJson, JobpipeError
from jobpipe.wire import Defaults, parse_array, parse_lines
from jobpipe.wire.requests import handlers
from jobpipe.wire.working import RefusedSettle, parse_settles

NOW = 1_700_000_000_000
DEFAULTS = Defaults()
MIB = 1024 * 1024

WASTEFUL = {
    "millions of objects": b"[" + b"{}," * 2_000_000 + b"{}]",
    "millions of numbers": b"[" + b"0," * 2_000_000 + b"0]",
    "millions of numbers in one megabyte": b"[" + b"0," * 500_000 + b"0]",
    "open brackets": b"[" * 8 * MIB,
    "brackets and commas": b"[0," * 2_000_000,
    "a deep item": b"[" * 4 * MIB + b"]" * 4 * MIB,
    "strings that do not end": b'["' + b"\\" * 4 * MIB,
    "blanks": b"[" + b" " * 8 * MIB,
}


@pytest.mark.parametrize("body", WASTEFUL.values(), ids=WASTEFUL.keys())
def test_a_batch_made_to_waste_is_refused_with_little_memory(body: bytes) -> None:
    def parse() -> list[object]:
        try:
            return [*parse_array(body, DEFAULTS, NOW)]
        except (Invalid, InvalidJson):
            return []

    began = time.process_time()
    parse()
    assert time.process_time() - began < 5
    tracemalloc.start()
    answers = parse()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(isinstance(answer, JobpipeError) for answer in answers)
    assert peak < 4 * len(body) + 40 * MIB


@pytest.mark.parametrize(
    "item", ['{"priority":1000}', '{"colour":1}', '{"id":".."}', '{"run_at":"soon"}', "1"]
)
def test_refused_items_leave_nothing_for_the_collector(item: str) -> None:
    parse_array(f"[{item}]".encode(), Defaults(), 0)
    gc.collect()
    gc.disable()
    try:
        array = parse_array(f"[{','.join([item] * 100)}]".encode(), Defaults(), 0)
        lines = parse_lines("\n".join([item] * 100).encode(), Defaults(), 0)
        settles = parse_settles(b"[%b]" % b",".join([b'{"id":"a","outcome":1}'] * 100), 1000)
        assert all(isinstance(refused, JobpipeError) for refused in (*array, *lines))
        assert all(isinstance(refused, RefusedSettle) for refused in settles)
        del array, lines, settles
        assert gc.collect() < 10
    finally:
        gc.enable()


def test_lines_made_to_waste_are_refused() -> None:
    for body in (b"\n" * 8 * MIB, b" \r\n" * 2 * MIB, b"0\n" * 2_000_000):
        with pytest.raises(Invalid):
            parse_lines(body, DEFAULTS, NOW)


def test_many_items_beside_many_commas_are_taken() -> None:
    item = b'{"payload":[' + b"1," * 300 + b"1]}"
    answers = parse_array(b"[" + b",".join([item] * 1000) + b"]", Defaults(max_body=1000), NOW)
    assert len(answers) == 1000
    assert not any(isinstance(answer, JobpipeError) for answer in answers)


def test_known_names_stay_few() -> None:
    for n in range(10_010):
        handlers.check(f"h{n}")
    assert len(handlers._known) <= 10_000
