"""The wire against a strict reader written by RFC 8259: what one takes the other takes, and no more."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobpipe.core.errors import Invalid, InvalidJson, JobpipeError
from jobpipe.core.task import NewTask
from jobpipe.wire import Defaults, parse_array, parse_lines, parse_object
from jobpipe.wire.strict import too_deep
from jobpipe.wire.working import parse_extend, parse_lease

DEFAULTS = Defaults()
NOW = 1_700_000_000_000

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_STRING = re.compile(
    r'"(?:[^"\\\x00-\x1f\ud800-\udfff]|\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})*\""
)
_SPACE = re.compile(r"[ \t\n\r]*")


def is_json(data: bytes) -> bool:
    """Whether `data` is one JSON value in UTF-8, its strings without lone surrogates."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False
    end = _value(text, _skip(text, 0))
    return end is not None and _skip(text, end) == len(text)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match
    return match.end()


def _value(text: str, at: int) -> int | None:
    """Where the value that begins at `at` ends, None when none does."""
    for word in ("true", "false", "null"):
        if text.startswith(word, at):
            return at + len(word)
    if text.startswith("[", at):
        return _members(text, at, "]", _value)
    if text.startswith("{", at):
        return _members(text, at, "}", _member)
    match = _STRING.match(text, at) or _NUMBER.match(text, at)
    return match.end() if match else None


def _members(text: str, at: int, end: str, read) -> int | None:  # type: ignore[no-untyped-def]
    at = _skip(text, at + 1)
    if text.startswith(end, at):
        return at + 1
    while True:
        after = read(text, at)
        if after is None:
            return None
        at = _skip(text, after)
        if text.startswith(end, at):
            return at + 1
        if not text.startswith(",", at):
            return None
        at = _skip(text, at + 1)


def _member(text: str, at: int) -> int | None:
    match = _STRING.match(text, at)
    if match is None:
        return None
    at = _skip(text, match.end())
    return _value(text, _skip(text, at + 1)) if text.startswith(":", at) else None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)

PIECES = [
    b'"', b"\\", b"\\u", b"d800", b"dc00", b"\\ud83d\\ude00", b"\\n", b"\\x", b"[", b"]", b"{", b"}", b",", b":", b"0",
    b"1", b"-", b"+", b".", b"e", b"E", b"true", b"null", b"NaN", b"Infinity", b" ", b"\n", b"\x00", b"\x1f", b"\x7f",
    b"\xff", b"\xc3", b"\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf", b"a", b"/", b"\x0c", b"\xc2\xa0",
    b'"a":1', b'"a"', b"[1]", b"{}",
]  # fmt: skip


def refuses(payload: bytes) -> bool:
    try:
        task = parse_object(b'{"payload":' + payload + b"}", DEFAULTS, NOW)
    except JobpipeError:
        return True
    assert task.payload == payload.strip(b" \t\r\n")
    return False


def agree(payload: bytes) -> None:
    # A piece may end the payload and begin another member; what counts is the body as a whole.
    body = b'{"payload":' + payload + b"}"
    if not is_json(body):
        for read in (parse_object, parse_array):
            wrapped = b"[" + body + b"]" if read is parse_array else body
            try:
                read(wrapped, DEFAULTS, NOW)
            except InvalidJson:
                continue
            raise AssertionError(f"taken: {wrapped!r}")
    elif is_json(payload):
        assert not refuses(payload)


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
@example(b'"\\ud800\\ud800"')
@example(b'"\\ud800')
@example(b"1,")
@example(b'1,"x":')
def test_a_payload_of_json_pieces_is_taken_exactly_when_it_is_json(payload: bytes) -> None:
    agree(payload)


@settings(max_examples=500, deadline=None)
@given(values, st.data())
def test_a_changed_byte_is_noticed(value: object, data: st.DataObject) -> None:
    payload = bytearray(
        json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
    )
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] = data.draw(st.integers(0, 255))
    agree(bytes(payload))


