"""What a worker tells of its handlers' payloads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest

from jobpipe import App, Context
from jobpipe.work.schema import MOST_BYTES, OWN, schema_of


@dataclass
class Mail:
    to: str
    copies: int = 1


class Page(msgspec.Struct):
    url: str


class Opaque:
    """No JSON is one of these, and nothing tells so before the types are looked at."""


def of(function: Any, **options: Any) -> dict[str, Any]:
    return schema_of(App().handler(function.__name__, **options)(function))


def test_parameters_are_properties_and_those_without_a_default_required() -> None:
    def resize(ctx: Context, path: str, width: int = 100, fit: Literal["crop", "pad"] = "crop") -> None: ...

    schema = of(resize)
    assert schema["properties"]["path"] == {"type": "string"}
    assert schema["properties"]["width"] == {"type": "integer"}
    assert schema["properties"]["fit"] == {"enum": ["crop", "pad"]}
    assert (schema["required"], schema["additionalProperties"]) == (["path"], False)


def test_one_object_is_the_whole_payload_and_several_keep_their_definitions() -> None:
    def send(mail: Mail) -> None: ...
    def both(mail: Mail, page: Page) -> None: ...
    def rest(**more: int) -> None: ...

    whole = of(send)
    assert whole["$defs"]["Mail"]["properties"]["to"] == {"type": "string"}
    schema = of(both)
    assert set(schema["$defs"]) == {"Mail", "Page"}
    assert schema["properties"]["page"] == {"$ref": "#/$defs/Page"}
    assert "additionalProperties" not in of(rest)


def test_pydantic_models_tell_their_own() -> None:
    pydantic = pytest.importorskip("pydantic")
    Order = pydantic.create_model("Order", number=(int, ...))

    def take(order: Any) -> None: ...

    take.__annotations__["order"] = Order
    assert of(take)["properties"]["number"]["type"] == "integer"


def test_its_own_options_stand_beside_it() -> None:
    def work() -> None: ...

    assert of(work, timeout=60, queue="slow", max_retries=0)[OWN] == {
        "timeout": 60,
        "queue": "slow",
        "max_retries": 0,
    }
    assert OWN not in of(work, timeout=float("inf"))


def test_what_has_no_schema_or_too_large_a_one_stops_nobody() -> None:
    Huge = msgspec.defstruct("Huge", [(f"field_{i}_{'x' * 100}", int) for i in range(MOST_BYTES // 100)])

    def large(it: Any) -> None: ...
    def broken(it: Any) -> None: ...

    large.__annotations__["it"] = Huge
    broken.__annotations__["it"] = "NotDefinedAnywhere"
    assert of(large, timeout=3) == {OWN: {"timeout": 3}}
    assert of(broken) == {}
