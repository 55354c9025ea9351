"""Fields of a payload that nobody here knows: dataclasses, Structs, TypedDicts and models drop them without a word.

A newer sender may know them, and what they mean is not for an older worker to guess. Types that say themselves what
becomes of others (pydantic's `extra`, its validators that come before) are left to do so.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from jobpipe.work.convert import unwrap_alias

Find = Callable[[Any], str | None]
"""From a decoded value to the path of a field that its type does not know, None without one."""

_DEEPEST = 32
"""Types may name themselves: so deep they are looked through."""


def finder(annotation: Any, depth: int = _DEEPEST) -> Find | None:
    """What finds unknown fields in values of this type; None when there is nothing to look for."""
    annotation = unwrap_alias(annotation)
    origin, arms = typing.get_origin(annotation), typing.get_args(annotation)
    if depth == 0 or origin is typing.Literal:
        return None
    if origin is typing.Annotated:
        return finder(arms[0], depth)
    class_ = origin or annotation
    if isinstance(class_, type) and (known := _fields_of(class_)) is not None:
        return fields_finder(known, depth)
    finds = [finder(arm, depth - 1) for arm in arms if arm is not type(None)]
    if isinstance(class_, type) and issubclass(class_, Mapping):
        return _in_values(finds[1]) if len(finds) == 2 and finds[1] else None
    if isinstance(class_, type) and issubclass(class_, (list, tuple, set, frozenset)):
        return _in_items(finds[0]) if finds and finds[0] else None
    return _in_any(finds) if finds and all(finds) else None


def fields_finder(known: Mapping[str, Any], depth: int = _DEEPEST) -> Find:
    """What finds fields other than these, and unknown ones in their values, by their types."""
    made: dict[str, Find | None] = {}

    def find(value: Any) -> str | None:
        for name, item in value.items() if isinstance(value, dict) else ():
            if name not in known:
                return f".{name}"
            if name not in made:  # when it is needed: a type may name itself
                made[name] = finder(known[name], depth - 1)
            inner = made[name]
            if inner is not None and (path := inner(item)) is not None:
                return f".{name}{path}"
        return None

    return find


def _in_values(find: Find) -> Find:
    def look(value: Any) -> str | None:
        items = value.items() if isinstance(value, dict) else ()
        return next((f".{key}{path}" for key, item in items if (path := find(item)) is not None), None)

    return look


def _in_items(find: Find) -> Find:
    def look(value: Any) -> str | None:
        items = enumerate(value) if isinstance(value, list) else ()
        return next((f"[{i}]{path}" for i, item in items if (path := find(item)) is not None), None)

    return look


def _in_any(finds: list[Find | None]) -> Find:
    """Of a union: what one of its types knows is known."""

    def look(value: Any) -> str | None:
        paths = [find(value) for find in finds if find is not None]
        return None if None in paths else min(filter(None, paths), default=None)

    return look


def _fields_of(class_: type) -> dict[str, Any] | None:
    """The names that an object of this class may have in JSON, with their types; None for what takes any, or none."""
    if issubclass(class_, msgspec.Struct):
        config = class_.__struct_config__
        if config.array_like:
            return None
        tag = {config.tag_field: str} if config.tag_field else {}
        return {**tag, **{field.encode_name: field.type for field in msgspec.structs.fields(class_)}}
    if hasattr(class_, "model_fields"):
        return _fields_of_model(class_)
    if dataclasses.is_dataclass(class_) or typing.is_typeddict(class_) or hasattr(class_, "__attrs_attrs__"):
        return dict(typing.get_type_hints(class_, include_extras=True))
    return None


def _fields_of_model(class_: Any) -> dict[str, Any] | None:
    before = class_.__pydantic_decorators__.model_validators.values()
    if "extra" in class_.model_config or any(v.info.mode != "after" for v in before):
        return None
    if class_.__pydantic_root_model__:
        return None
    known: dict[str, Any] = {}
    for name, field in class_.model_fields.items():
        alias = field.validation_alias
        names = [name, field.alias, *getattr(alias, "choices", (alias,))]
        if any(not isinstance(each, str) for each in names if each is not None):
            return None  # a path into the object: any name may be part of one
        known |= {each: field.annotation for each in names if each is not None}
    return known