@settings(max_examples=500, deadline=None)
@given(values, st.sampled_from([None, 2]), st.booleans())
def test_a_payload_is_kept_byte_for_byte(value: object, indent: int | None, ascii: bool) -> None:
    payload = json.dumps(value, indent=indent, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    if not is_json(payload):
        assert refuses(payload)
        return
    body = b'{"payload": ' + payload + b"\n}"
    assert parse_object(body, DEFAULTS, NOW).payload == payload
    for item in (
        *parse_array(b"[" + body + b"]", DEFAULTS, NOW),
        *parse_lines(body.replace(b"\n", b" "), DEFAULTS, NOW),
    ):
        assert isinstance(item, NewTask)
        assert item.payload == (payload if item.payload == payload else payload.replace(b"\n", b" "))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_a_task_or_an_error(body: bytes) -> None:
    for read in (parse_object, parse_array, parse_lines):
        with contextlib.suppress(Invalid, InvalidJson):
            read(body, DEFAULTS, NOW)


shapes = st.recursive(
    st.just("1") | st.just('"[[{"'),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
)


@given(shapes, st.integers(0, 128), st.integers(0, 200))
def test_depth_is_counted_as_the_nesting_of_brackets(shape: str, more: int, beside: int) -> None:
    payload = "[" * more + f"[{','.join([shape, *['[]'] * beside])}]" + "]" * more
    assert too_deep(payload.encode()) is (_depth(json.loads(payload)) > 128)


def _depth(value: object) -> int:
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def test_quotes_and_backslashes_hide_no_depth() -> None:
    deep = b"[" * 130 + b"]" * 130
    assert too_deep(rb'["\\",' + deep + b"]")
    assert too_deep(rb'["\"",' + deep + b"]")
    assert not too_deep(b'["' + deep + b'"]')
    assert not too_deep(rb'["\\\"' + deep + b'"]')


@pytest.mark.parametrize(
    ("body", "field", "detail"),
    [
        (b"{}", "worker_id", "Object missing required field 'worker_id'"),
        (b'{"worker_id":"w"}', "leases", "Object missing required field 'leases'"),
        (b'{"worker_id":"w","leases":[{}]}', "leases[0].id", "Object missing required field 'id'"),
        (
            b'{"worker_id":"w","leases":[{"id":"a","lease_id":"b"},{"id":"a"}]}',
            "leases[1].lease_id",
            "Object missing required field 'lease_id'",
        ),
        (
            b'{"worker_id":"w","leases":[{"id":"a","lease_id":"b","s[0]":1}]}',
            "leases[0].s[0]",
            "Object contains unknown field 's[0]'",
        ),
        (b'{"worker_id":"w","leases":[7]}', "leases", "Expected 'object', got 'int'"),
        (b'{"worker_id":"w","leases":[{"id":7}]}', "leases[0].id", "Expected 'str', got 'int'"),
        (b'{"worker_id":7}', "worker_id", "Expected 'str', got 'int'"),
        (b'{"worker_id":"w","lease":"`"}', "lease", "Expected 'float | null', got 'str'"),
    ],
)
def test_an_error_names_the_field_that_is_wrong_or_missing(body: bytes, field: str, detail: str) -> None:
    with pytest.raises(Invalid) as raised:
        parse_extend(body)
    assert (raised.value.field, raised.value.detail) == (field, detail)


def test_a_lease_request_without_a_worker_id_names_it() -> None:
    with pytest.raises(Invalid) as raised:
        parse_lease(b'{"max":1}')
    assert (raised.value.field, raised.value.detail) == (
        "worker_id",
        "Object missing required field 'worker_id'",
    )


def test_a_long_unknown_name_is_not_sent_back_whole() -> None:
    name = "x" * 10_000
    with pytest.raises(Invalid) as raised:
        parse_extend(b'{"worker_id":"w","leases":[{"id":"a","lease_id":"b","%b":1}]}' % name.encode())
    assert raised.value.field == f"leases[0].{name[:100]}"
    assert len(raised.value.detail or "") < 200
