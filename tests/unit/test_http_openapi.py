"""The published contract against the routes that are served."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.routing import Router

from jobpipe.engine.queue import TaskQueue
from jobpipe.http import HttpConfig, create_app
from jobpipe.http.openapi import document
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage

DOCUMENT: dict[str, Any] = json.loads(document("1.2.3", 202))


def operations() -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (path, method, operation)
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
        if method != "parameters"
    ]


def test_every_route_is_published() -> None:
    queue = TaskQueue(open_storage("memory:"), clock=ManualClock())
    router: Router = create_app(queue, HttpConfig())._router  # type: ignore[attr-defined]
    served = {(route.path, method.lower()) for route in router.routes for method in route.endpoints}  # type: ignore[attr-defined]
    published = {(path, method) for path, method, _ in operations()}
    assert {(path, method) for path, method in served if method != "head"} == published


def test_every_reference_leads_somewhere() -> None:
    names = DOCUMENT["components"]["schemas"]

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                assert value["$ref"].rpartition("/")[2] in names
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)

    walk(DOCUMENT)


def test_operations_have_names_of_their_own_and_list_their_problems() -> None:
    names = [operation["operationId"] for _, _, operation in operations()]
    assert len(names) == len(set(names))
    for _, _, operation in operations():
        assert {"400", "403", "421", "500"} <= set(operation["responses"])


def test_unknown_fields_are_not_in_the_schema() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["EnqueueBody"]["additionalProperties"] is False
    assert schemas["BulkBody"]["additionalProperties"] is False
    assert schemas["EnqueueBody"]["properties"]["status"]["readOnly"] is True


@pytest.mark.parametrize("status", [200, 201, 202])
def test_the_enqueue_status_is_the_published_one(status: int) -> None:
    responses = json.loads(document("1", status))["paths"]["/enqueue"]["post"]["responses"]
    assert {str(status), "200"} <= set(responses)
