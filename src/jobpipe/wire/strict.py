"""The line against what msgspec lets through, and its errors as ours.

msgspec checks numbers, escapes and lone surrogates also inside `Raw`, but not UTF-8; it recurses, and how deep it gets
depends on the caller's stack. tests/unit/test_wire_strict.py holds it against a strict reader written by the RFC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import accumulate, islice
from typing import TypeVar

import msgspec
from msgspec import DecodeError, Raw, ValidationError

from jobpipe.core.errors import Invalid, InvalidJson

MAX_DEPTH = 128
"""Levels of arrays and objects in a payload, counted from the payload itself."""

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

_COMMA = ord(",")
# It takes what it found, also without an end and never in another way: bytes that nobody has judged yet would else be
# tried from every quote anew.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_MARKS = bytes(set(_NOT_BRACKETS) - {_COMMA})
_STEP = [1 if byte in b"[{" else 0 if byte == _COMMA else -1 for byte in range(256)]
_TOKEN = re.compile(_STRING.pattern + rb"|[\[{]+|[\]}]+|,", re.DOTALL)
_MANY_COMMAS = 200_000
_MOST_TOKENS = 500_000
_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_MEMBER = re.compile(r"Object (?:missing required|contains unknown) field `(.*)`", re.DOTALL)
_INDEX = re.compile(r"\[[^\[\]]*\]\Z")
_LONGEST_NAME = 100
_LONGEST_TEXT = 300
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_members = msgspec.json.Decoder(dict[str, Raw])
_encode = msgspec.json.encode


def check_utf8(body: bytes) -> None:
    """Raise InvalidJson unless `body` is UTF-8 throughout, also where a decoder would not look."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidJson(f"not UTF-8 at byte {error.start}") from None


def too_deep(value: bytes) -> bool:
    """Whether a JSON value is nested deeper than MAX_DEPTH. Few brackets, as usual, cost two counts and no scan."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    brackets = _STRING.sub(b"", value).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > MAX_DEPTH


def deep(field: str | None = "payload") -> Invalid:
    """The error for what is nested too deep."""
    return Invalid(f"nested deeper than {MAX_DEPTH} levels", field=field)


def decode(decoder: msgspec.json.Decoder[T], body: bytes, fields: Mapping[str, object]) -> T:
    """`body` as the decoder's struct, whose members are `fields`.

    Raises InvalidJson for what is no JSON, and Invalid, naming the field, for JSON that is not allowed.
    """
    check_utf8(body)
    try:
        return decoder.decode(body)
    except ValidationError:
        return _decode_again(decoder, body, fields)
    except DecodeError as error:
        raise InvalidJson(str(error)) from None
    except RecursionError:
        raise deep() from None


def _decode_again(decoder: msgspec.json.Decoder[T], body: bytes, fields: Mapping[str, object]) -> T:
    """Look closer at a refused body: it may be no JSON behind the fault, and of equal keys only the last counts."""
    try:
        members = _members.decode(body)
    except ValidationError:
        raise Invalid("an object is expected") from None
    except DecodeError as error:
        raise InvalidJson(str(error)) from None
    except RecursionError:
        raise deep() from None
    unknown = next((name for name in members if name not in fields), None)
    if unknown is not None:
        raise Invalid(f"unknown field '{unknown[:_LONGEST_NAME]}'", field=unknown[:_LONGEST_NAME])
    try:
        return decoder.decode(_encode(members))
    except ValidationError as error:
        raise as_invalid(error) from None


def check_item_count(array: bytes, limit: int) -> None:
    """Raise Invalid for an array of more than `limit` items before a decoder makes an object of each of millions."""
    if array.count(b",") < _MANY_COMMAS:
        return
    marks = _STRING.sub(b"", array).translate(None, _NOT_MARKS)
    depths = accumulate(map(_STEP.__getitem__, marks))
    separators = (None for mark, depth in zip(marks, depths, strict=True) if mark == _COMMA and depth == 1)
    if sum(1 for _ in islice(separators, limit)) == limit:
        raise Invalid(f"a batch has 1 to {limit} tasks")


def split_deep(array: bytes) -> list[bytes]:
    """The items of an array in which something is nested too deep for the decoder, as they stand between the commas.

    Only such a body is walked by hand, and only for so long: a body made to waste time is refused whole.
    """
    items: list[bytes] = []
    depth = 0
    begin = array.index(b"[") + 1
    for tokens, match in enumerate(_TOKEN.finditer(array)):
        if tokens == _MOST_TOKENS:
            raise deep(None)
        token = match[0]
        if token == b",":
            if depth == 1:
                items.append(array[begin : match.start()])
                begin = match.end()
        elif token[0] in b"[{":
            depth += len(token)
        elif token[0] in b"]}":
            depth -= len(token)
    last = array.rstrip(b" \t\r\n")
    if depth != 0 or not last.endswith(b"]"):
        raise InvalidJson("the array does not end")
    return [*items, last[begin:-1]]


def as_invalid(error: ValidationError) -> Invalid:
    """msgspec's complaint, with the path to what is wrong or missing as the field, like `leases[0].id`.

    An item that is wrong as a whole goes by the name of its array.
    """
    text, path = str(error), ""
    if (at := _PATH.search(text)) is not None:
        text, path = text[: at.start()], at[1]
    if (member := _MEMBER.fullmatch(text)) is None:  # from its begin on: the rest may be a client's own words
        path = _INDEX.sub("", path)
    else:
        name = member[1][:_LONGEST_NAME]
        text, path = f"{text[: member.start(1)]}{name}'", f"{path}.{name}" if path else name
    return Invalid(text[:_LONGEST_TEXT].replace("`", "'"), field=path or None)


def bare(error: E) -> E:
    """The error without the way that it came.

    An item's refusal is kept for the answer, and would keep a dozen objects alive in cycles that only the collector
    finds; a request may have ten thousand of them.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None
    return error


def check_text(value: str, field: str) -> None:
    """Raise Invalid for control characters in one of our own strings."""
    if not value.isprintable() and _CONTROL.search(value):
        raise Invalid("control characters are not allowed", field=field)
