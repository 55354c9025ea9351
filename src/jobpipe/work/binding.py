"""From a payload to a handler's arguments, by the annotations of its parameters; worked out once per handler.

The rule, by the number of parameters that are not a Context:

- none: the payload is null or `{}`;
- one whose type describes an object (a msgspec Struct, dataclass, pydantic model, TypedDict, dict or mapping): it is
  the whole payload;
- one of any other type, or without annotation: an object with the parameter's name as its only key gives the value;
  any other payload is the value itself, save that an object cannot be an `int`, a `str`, a list...;
- several, or `**kwargs`: the payload is an object, and its keys are the parameters' names. A missing one without
  default does not fit. `**kwargs` takes all other keys.

A field that nobody here knows, at any depth, raises UnknownField: a newer worker may know it.

An empty object binds nothing by name, and null means the same wherever the parameters leave it a choice: the defaults
apply. Conversion is strict: "3" is no int. What does not fit raises InvalidPayload.
"""

from __future__ import annotations

import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec

from jobpipe.work.convert import Read, describes_object, fitting, mentions_pydantic, reader, unwrap_alias
from jobpipe.work.declared import check_parameter, result_of
from jobpipe.work.errors import BadHandler, InvalidPayload, UnknownField
from jobpipe.work.facts import RunFacts
from jobpipe.work.unknown import Find, fields_finder, finder

Arguments = dict[str, Any]
Bind = Callable[[bytes], Arguments]

_OWNERS = ("self", "cls")
"""What methods call the object that they belong to."""

_WITHOUT_NAME = {
    inspect.Parameter.POSITIONAL_ONLY: "the positional-only parameter",
    inspect.Parameter.VAR_POSITIONAL: "the parameter",
}


class Field(msgspec.Struct, frozen=True):
    """A parameter that is filled from the payload."""

    name: str
    type: Any
    required: bool


class Binding(msgspec.Struct, frozen=True):
    """How a handler's parameters are filled: `contexts` with the Context, the others by `bind` from the payload.

    `fields` are those others, `rest` the type of what `**kwargs` takes (None without). With `whole` the one field is
    the payload itself, and never a key of it.
    """

    bind: Bind
    contexts: tuple[str, ...] = ()
    fields: tuple[Field, ...] = ()
    rest: Any = None
    whole: bool = False


def signature(function: Callable[..., Any]) -> inspect.Signature:
    """The handler's parameters, with its annotations left as they are. Raises BadHandler for unusable ones."""
    shape = inspect.signature(function, **_as_written())
    for parameter in shape.parameters.values():
        if parameter.name in _OWNERS and parameter.annotation is parameter.empty:
            raise BadHandler(
                f"its parameter '{parameter.name}' would be filled from the payload: a handler is a function, a static "
                "method, or a method of an object, as in app.handler(mailer.send)"
            )
        if parameter.kind in _WITHOUT_NAME:
            raise BadHandler(
                f"{_WITHOUT_NAME[parameter.kind]} '{str(parameter).partition(':')[0]}' cannot be filled: "
                "a payload's keys are names"
            )
    return shape


