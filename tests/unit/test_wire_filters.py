"""Cursors and queries."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.core.errors import Invalid
from jobpipe.wire import next_page, parse_listing
from jobpipe.wire.filters import decode_cursor, encode_cursor


@given(st.integers(0, 2**63 - 1))
def test_a_cursor_carries_its_place(seq: int) -> None:
    assert decode_cursor(encode_cursor(seq)) == seq
    assert encode_cursor(seq).replace("-", "").replace("_", "").isalnum()


@given(st.integers(0, 2**63 - 1), st.integers(0, 15), st.sampled_from("ABab09-_!= é"))
def test_a_changed_cursor_is_noticed(seq: int, at: int, letter: str) -> None:
    cursor = encode_cursor(seq)
    changed = cursor[:at] + letter + cursor[at + 1 :]
    if changed != cursor:
        with pytest.raises(Invalid) as refused:
            decode_cursor(changed)
        assert refused.value.field == "cursor"


@given(st.binary(max_size=60))
def test_any_query_is_a_listing_or_invalid(query: bytes) -> None:
    with contextlib.suppress(Invalid):
        parse_listing(query)


def test_the_next_page_keeps_the_query_and_replaces_the_cursor() -> None:
    listing = parse_listing(b"id_prefix=a%26b+%C3%A9&limit=5&cursor=" + encode_cursor(9).encode())
    assert (listing.limit, listing.before_seq, listing.where.id_prefix) == (5, 9, "a&b é")
    again = parse_listing(next_page(listing, 4).encode())
    assert (again.where, again.limit, again.before_seq) == (listing.where, 5, 4)


def test_a_query_of_any_length_is_refused_early() -> None:
    with pytest.raises(Invalid):
        parse_listing(b"id_prefix=" + b"x" * 10_000)
