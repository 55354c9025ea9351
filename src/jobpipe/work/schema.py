"""What a handler's payload must be, as JSON Schema: for people who fill in a form, and for clients in other languages.

What has no schema has an empty one, which any payload fits: telling is a courtesy, and never stops a worker.
"""

from __future__ import annotations

from typing import Any

import msgspec

from jobpipe.work.binding import Binding
from jobpipe.work.convert import mentions_pydantic
from jobpipe.work.handler import Handler

OWN = "x-jobpipe"
"""Under this name stand the handler's own timeout (seconds), queue and max_retries, where it has any."""
MOST_BYTES = 32 * 1024
"""A larger schema is not told."""

Schema = dict[str, Any]


def schema_of(handler: Handler[..., Any]) -> Schema:
    """The schema of its payload."""
    found = _own(handler)
    try:
        shape = _shape(handler.binding)
        return shape | found if len(msgspec.json.encode(shape)) <= MOST_BYTES else found
    except Exception:  # noqa: BLE001 - types are other people's code, and may raise anything
        return found


def _own(handler: Handler[..., Any]) -> Schema:
    timeout = None if handler.timeout == float("inf") else handler.timeout
    own = {"timeout": timeout, "queue": handler.queue, "max_retries": handler.max_retries}
    given = {name: value for name, value in own.items() if value is not None}
    return {OWN: given} if given else {}


def _shape(binding: Binding) -> Schema:
    if binding.whole:
        (field,) = binding.fields
        return _of_type(field.type)
    properties = {field.name: _of_type(field.type) for field in binding.fields}
    definitions = {name: one for part in properties.values() for name, one in part.pop("$defs", {}).items()}
    return {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in binding.fields if field.required],
        **({"additionalProperties": False} if binding.rest is None else {}),
        **({"$defs": definitions} if definitions else {}),
    }


def _of_type(annotation: Any) -> Schema:
    if mentions_pydantic(annotation):
        from pydantic import TypeAdapter

        return TypeAdapter(annotation).json_schema()
    return msgspec.json.schema(annotation)