def binding_of(function: Callable[..., Any], ignored: Callable[[str], None] | None = None) -> Binding:
    """The binding of a handler's function. Raises BadHandler for annotations that name nothing known or no JSON.

    A field that nobody here knows raises UnknownField, or is told to `ignored` and left out.
    """
    parameters = signature(function).parameters.values()
    hints = _hints(function)
    contexts = tuple(p.name for p in parameters if _is_context(hints.get(p.name)))
    fields = tuple(
        Field(p.name, hints.get(p.name, Any), p.default is p.empty)
        for p in parameters
        if p.name not in contexts and p.kind is not p.VAR_KEYWORD
    )
    for field in fields:
        check_parameter(field.name, field.type)
    rest = next((hints.get(p.name, Any) for p in parameters if p.kind is p.VAR_KEYWORD), None)
    try:
        return Binding(
            _known(_bind(fields, rest, contexts, ignored is not None), fields, rest, ignored),
            contexts,
            fields,
            rest,
            _is_whole(fields, rest),
        )
    except (TypeError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadHandler(f"a parameter's type cannot be made from JSON: {reason}") from error


def declared_result(function: Callable[..., Any]) -> Any:
    """What the handler's function says that it returns; Any where that cannot be known."""
    return result_of(_plain(function))


def _known(bind: Bind, fields: Sequence[Field], rest: Any, ignored: Callable[[str], None] | None) -> Bind:
    """`bind`, which then looks for fields that were dropped."""
    look = _looking(fields, rest, ignored is not None)
    if look is None:
        return bind

    def bind_known(payload: bytes) -> Arguments:
        try:
            arguments = bind(payload)
        except InvalidPayload as error:
            # A type that forbids what it does not know says it of itself.
            if "Object contains unknown field `" in str(error) and look(msgspec.json.decode(payload)):
                raise UnknownField(str(error)) from None
            raise
        if (path := look(msgspec.json.decode(payload))) is not None:
            if ignored is None:
                raise UnknownField(f"the payload does not fit: Object contains unknown field `${path}`")
            ignored(f"${path}")
        return arguments

    return bind_known


def _looking(fields: Sequence[Field], rest: Any, always: bool) -> Find | None:
    """What finds unknown fields in a payload; its own names are looked at where `bind` lets others pass (`always`)."""
    if _is_whole(fields, rest):
        return finder(fields[0].type)
    if rest is not None or [f.type in (Any, object) for f in fields] == [True]:
        return None
    finds = {f.name: finder(f.type) for f in fields}
    by_name = fields_finder({f.name: f.type for f in fields})
    if not (always or any(finds.values())):
        return None
    if len(fields) != 1:
        return by_name
    only = finds[fields[0].name]
    return lambda value: by_name(value) if isinstance(value, dict) else only and only(value)


def _bind(fields: Sequence[Field], rest: Any, contexts: Sequence[str], others_allowed: bool) -> Bind:
    if rest is not None:
        return _by_name_with_rest(fields, rest, contexts)
    if len(fields) != 1:
        return _by_name(fields, others_allowed=others_allowed)
    if fields[0].type in (Any, object):
        return _one_of_any_type(fields[0])
    return _whole(fields[0]) if _is_whole(fields, rest) else _one(fields[0], others_allowed)


def _is_whole(fields: Sequence[Field], rest: Any) -> bool:
    return rest is None and len(fields) == 1 and describes_object(fields[0].type)


def _by_name(fields: Sequence[Field], *, others_allowed: bool = False) -> Bind:
    convert: dict[str, Read] = {f.name: reader(f.type) for f in fields if mentions_pydantic(f.type)}
    # Left-out arguments stay left out: the function's own defaults apply, and are never converted.
    shape = msgspec.defstruct(
        "Payload",
        [_struct_field(f, msgspec.Raw if f.name in convert else f.type) for f in fields],
        kw_only=True,
        forbid_unknown_fields=not others_allowed,
    )
    read = _strictly(shape, others_allowed)
    all_required = all(f.required for f in fields)

    def bind(payload: bytes) -> Arguments:
        arguments = msgspec.structs.asdict(read(b"{}" if payload == b"null" else payload))
        if not all_required:
            arguments = {name: value for name, value in arguments.items() if value is not msgspec.UNSET}
        for name in convert.keys() & arguments.keys():
            arguments[name] = _at(name, convert[name], bytes(arguments[name]))
        return arguments

    return bind


def _strictly(shape: type[msgspec.Struct], others_allowed: bool) -> Callable[[bytes], msgspec.Struct]:
    """Reads `shape`; what alone is wrong with a payload is a field too many when it fits without that rule."""
    strict = fitting(msgspec.json.Decoder(shape).decode)
    if others_allowed:
        return strict
    lenient = msgspec.defstruct("Payload", [], bases=(shape,), forbid_unknown_fields=False, kw_only=True)
    reads_others = msgspec.json.Decoder(lenient).decode

    def read(payload: bytes) -> msgspec.Struct:
        try:
            return strict(payload)
        except InvalidPayload as error:
            try:
                reads_others(payload)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise error from None
            raise UnknownField(str(error)) from None

    return read


def _struct_field(field: Field, type_: Any) -> tuple[str, Any] | tuple[str, Any, Any]:
    return (field.name, type_) if field.required else (field.name, type_, msgspec.UNSET)


def _at(name: str, read: Read, payload: bytes) -> Any:
    try:
        return read(payload)
    except InvalidPayload as error:
        raise InvalidPayload(str(error).replace("`$", f"`$.{name}")) from None


def _by_name_with_rest(fields: Sequence[Field], rest: Any, contexts: Sequence[str]) -> Bind:
    named = _by_name(fields, others_allowed=True)
    everything = fitting(msgspec.json.Decoder(dict[str, msgspec.Raw]).decode)
    read_rest = reader(dict[str, rest])
    names = {f.name for f in fields}

    def bind(payload: bytes) -> Arguments:
        payload = b"{}" if payload == b"null" else payload
        arguments = named(payload)
        others = {key: raw for key, raw in everything(payload).items() if key not in names}
        for name in contexts:
            if name in others:
                raise InvalidPayload(f"the payload does not fit: Object contains unknown field `{name}`")
        arguments.update(read_rest(msgspec.json.encode(others)))
        return arguments

    return bind


def _whole(field: Field) -> Bind:
    name, read, optional = field.name, reader(field.type), not field.required

    def bind(payload: bytes) -> Arguments:
        if optional and payload == b"null":
            return {}
        return {name: read(payload)}

    return bind


def _one(field: Field, others_allowed: bool) -> Bind:
    by_name, whole = _by_name([field], others_allowed=others_allowed), _whole(field)

    def bind(payload: bytes) -> Arguments:
        return by_name(payload) if payload.lstrip()[:1] == b"{" else whole(payload)

    return bind


def _one_of_any_type(field: Field) -> Bind:
    name, read, optional = field.name, reader(Any), not field.required

    def bind(payload: bytes) -> Arguments:
        value = read(payload)
        if type(value) is dict and len(value) == 1 and name in value:
            return {name: value[name]}
        if optional and (value is None or value == {}):
            return {}
        return {name: value}

    return bind


def _is_context(annotation: Any) -> bool:
    """Whether it is a Context, also `Context | None`, `Annotated[Context, ...]` or another name for it."""
    annotation = unwrap_alias(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _is_context(annotation.__origin__)
    if origin in (Union, types.UnionType):
        arms = [arm for arm in get_args(annotation) if arm is not type(None)]
        if not any(map(_is_context, arms)):
            return False
        if len(arms) > 1:
            raise BadHandler(f"a parameter is a Context or filled from the payload, not either: {annotation}")
        return True
    class_ = origin or annotation
    return isinstance(class_, type) and issubclass(class_, RunFacts)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters, names resolved where the function was written; the return type stays unread."""
    function = _plain(function)
    namespace = getattr(function, "__globals__", {})
    annotations = {name: value for name, value in _annotations(function).items() if name != "return"}
    try:
        return typing.get_type_hints(
            types.SimpleNamespace(__annotations__=annotations), globalns=namespace, include_extras=True
        )
    except Exception as error:  # an annotation is any expression, and may raise anything
        raise BadHandler(f"its annotations cannot be resolved: {error}") from error


def _plain(function: Any) -> Any:
    """The function that carries the annotations: under decorators and partials, or an object's `__call__`."""
    function = inspect.unwrap(function)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    return function if inspect.isroutine(function) else type(function).__call__


def _annotations(function: Any) -> dict[str, Any]:
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(function, format=annotationlib.Format.FORWARDREF)
    return getattr(function, "__annotations__", {})


def _as_written() -> dict[str, Any]:
    """From Python 3.14 on, reading a signature must not evaluate annotations: their types may come later."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return {"annotation_format": annotationlib.Format.FORWARDREF}
    return {}


def result_reader(function: Callable[..., Any]) -> Read | None:
    """A function from a result's JSON to a value of the type that the function says to return.

    None where it says none that can be made of JSON: then the JSON is the value.
    """
    annotation = declared_result(function)
    with suppress(TypeError):
        return None if annotation is Any else reader(annotation)
    return None
