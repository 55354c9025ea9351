"""Which tasks are meant: the query of `GET /tasks`, its cursors, and the bodies of the bulk routes.

A cursor carries the `seq` where the next page begins. To clients it is opaque; a checksum tells a broken one apart.
"""

from __future__ import annotations

import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast, get_args
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import Meta, Struct

from jobpipe.core.errors import Invalid
from jobpipe.core.task import Status
from jobpipe.wire import requests, strict
from jobpipe.wire.slim import TASK_FIELDS
from jobpipe.wire.times import parse_time

MAX_LIMIT = 1000
DEFAULT_LIMIT = 100

ERROR_GROUP = r"[0-9a-f]{16}"
_ERROR_GROUP = re.compile(ERROR_GROUP)
_LIMIT = re.compile(r"[1-9][0-9]{0,3}")
_CURSOR = re.compile(r"[A-Za-z0-9_-]{16}")
_MAX_QUERY = 8192


Waits = Literal["scheduled", "retrying"]
"""What is asked for like a status: queued tasks whose time has not come, before their first run and after one."""
STATUSES = (*Status, *get_args(Waits))


class Filters(Struct, frozen=True):
    """Which tasks: all conditions that are set must hold. Times are milliseconds."""

    status: Status | None = None
    waits: Waits | None = None
    queue: str | None = None
    handler: str | None = None
    error_type: str | None = None
    id_prefix: str | None = None
    created_after: int | None = None
    created_before: int | None = None
    error_group: str | None = None
    ids: tuple[str, ...] | None = None
    key: str | None = None
    schedule: str | None = None


class Listing(Struct, frozen=True):
    """A page that was asked for; `fields` None means all, `query` is the request's own, without the cursor."""

    where: Filters
    limit: int
    before_seq: int | None
    fields: frozenset[str] | None
    query: tuple[tuple[str, str], ...]


class BulkBody(Struct, forbid_unknown_fields=True):
    """Which tasks to change: all conditions must hold; at least one, or `all`."""

    ids: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, max_length=200)]], Meta(max_length=requests.MAX_ITEMS)
        ]
        | None
    ) = None
    status: Literal["queued", "running", "done", "failed", "cancelled", "scheduled", "retrying"] | None = None
    queue: Annotated[str, Meta(extra_json_schema={"pattern": f"^{requests.QUEUE}$"})] | None = None
    handler: Annotated[str, Meta(extra_json_schema={"pattern": f"^{requests.HANDLER}$"})] | None = None
    error_type: Annotated[str, Meta(max_length=200)] | None = None
    error_group: Annotated[str, Meta(extra_json_schema={"pattern": f"^{ERROR_GROUP}$"})] | None = None
    id_prefix: Annotated[str, Meta(max_length=200)] | None = None
    created_after: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None = None
    created_before: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None = None
    key: Annotated[str, Meta(max_length=200)] | None = None
    schedule: Annotated[str, Meta(max_length=100)] | None = None
    all: Annotated[bool, Meta(description="Says that no filter is meant.")] | None = None
    dry_run: Annotated[bool, Meta(description="Only count.")] | None = None


FILTERS = (
    "status", "queue", "handler", "error_type", "error_group", "id_prefix", "created_after", "created_before",
    "key", "schedule",
)  # fmt: skip
_PARAMETERS = frozenset({*FILTERS, "limit", "cursor", "fields"})
_bulk = msgspec.json.Decoder(BulkBody)
_bulk_fields: dict[str, Any] = dict.fromkeys(BulkBody.__struct_fields__)


def parse_listing(query: bytes) -> Listing:
    """The query string of `GET /tasks`. Raises Invalid, naming the parameter."""
    given = parse_query(query)
    unknown = next((name for name in given if name not in _PARAMETERS), None)
    if unknown is not None:
        raise Invalid(f"unknown parameter '{unknown[:100]}'", field=unknown[:100])
    limit = parse_limit(given)
    before = decode_cursor(given["cursor"]) if "cursor" in given else None
    times = {name: _time_text(given[name]) for name in ("created_after", "created_before") if name in given}
    where = _filters({name: given[name] for name in FILTERS if name in given} | times)
    fields = _fields(given["fields"]) if "fields" in given else None
    return Listing(where, limit, before, fields, tuple((k, v) for k, v in given.items() if k != "cursor"))


def _fields(text: str) -> frozenset[str]:
    """Names of fields of a task, between commas."""
    wanted = frozenset(text.split(","))
    unknown = sorted(wanted.difference(TASK_FIELDS))
    if unknown:
        raise Invalid(f"a task has no field '{unknown[0][:100]}'", field="fields")
    return wanted


