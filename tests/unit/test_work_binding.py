"""What a payload becomes in a handler's parameters, and what does not fit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, NewType, TypedDict

import msgspec
import pydantic
import pytest

from jobpipe.work.binding import binding_of
from jobpipe.work.context import Context
from jobpipe.work.errors import BadHandler, InvalidPayload


class Order(msgspec.Struct):
    item: str
    count: int = 1


class Point(msgspec.Struct, array_like=True):
    x: int
    y: int


@dataclass
class Mail:
    to: str


class Row(TypedDict):
    key: str


class Model(pydantic.BaseModel):
    size: int


@pydantic.dataclasses.dataclass
class Checked:
    size: Annotated[int, pydantic.Field(gt=0)]


Alias = NewType("Alias", Order)


def bind(function: Any, payload: bytes) -> dict[str, Any]:
    return binding_of(function).bind(payload)


def refusal(function: Any, payload: bytes) -> str:
    with pytest.raises(InvalidPayload) as caught:
        bind(function, payload)
    return str(caught.value)


def nothing() -> None: ...
def one(name: str) -> None: ...
def one_list(names: list[int]) -> None: ...
def one_optional(count: int = 3) -> None: ...
def anything(payload) -> None: ...  # type: ignore[no-untyped-def]
def anything_optional(payload: Any = 7) -> None: ...
def several(a: int, b: str = "b", *, c: list[int] | None = None) -> None: ...
def with_context(first: Context, a: int) -> None: ...
def only_context(whatever: Context) -> None: ...
def struct(order: Order) -> None: ...
def struct_optional(order: Order | None = None) -> None: ...
def point(p: Point) -> None: ...
def rest(a: int, **others: Any) -> None: ...
def typed_rest(ctx: Context, **others: int) -> None: ...
def model_by_name(model: Model, n: int = 1) -> None: ...


@pytest.mark.parametrize(
    ("function", "payload", "expected"),
    [
        (nothing, b"null", {}),
        (nothing, b"{}", {}),
        (nothing, b" { } ", {}),
        (one, b'{"name": "Ada"}', {"name": "Ada"}),
        (one, b' {"name": "Ada"}', {"name": "Ada"}),
        (one, b'"Ada"', {"name": "Ada"}),
        (one_list, b"[1, 2]", {"names": [1, 2]}),
        (one_list, b'{"names": [1]}', {"names": [1]}),
        (one_optional, b"{}", {}),
        (one_optional, b"null", {}),
        (one_optional, b"5", {"count": 5}),
        (anything, b'{"payload": 1}', {"payload": 1}),
        (anything, b'{"a": 1, "b": 2}', {"payload": {"a": 1, "b": 2}}),
        (anything, b'{"a": 1}', {"payload": {"a": 1}}),
        (anything, b"{}", {"payload": {}}),
        (anything, b"null", {"payload": None}),
        (anything_optional, b"null", {}),
        (anything_optional, b"{}", {}),
        (anything_optional, b"0", {"payload": 0}),
        (several, b'{"a": 1}', {"a": 1}),
        (several, b'{"a": 1, "b": "x", "c": [1]}', {"a": 1, "b": "x", "c": [1]}),
        (with_context, b'{"a": 1}', {"a": 1}),
        (with_context, b"1", {"a": 1}),
        (only_context, b"null", {}),
        (struct, b'{"item": "x"}', {"order": Order("x")}),
        (struct_optional, b"null", {}),
        (struct_optional, b'{"item": "x"}', {"order": Order("x")}),
        (point, b"[1, 2]", {"p": Point(1, 2)}),
        (point, b'{"p": [1, 2]}', {"p": Point(1, 2)}),
        (rest, b'{"a": 1, "x": 12345678901234567890123, "y": null}', {"a": 1, "x": 12345678901234567890123, "y": None}),
        (rest, b'{"a": 1}', {"a": 1}),
        (typed_rest, b"null", {}),
        (typed_rest, b'{"x": 1}', {"x": 1}),
        (model_by_name, b'{"model": {"size": 1}}', {"model": Model(size=1)}),
    ],
)  # fmt: skip
def test_a_payload_that_fits_becomes_arguments(
    function: Any, payload: bytes, expected: dict[str, Any]
) -> None:
    assert bind(function, payload) == expected


@pytest.mark.parametrize(
    ("annotation", "payload", "value"),
    [
        (Order, b'{"item": "x", "count": 2}', Order("x", 2)),
        (Alias, b'{"item": "x"}', Order("x")),
        (Annotated[Order, "a note"], b'{"item": "x"}', Order("x")),
        (Mail, b'{"to": "me"}', Mail("me")),
        (Row, b'{"key": "k"}', {"key": "k"}),
        (Model, b'{"size": 3}', Model(size=3)),
        (Model | Mail, b'{"to": "me"}', Mail("me")),
        (Checked, b'{"size": 3}', Checked(3)),
        (dict, b'{"value": 1}', {"value": 1}),
        (dict[str, Model], b'{"value": {"size": 1}}', {"value": Model(size=1)}),
        (Mapping[str, int], b'{"value": 1}', {"value": 1}),
        (str | dict[str, int], b'{"value": 1}', {"value": 1}),
    ],
)
def test_one_parameter_whose_type_describes_an_object_is_the_whole_payload(
    annotation: Any, payload: bytes, value: Any
) -> None:
    def handler(value): ...  # type: ignore[no-untyped-def]

    handler.__annotations__["value"] = annotation
    assert bind(handler, payload) == {"value": value}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="`type X = ...` came with Python 3.12")
def test_a_type_alias_means_its_type() -> None:
    names: dict[str, Any] = {"Order": Order}
    exec("type Alias = Order | None", names)

    def handler(value): ...  # type: ignore[no-untyped-def]

    handler.__annotations__["value"] = names["Alias"]
    assert bind(handler, b'{"item": "x"}') == {"value": Order("x")}


def test_raw_json_is_given_as_it_came() -> None:
    def handler(body: msgspec.Raw) -> None: ...

    assert bytes(bind(handler, b'{"a": 1.10}')["body"]) == b'{"a": 1.10}'


@pytest.mark.parametrize(
    ("function", "payload", "words"),
    [
        (nothing, b'{"a": 1}', "unknown field `a`"),
        (nothing, b"1", "Expected `object`, got `int`"),
        (one, b'{"nam": "Ada"}', "unknown field `nam`"),
        (one, b"{}", "missing required field `name`"),
        (one, b"3", "Expected `str`, got `int`"),
        (one, b'{"name": 3}', "Expected `str`, got `int` - at `$.name`"),
        (one_list, b'["x"]', "`$[0]`"),
        (several, b'{"b": "x"}', "missing required field `a`"),
        (several, b"null", "missing required field `a`"),
        (several, b'{"a": "1"}', "Expected `int`, got `str` - at `$.a`"),
        (several, b'{"a": 1, "d": 1}', "unknown field `d`"),
        (several, b"[1]", "Expected `object`, got `array`"),
        (with_context, b'{"a": 1, "first": 2}', "unknown field `first`"),
        (struct, b"null", "Expected `object`, got `null`"),
        (struct, b'{"order": {"item": "x"}}', "missing required field `item`"),
        (typed_rest, b'{"ctx": 1}', "unknown field `ctx`"),
        (typed_rest, b'{"x": "y"}', "Expected `int`"),
        (rest, b"{}", "missing required field `a`"),
        (model_by_name, b'{"model": {"size": "x"}}', "at `$.model.size`"),
        (model_by_name, b'{"model": 1}', "at `$.model`"),
        (anything, b"{", "Input data was truncated"),
        (anything, b'"\xff"', "utf-8"),
    ],
)
def test_a_payload_that_does_not_fit_is_refused_with_its_place(
    function: Any, payload: bytes, words: str
) -> None:
    assert words.lower() in refusal(function, payload).lower()


def test_pydantic_refuses_in_its_own_words() -> None:
    def handler(value: Checked) -> None: ...

    handler.__annotations__["value"] = Checked
    message = refusal(handler, b'{"size": 0}')
    assert "greater than 0 - at `$.size`" in message
    assert "\n" not in message


def test_metadata_of_pydantic_is_obeyed_on_plain_types() -> None:
    def handler(count): ...  # type: ignore[no-untyped-def]

    handler.__annotations__["count"] = Annotated[int, pydantic.Field(gt=0)]
    assert bind(handler, b'{"count": 1}') == {"count": 1}
    assert "greater than 0 - at `$.count`" in refusal(handler, b'{"count": 0}')


def test_metadata_of_msgspec_is_obeyed() -> None:
    def handler(count): ...  # type: ignore[no-untyped-def]

    handler.__annotations__["count"] = Annotated[int, msgspec.Meta(gt=0)]
    assert "Expected `int` >= 1" in refusal(handler, b"0")


def test_contexts_are_found_by_annotation_whatever_their_name() -> None:
    assert binding_of(with_context).contexts == ("first",)
    assert binding_of(only_context).contexts == ("whatever",)
    assert binding_of(several).contexts == ()


def later(value: Later) -> None: ...  # noqa: F821  # the test brings it


def test_a_handler_may_be_declared_before_its_types() -> None:
    with pytest.raises(BadHandler, match="'Later' is not defined"):
        binding_of(later)
    globals()["Later"] = Order
    try:
        assert bind(later, b'{"item": "x"}') == {"value": Order("x")}
    finally:
        del globals()["Later"]


def test_the_return_type_is_not_read() -> None:
    def handler(at: datetime) -> Nowhere: ...  # noqa: F821

    assert bind(handler, b'"2026-01-01T00:00:00Z"')["at"].year == 2026


def test_partials_decorated_functions_and_callable_objects_are_bound_like_functions() -> None:
    class Callable_:
        other: Nowhere  # noqa: F821

        def __call__(self, n: int) -> None: ...

    @functools.wraps(one)
    def wrapped(*args: Any, **kwargs: Any) -> None: ...

    assert bind(Callable_(), b"1") == {"n": 1}
    assert bind(wrapped, b'"Ada"') == {"name": "Ada"}
    assert bind(functools.partial(several, b="y"), b'{"a": 1}') == {"a": 1}


def positional_only(a: int, /) -> None: ...
def star(*numbers: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"), [(positional_only, "positional-only.*'a'"), (star, r"'\*numbers'")]
)
def test_parameters_without_a_name_are_refused(function: Any, words: str) -> None:
    with pytest.raises(BadHandler, match=words):
        binding_of(function)


def test_a_type_that_no_json_can_become_is_refused() -> None:
    def handler(value: Thing | int) -> None: ...

    with pytest.raises(BadHandler, match="cannot be made from JSON"):
        binding_of(handler)


class Thing: ...
