"""Payloads with fields that nobody here knows: retried, or ignored with a warning, however they are declared."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, TypedDict

import msgspec
import pytest
from pydantic import BaseModel, ConfigDict, Field
from test_work_middleware import claim

from jobpipe import App, Context
from jobpipe.core.lifecycle import Kind
from jobpipe.testing import TestQueue
from jobpipe.work.errors import InvalidPayload
from jobpipe.work.executor import Executor
from running import run


@dataclasses.dataclass
class Line:
    sku: str
    parts: list[Line] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Order:
    n: int
    lines: list[Line] = dataclasses.field(default_factory=list)


class Packed(msgspec.Struct, rename="camel"):
    n: int
    line_of: dict[str, Line] = {}


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    n: int
    inner: Strict | None = None


class Typed(TypedDict):
    n: int


class Model(BaseModel):
    n: int = Field(alias="N")
    line: Line | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    n: int


def by_name(n: int, m: int = 0) -> None: ...
async def one(n: int) -> None: ...
def with_context(ctx: Context, n: int, order: Order | None = None) -> None: ...
def order(order: Order) -> None: ...
async def packed(packed: Packed) -> None: ...
def strict(strict: Strict) -> None: ...
def stricts(stricts: list[Strict], m: int = 0) -> None: ...
def typed(typed: Typed) -> None: ...
def model(model: Model) -> None: ...
def lines(lines: list[Line]) -> None: ...
def open_(model: Open) -> None: ...
def rest(n: int, **rest: int) -> None: ...
def anything(value: Any) -> None: ...


UNKNOWN = [
    (by_name, b'{"n": 1, "new": 2}', "new"),
    (one, b'{"n": 1, "new": 2}', "new"),
    (with_context, b'{"n": 1, "order": {"n": 1, "new": 1}}', "$.order.new"),
    (order, b'{"n": 1, "new": 2}', "$.new"),
    (order, b'{"n": 1, "lines": [{"sku": ""}, {"sku": "", "parts": [{"sku": "", "x": 1}]}]}', "$.lines[1].parts[0].x"),
    (packed, b'{"n": 1, "new": 2}', "$.new"),
    (packed, b'{"n": 1, "lineOf": {"a": {"sku": "s", "new": 1}}}', "$.lineOf.a.new"),
    (typed, b'{"n": 1, "new": 2}', "$.new"),
    (model, b'{"N": 1, "new": 2}', "$.new"),
    (model, b'{"N": 1, "line": {"sku": "a", "new": 2}}', "$.line.new"),
    (lines, b'[{"sku": "a", "new": 1}]', "$[0].new"),
    (lines, b'{"lines": [{"sku": "a", "new": 1}]}', "$.lines[0].new"),
]  # fmt: skip
KNOWN = [
    (by_name, b'{"n": 1}'),
    (packed, b'{"n": 1, "lineOf": {"a": {"sku": "s"}}}'),
    (model, b'{"N": 1, "line": {"sku": "a", "parts": []}}'),
    (open_, b'{"n": 1, "new": 2}'),
    (rest, b'{"n": 1, "new": 2}'),
    (anything, b'{"n": 1, "new": 2}'),
]


def ids(value: Any) -> str | None:
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("function", "payload", "path"), UNKNOWN, ids=ids)
async def test_a_field_that_nobody_knows_is_retried_for_a_newer_worker(
    function: Any, payload: bytes, path: str
) -> None:
    app = App()
    app.handler("h")(function)
    outcome = await run(Executor(app), claim(payload=payload))
    assert (outcome.kind, outcome.error_type, outcome.retryable) == (Kind.FAILED, "unknown_field", True)
    assert f"`{path}`" in outcome.message


@pytest.mark.parametrize(("function", "payload", "path"), UNKNOWN, ids=ids)
@pytest.mark.parametrize("where", ["app", "handler"])
async def test_or_it_is_ignored_with_one_warning(
    function: Any, payload: bytes, path: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = App(unknown_fields="ignore") if where == "app" else App()
    app.handler("h", **({} if where == "app" else {"unknown_fields": "ignore"}))(function)
    executor = Executor(app)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert (await run(executor, claim(payload=payload))).kind is Kind.DONE
    assert len([record for record in caplog.records if path in record.getMessage()]) == 1


@pytest.mark.parametrize(("function", "payload"), KNOWN, ids=ids)
async def test_what_the_types_know_or_take_is_no_unknown_field(function: Any, payload: bytes) -> None:
    app = App()
    app.handler("h")(function)
    assert (await run(Executor(app), claim(payload=payload))).kind is Kind.DONE


async def test_what_does_not_fit_otherwise_is_no_reason_to_try_again() -> None:
    app = App()
    app.handler("h")(by_name)
    outcome = await run(Executor(app), claim(payload=b'{"n": "1", "new": 2}'))
    assert (outcome.error_type, outcome.retryable) == ("invalid_payload", False)


async def test_who_enqueues_hears_of_it_at_the_call() -> None:
    app = App()
    app.handler("h")(order)
    with pytest.raises(InvalidPayload, match="unknown field"):
        app.request("h", {"n": 1, "new": 2})
    async with TestQueue(App(unknown_fields="ignore")) as queue:
        queue.enqueue("elsewhere", {"new": 2})


@pytest.mark.parametrize("settings", [{}, {"unknown_fields": "ignore"}])
@pytest.mark.parametrize(
    ("function", "payload", "path"),
    [
        (strict, b'{"n": 1, "new": 2}', "new"),
        (strict, b'{"n": 1, "inner": {"n": 1, "new": 2}}', "new"),
        (stricts, b'{"stricts": [{"n": 1, "new": 2}]}', "new"),
    ],
)
async def test_a_struct_that_forbids_others_is_no_reason_to_lose_the_task_either(
    function: Any, payload: bytes, path: str, settings: Any
) -> None:
    """It cannot be made without the field: it is refused also where others would be ignored."""
    app = App(**settings)
    app.handler("h")(function)
    outcome = await run(Executor(app), claim(payload=payload))
    assert (outcome.error_type, outcome.retryable) == ("unknown_field", True)
    assert f"`{path}`" in outcome.message
    bad = await run(Executor(app), claim(payload=payload.replace(b'"n": 1', b'"n": "1"')))
    assert (bad.error_type, bad.retryable) == ("invalid_payload", False)