def parse_limit(given: Mapping[str, str]) -> int:
    """The parameter `limit`. Raises Invalid."""
    limit = given.get("limit", str(DEFAULT_LIMIT))
    if not _LIMIT.fullmatch(limit) or int(limit) > MAX_LIMIT:
        raise Invalid(f"must be a whole number from 1 to {MAX_LIMIT}", field="limit")
    return int(limit)


def parse_when(given: Mapping[str, str], field: str) -> int | None:
    """The time in a parameter of a query, in milliseconds; None when it is not there. Raises Invalid."""
    return _time({name: _time_text(text) for name, text in given.items() if name == field}, field)


def _time_text(text: str) -> str:
    """An unescaped + in a query stands for a blank, and a time has no blanks."""
    return text.replace(" ", "+")


def parse_query(query: bytes) -> dict[str, str]:
    """The parameters of a query string, each at most once. Raises Invalid."""
    if not query:
        return {}
    if len(query) > _MAX_QUERY:
        raise Invalid("the query is too long")
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Invalid("the query is not UTF-8, percent-encoded") from None
    given: dict[str, str] = {}
    for name, value in pairs:
        if name in given:
            raise Invalid("given twice", field=name[:100])
        given[name] = value
    return given


def parse_flag(given: dict[str, str], name: str) -> bool:
    """Whether a parameter of a query says true; left out, it is false. Raises Invalid."""
    text = given.get(name, "false")
    if text not in ("true", "false"):
        raise Invalid("must be true or false", field=name)
    return text == "true"


def next_page(listing: Listing, next_seq: int) -> str:
    """The query string of the page after this one."""
    return urlencode([*listing.query, ("cursor", encode_cursor(next_seq))])


def encode_cursor(seq: int) -> str:
    """An opaque cursor for tasks with a smaller `seq`."""
    number = seq.to_bytes(8, "big")
    return urlsafe_b64encode(number + zlib.crc32(number).to_bytes(4, "big")).decode()


def decode_cursor(cursor: str) -> int:
    """What `encode_cursor` was given. Raises Invalid for any other text."""
    if _CURSOR.fullmatch(cursor):
        data = urlsafe_b64decode(cursor)
        number, check = data[:8], int.from_bytes(data[8:], "big")
        if zlib.crc32(number) == check and number[0] < 0x80:
            return int.from_bytes(number, "big")
    raise Invalid("not a cursor of this server", field="cursor")


def parse_bulk(body: bytes) -> tuple[Filters, bool]:
    """The filter of a bulk request, and whether it only counts. Raises InvalidJson or Invalid."""
    parsed = strict.decode(_bulk, body, _bulk_fields)
    given = {name: value for name in FILTERS if (value := getattr(parsed, name)) is not None}
    if not given and parsed.ids is None and not parsed.all:
        raise Invalid('give a filter, or "all": true', field="all")
    ids = None if parsed.ids is None else tuple(dict.fromkeys(parsed.ids))
    for id in ids or ():
        strict.check_text(id, "ids")
    return _filters(given, ids), bool(parsed.dry_run)


def _filters(given: dict[str, str], ids: tuple[str, ...] | None = None) -> Filters:
    if "status" in given and given["status"] not in STATUSES:
        raise Invalid(f"must be one of {', '.join(STATUSES)}", field="status")
    if "queue" in given:
        requests.queues.check(given["queue"])
    if "handler" in given:
        requests.handlers.check(given["handler"])
    for name in ("error_type", "id_prefix", "key", "schedule"):
        if name in given:
            _check_text(given[name], name)
    if "error_group" in given and not _ERROR_GROUP.fullmatch(given["error_group"]):
        raise Invalid("must be 16 hexadecimal digits, as /errors tells them", field="error_group")
    status, waits = _standing(given.get("status"))
    return Filters(
        status=status,
        waits=waits,
        queue=given.get("queue"),
        handler=given.get("handler"),
        error_type=given.get("error_type"),
        id_prefix=given.get("id_prefix"),
        created_after=_time(given, "created_after"),
        created_before=_time(given, "created_before"),
        error_group=given.get("error_group"),
        ids=ids,
        key=given.get("key"),
        schedule=given.get("schedule"),
    )


def _standing(status: str | None) -> tuple[Status | None, Waits | None]:
    if status in get_args(Waits):
        return Status.QUEUED, cast("Waits", status)
    return (None if status is None else Status(status)), None


def _check_text(value: str, field: str) -> None:
    if len(value) > 200:
        raise Invalid("at most 200 characters", field=field)
    strict.check_text(value, field)


def _time(given: dict[str, str], field: str) -> int | None:
    if field not in given:
        return None
    try:
        # Before and after exclude the moment itself: a finer time must not exclude the millisecond it lies in.
        return parse_time(given[field], up=field == "created_before")
    except ValueError:
        raise Invalid("must be an RFC 3339 time with an offset", field=field) from None
