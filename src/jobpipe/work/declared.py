"""Declared types that no payload can fill, or that no result can have: refused at the start, before any work is done.

What is certain alone is refused; a type that a value may fit in some way passes.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from typing import Any

import msgspec

from jobpipe.work.convert import mentions_pydantic, unwrap_alias
from jobpipe.work.errors import BadHandler

_OF_JSON = (str, int, float, bool, type(None), list, dict)
_WRITABLE = (str, int, float, Enum, Mapping, list, tuple)


def check_parameter(name: str, annotation: Any) -> None:
    """Raise BadHandler for a class that is made from no JSON."""
    if mentions_pydantic(annotation):
        return
    for part in _classes(annotation):
        if _is_foreign(part):
            raise BadHandler(f"its parameter '{name}' cannot be made from JSON: it is a {part.__name__}")


def check_result(annotation: Any) -> None:
    """Raise BadHandler for a declared result that would fail every run at its end."""
    for part in _classes(annotation):
        if issubclass(part, Set):
            raise BadHandler(
                "its result is a set, which JSON has not: return a list, sorted(...) for one order"
            )
        if _is_foreign(part) and not _can_be_written(part):
            raise BadHandler(f"its result has no JSON form: it is a {part.__name__}")


def result_of(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns; Any when it says nothing, or names what only type checkers know."""
    annotation = getattr(function, "__annotations__", {}).get("return", Any)
    try:
        hints = typing.get_type_hints(
            types.SimpleNamespace(__annotations__={"return": annotation}),
            globalns=getattr(function, "__globals__", {}),
            include_extras=True,
        )
    except Exception:  # noqa: BLE001 - an annotation is any expression, and may raise anything
        return Any
    return hints["return"]


def _classes(annotation: Any) -> Iterator[type]:
    """The classes that a type is made of, without the metadata of `Annotated`."""
    annotation = unwrap_alias(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _classes(annotation.__origin__)
        return
    class_ = origin or annotation
    if isinstance(class_, type) and class_ is not types.UnionType:
        yield class_
    if origin is not typing.Literal:
        for part in typing.get_args(annotation):
            yield from _classes(part)


def _is_foreign(part: type) -> bool:
    """A class that msgspec does not know, and that no value of JSON is an instance of."""
    if getattr(part, "_is_protocol", False):
        return False
    try:
        custom = isinstance(msgspec.inspect.type_info(part), msgspec.inspect.CustomType)
        return custom and not any(issubclass(class_, part) for class_ in _OF_JSON)
    except TypeError:
        return False  # msgspec's own refusals are told where it makes the reader


def _can_be_written(part: type) -> bool:
    return issubclass(part, _WRITABLE) or hasattr(part, "model_dump") or hasattr(part, "tolist")
