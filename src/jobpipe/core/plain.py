"""Values that leave Python, made of what JSON has: nothing changes unseen, and what JSON cannot say is refused.

What Python's own `json` writes is written so: tuples as arrays, keys that are numbers as strings, subclasses by their
value. Numbers and arrays of numpy and its like go by `.item()` and `.tolist()`; dates, UUIDs, decimals, bytes, enums,
dataclasses, Structs and pydantic models have the form that msgspec and pydantic give them. NaN, infinity and sets have
none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any

import msgspec

MAX_DEPTH = 128
_AS_IT_IS = frozenset((str, int, bool, type(None), msgspec.Raw))
_SETS = (set, frozenset)
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
)
"""The classes whose subclasses count by their value, whatever their own `__str__` says."""
_TEXT = (str, int, float, bool, type(None))


class How(msgspec.Struct, frozen=True):
    """What the reader makes of the value: `sets` from arrays; models by the names of their fields or by `aliases`."""

    sets: bool = False
    aliases: bool = False


RESULT = How()


class NoJsonForm(TypeError):
    """The value, or a part of it, cannot be said in JSON; the message says which and what to do."""


def plain(value: Any, depth: int = MAX_DEPTH, *, how: How = RESULT) -> Any:
    """`value` made of dicts with str keys, lists, str, int, float, bool and None. Raises NoJsonForm.

    `how` is what the reader knows of them.
    """
    exact = type(value)
    if exact in _AS_IT_IS:
        return value
    if exact is float:
        return _finite(value)
    if depth <= 0:
        raise NoJsonForm(f"it is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return _object(value, depth - 1, how)
    if isinstance(value, (list, tuple)) or (how.sets and isinstance(value, _SETS)):
        return [plain(item, depth - 1, how=how) for item in value]
    return _other(value, depth - 1, how)


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise NoJsonForm(f"JSON has no {number}: say None, or a string")
    return number


def _object(value: Mapping[Any, Any], depth: int, how: How) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _name(key, depth)
        if name in made:
            raise NoJsonForm(f"two of its keys are both {name!r} in JSON")
        made[name] = plain(item, depth, how=how)
    return made


def _name(key: Any, depth: int) -> str:
    """The key as `json` writes it: 1 as "1", True as "true", None as "null"."""
    form = plain(key, depth)
    if isinstance(form, str):
        return form
    if not isinstance(form, _TEXT):
        raise NoJsonForm(f"a key of the type {type(key).__name__} has no JSON form")
    return msgspec.json.encode(form).decode()


def _other(value: Any, depth: int, how: How) -> Any:
    """By the value's own class: a subclass of what JSON has, an enum, numpy's, pydantic's, else msgspec's to know."""
    if isinstance(value, Enum):
        return plain(value.value, depth, how=how)
    for base, exactly in _BASES:
        if isinstance(value, base):
            return plain(exactly(value), depth)
    if isinstance(value, _SETS):
        raise NoJsonForm("JSON has no sets: make it a list, sorted(...) for one order")
    if isinstance(value, Decimal) and not value.is_finite():
        raise NoJsonForm(f"JSON has no {value}: say None, or a string")
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json", by_alias=how.aliases), depth, how=how)
    if hasattr(value, "tolist"):
        return plain(_python(value), depth, how=how)
    return _as_msgspec_has_it(value, depth, how)


def _python(value: Any) -> Any:
    """An array or a number of numpy's kind as lists and numbers of Python."""
    if getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M"):
        raise NoJsonForm(f"{type(value).__name__} of times has no JSON form: make it strings first")
    made = value.tolist()
    return float(made) if type(made) is type(value) else made  # numpy's longdouble is its own item


def _as_msgspec_has_it(value: Any, depth: int, how: How) -> Any:
    def known(part: Any) -> Any:
        if part is value:
            raise NoJsonForm(f"objects of type {type(value).__name__} have no JSON form")
        return plain(part, depth, how=declared)

    declared = How(sets=True, aliases=how.aliases)
    # A set in a field of a dataclass or a Struct is declared to be one: its reader makes it a set again.
    made = msgspec.to_builtins(value, enc_hook=known, str_keys=True)
    return plain(made, depth, how=declared)
