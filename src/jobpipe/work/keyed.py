"""The key that a handler gives the tasks that it enqueues itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from jobpipe.work.errors import BadHandler

KeyOf = str | Callable[..., object]
"""The name of a parameter, or a function of the parameters by their names."""

_decode = msgspec.json.decode


def key_of(key: KeyOf | None, payload: Raw) -> str | None:
    """The key of a task with this payload; None for none. Raises whatever the function raises, and KeyError."""
    given = _decode(payload)
    if isinstance(key, str):
        found = given[key] if isinstance(given, dict) else given
    elif key is None:
        return None
    else:
        found = key(**given) if isinstance(given, dict) else key(given)
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        raise TypeError(f"a key is a string or a whole number, not {type(found).__name__}")
    return str(found)


def check_key(who: str, key: Any, function: Callable[..., Any]) -> None:
    """Raise BadHandler for what gives no key."""
    if key is None or callable(key):
        return
    if not isinstance(key, str) or key not in inspect.signature(function).parameters:
        raise BadHandler(f"{who}: its key must be one of its parameters, or a function of them, not {key!r}")
