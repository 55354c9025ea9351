"""Groups of errors: what varies from task to task splits no group, what people would call another error does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobpipe.core.shape import SHAPE_LIMIT, error_group, message_shape


@pytest.mark.parametrize(
    ("message", "shape"),
    [
        ("user 17 not found", "user <n> not found"),
        ("took 12.5s, at 12:30:01", "took <n>s, at <n>"),
        ("no such id 550e8400-e29b-41d4-a716-446655440000", "no such id <uuid>"),
        ("bad digest d41d8cd98f00b204e9800998ecf8427e", "bad digest <hex>"),
        ("<Thing object at 0x7F3a00>", "<Thing object at <hex>>"),
        ("can't open '/tmp/a b' or \"c\": it's gone", "can't open <quoted> or <quoted>: it's gone"),
        ("deadbeef is a word, and feedface1 is not", "deadbeef is a word, and <hex> is not"),
        ("\n\n  first line\nsecond line", "first line"),
        ("", ""),
    ],
)
def test_what_varies_is_replaced_and_the_rest_is_kept(message: str, shape: str) -> None:
    assert message_shape(message) == shape


def test_one_group_is_one_handler_one_type_and_one_shape() -> None:
    group, shape = error_group("mail.send", "ValueError", "user 1 not found")
    assert error_group("mail.send", "ValueError", "user 2 not found") == (group, shape)
    others = [
        error_group("mail.send", "KeyError", "user 1 not found"),
        error_group("mail", "ValueError", "user 1 not found"),
        error_group("mail.send", "ValueError", "user 1 found"),
    ]
    assert len({group, *(other for other, _ in others)}) == 4


def test_the_name_of_a_group_stays_what_it_is_over_versions() -> None:
    assert error_group("h", "ValueError", "user 1 not found") == ("b08fec7417bcd353", "user <n> not found")


@given(st.text(), st.text(), st.text())
def test_any_text_has_a_group_and_a_short_shape(handler: str, type: str, message: str) -> None:
    group, shape = error_group(handler, type, message)
    assert len(group) == 16
    assert int(group, 16) >= 0
    assert len(shape) <= SHAPE_LIMIT
    assert "\n" not in shape
    shape.encode()


def test_half_a_character_is_no_error() -> None:
    group, shape = error_group("\udcff", "\udcff", "\udcff gone")
    assert shape == "? gone"
    assert len(group) == 16
