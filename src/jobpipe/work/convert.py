"""Types and JSON: what a parameter's annotation means for its payload, and the strict conversion to it.

msgspec converts; what mentions pydantic is left to pydantic, which is never imported unless an annotation brought it.
Every conversion that fails raises InvalidPayload with the place in the payload. The way back, from a value to JSON, is
for the arguments of tasks that are enqueued.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, is_typeddict

import msgspec

from jobpipe.core.plain import How, plain
from jobpipe.work.errors import InvalidPayload

Read = Callable[[bytes], Any]
Write = Callable[[Any], bytes]
T = TypeVar("T")

_PYDANTIC = frozenset({"pydantic", "annotated_types"})
"""The packages whose `Annotated` metadata only pydantic obeys."""


def reader(annotation: Any) -> Read:
    """A function from JSON bytes to a value of the type `annotation`. Raises TypeError for a type it cannot make."""
    if mentions_pydantic(annotation):
        return _pydantic_reader(annotation)
    return fitting(msgspec.json.Decoder(annotation).decode)


def fitting(decode: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """`decode`, with msgspec's refusals as InvalidPayload."""

    def read(payload: bytes) -> T:
        try:
            return decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidPayload(f"the payload does not fit: {error}") from None

    return read


def _pydantic_reader(annotation: Any) -> Read:
    from pydantic import TypeAdapter, ValidationError

    validate = TypeAdapter(annotation).validate_json

    def read(payload: bytes) -> Any:
        try:
            return validate(payload)
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidPayload("the payload does not fit: " + _sentence(problems)) from None

    return read


def writer(annotation: Any) -> Write:
    """A function from a value for a parameter of the type `annotation` to JSON that its reader takes.

    Raises InvalidPayload for what has no JSON form; whether it fits the type is for the reader to say.
    """
    how = How(sets=any(_is_set(part) for part in parts_of(annotation)), aliases=True)
    form = _pydantic_form(annotation) if mentions_pydantic(annotation) else _as_it_is

    def write(value: Any) -> bytes:
        try:
            return _encode(plain(form(value), how=how))
        except Exception as error:
            # A value's own code (a property, model_dump) may raise anything.
            raise InvalidPayload(f"the payload has no JSON form: {error}") from error

    return write


def _is_set(part: Any) -> bool:
    return isinstance(part, type) and issubclass(part, Set)


def _as_it_is(value: Any) -> Any:
    return value


def _pydantic_form(annotation: Any) -> Callable[[Any], Any]:
    from pydantic import TypeAdapter

    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    # By alias, because validation wants aliases; without warnings, because the reader judges what does not fit.
    return lambda value: adapter.dump_python(value, mode="json", by_alias=True, warnings=False)


_encode: Write = msgspec.json.Encoder().encode


def _sentence(problems: Any) -> str:
    return "; ".join(
        f"{problem['msg']} - at `{'.'.join(('$', *map(str, problem['loc'])))}`" for problem in problems
    )


def mentions_pydantic(annotation: Any) -> bool:
    """Whether pydantic must convert this type, because it or a part of it is pydantic's."""
    return any(_is_pydantic(part) for part in parts_of(annotation))


def _is_pydantic(part: Any) -> bool:
    if isinstance(part, type):
        return hasattr(part, "__pydantic_validator__") or hasattr(part, "__get_pydantic_core_schema__")
    return type(part).__module__.partition(".")[0] in _PYDANTIC


def parts_of(annotation: Any) -> Iterator[Any]:
    """The annotation with all that it is made of, `Annotated` metadata included."""
    annotation = unwrap_alias(annotation)
    yield annotation
    if get_origin(annotation) is Annotated:
        yield from annotation.__metadata__
    origin = get_origin(annotation)
    if isinstance(origin, type):
        yield origin
    for part in get_args(annotation):
        yield from parts_of(part)


def unwrap_alias(annotation: Any) -> Any:
    """Look through `NewType` and, from Python 3.12 on, `type X = ...`."""
    while True:
        if hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return annotation


def describes_object(annotation: Any) -> bool:
    """Whether a value of this type is, or can be, a JSON object."""
    annotation = unwrap_alias(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return describes_object(annotation.__origin__)
    if origin in (Union, types.UnionType):
        return any(describes_object(arm) for arm in get_args(annotation))
    class_ = origin or annotation
    return isinstance(class_, type) and _is_object_class(class_)


def _is_object_class(class_: type) -> bool:
    if issubclass(class_, msgspec.Struct):
        return not class_.__struct_config__.array_like
    return (
        issubclass(class_, (Mapping, msgspec.Raw))
        or is_dataclass(class_)
        or is_typeddict(class_)
        or hasattr(class_, "__attrs_attrs__")
        or hasattr(class_, "__pydantic_validator__")
    )
