"""The body of `PATCH /tasks/{id}`: what is to change of a queued task. Null clears."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from jobpipe.core.errors import Invalid, TooLarge
from jobpipe.core.revision import Revision
from jobpipe.core.task import MAX_DELAY_S, MAX_RETRIES_LIMIT, PRIORITY_MAX, PRIORITY_MIN
from jobpipe.wire import requests, strict


class RevisionBody(Struct, forbid_unknown_fields=True):
    """What is to change; null clears: now, priority 0, the server's retries, no time limit or expiry of its own."""

    payload: Raw | UnsetType = UNSET
    priority: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)] | UnsetType | None = UNSET
    run_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | UnsetType | None = UNSET
    delay: Annotated[float, Meta(ge=0, le=MAX_DELAY_S)] | UnsetType | None = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES_LIMIT)] | UnsetType | None = UNSET
    timeout: Annotated[float, Meta(gt=0, le=MAX_DELAY_S)] | UnsetType | None = UNSET
    expires: (
        Annotated[float, Meta(gt=0, le=MAX_DELAY_S)]
        | Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
        | UnsetType
        | None
    ) = UNSET


_decoder = msgspec.json.Decoder(RevisionBody)
_fields: dict[str, Any] = dict.fromkeys(RevisionBody.__struct_fields__)


def parse_revision(body: bytes, defaults: requests.Defaults, now: int) -> Revision:
    """What is to change. Raises TooLarge, InvalidJson, or Invalid with the field."""
    if len(body) > defaults.max_body:
        raise TooLarge(f"a task has at most {defaults.max_body} bytes")
    given = strict.decode(_decoder, body, _fields)
    payload = UNSET if given.payload is UNSET else bytes(given.payload)
    if payload is not UNSET and strict.too_deep(payload):
        raise strict.deep()
    return Revision(
        payload=payload,
        priority=0 if given.priority is None else given.priority,
        run_at=_run_at(given, now),
        max_retries=defaults.max_retries if given.max_retries is None else given.max_retries,
        timeout=given.timeout,
        expires_at=given.expires
        if given.expires is None or isinstance(given.expires, UnsetType)
        else requests.expiry(given.expires, None, now),
    )


def _run_at(given: RevisionBody, now: int) -> int | UnsetType | None:
    if not isinstance(given.run_at, UnsetType) and not isinstance(given.delay, UnsetType):
        raise Invalid("give either delay or run_at", field="delay")
    if isinstance(given.run_at, UnsetType):
        return UNSET if isinstance(given.delay, UnsetType) else now + round((given.delay or 0) * 1000)
    return None if given.run_at is None else requests.due(given.run_at, now)
