"""Tasks to enqueue, as they come: one object, an array, or a line each (NDJSON).

A batch gives a list in the order of the request: a NewTask, or the error that the item would have got alone. The
payload is never looked into further than strictness asks, and its bytes are kept.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, DecodeError, Meta, Raw, Struct, UnsetType, ValidationError

from jobpipe.core.errors import Invalid, InvalidJson, JobpipeError, TooLarge
from jobpipe.core.task import MAX_DELAY_S, MAX_RETRIES_LIMIT, PRIORITY_MAX, PRIORITY_MIN, NewTask
from jobpipe.core.unique import OnConflict, Unique, text_of
from jobpipe.wire import strict
from jobpipe.wire.ids import new_id
from jobpipe.wire.times import parse_time

MAX_ITEMS = 10_000
"""Tasks in one batch."""

NAME = r"^(?!\.{1,2}$)[^\u0000-\u001f\u007f-\u009f]+$"
"""Of ids, and of other names that people choose freely."""
HANDLER = r"[A-Za-z0-9_.:-]{1,200}"
QUEUE = r"[A-Za-z0-9_.-]{1,100}"

_FEW = 50_000
"""So many objects may be built before they are counted: about 15 MB."""

_REMEMBERED = 10_000
_LINE = re.compile(rb"[^ \t\r\n][^\n]*")
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")

Ignored = Annotated[
    Raw, Meta(description="Set by the server; ignored in a request.", extra_json_schema={"readOnly": True})
]


class UniqueBody(Struct, forbid_unknown_fields=True, gc=False):
    """A unique key and its rules: one living task of the handler has it."""

    key: Annotated[str, Meta(min_length=1, max_length=200, extra_json_schema={"pattern": NAME})]
    until: (
        Annotated[
            float, Meta(gt=0, le=MAX_DELAY_S, description="Seconds after the acceptance, ended or not.")
        ]
        | Literal["end", "start"]
        | None
    ) = None
    on_conflict: OnConflict | None = None
    within: (
        Annotated[
            float,
            Meta(gt=0, le=MAX_DELAY_S, description="Seconds that `replace` may put the task off at most."),
        ]
        | None
    ) = None


class EnqueueBody(Struct, forbid_unknown_fields=True, gc=False):
    """A task to accept. A field that is null counts as left out, except `payload`."""

    id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                description="No control characters, not `.` or `..`. Left out, the server makes a UUIDv7.",
                extra_json_schema={"pattern": NAME},
            ),
        ]
        | None
    ) = None
    payload: (
        Annotated[Raw, Meta(description="Any JSON value, at most 128 levels deep, kept byte for byte.")]
        | UnsetType
    ) = UNSET
    max_retries: Annotated[int, Meta(ge=0, le=MAX_RETRIES_LIMIT)] | None = None
    handler: Annotated[str, Meta(extra_json_schema={"pattern": f"^{HANDLER}$"})] | None = None
    queue: Annotated[str, Meta(extra_json_schema={"pattern": f"^{QUEUE}$"})] | None = None
    priority: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX, description="Higher first.")] | None = (
        None
    )
    run_at: (
        Annotated[
            str,
            Meta(
                description="With an offset; the past means now, more than ten years ahead is refused.",
                extra_json_schema={"format": "date-time"},
            ),
        ]
        | None
    ) = None
    delay: (
        Annotated[float, Meta(ge=0, le=MAX_DELAY_S, description="Seconds; not together with run_at.")] | None
    ) = None
    timeout: Annotated[float, Meta(gt=0, le=MAX_DELAY_S, description="Seconds for one run.")] | None = None
    key: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=200,
                description="What the task belongs to within its queue: a tenant, an account. As for ids.",
                extra_json_schema={"pattern": NAME},
            ),
        ]
        | None
    ) = None
    unique: (
        Annotated[str, Meta(min_length=1, max_length=200, extra_json_schema={"pattern": NAME})]
        | UniqueBody
        | None
    ) = None
    expires: (
        Annotated[float, Meta(gt=0, le=MAX_DELAY_S, description="Seconds from now; not before run_at.")]
        | Annotated[str, Meta(extra_json_schema={"format": "date-time"})]
        | None
    ) = None
    status: Ignored | UnsetType = UNSET
    attempts: Ignored | UnsetType = UNSET
    failures: Ignored | UnsetType = UNSET
    lost: Ignored | UnsetType = UNSET
    created_at: Ignored | UnsetType = UNSET
    started_at: Ignored | UnsetType = UNSET
    finished_at: Ignored | UnsetType = UNSET
    cancel_requested: Ignored | UnsetType = UNSET
    worker: Ignored | UnsetType = UNSET
    result: Ignored | UnsetType = UNSET
    last_error: Ignored | UnsetType = UNSET
    expires_at: Ignored | UnsetType = UNSET
    held: Ignored | UnsetType = UNSET
    schedule: Ignored | UnsetType = UNSET
    scheduled_for: Ignored | UnsetType = UNSET
    error_group: Ignored | UnsetType = UNSET
    deduplicated: Ignored | UnsetType = UNSET
    replaced: Ignored | UnsetType = UNSET


class Defaults(Struct, frozen=True):
    """What the server fills in, and the bound for one item in bytes."""

    handler: str = "default"
    max_retries: int = 3
    max_body: int = 1024 * 1024


_one = msgspec.json.Decoder(EnqueueBody)
_many = msgspec.json.Decoder(list[EnqueueBody])
_items = msgspec.json.Decoder(list[Raw])
_fields: dict[str, Any] = dict.fromkeys(EnqueueBody.__struct_fields__)


class _Names:
    """Names that were found well-formed are remembered: a look-up in place of a match."""

    def __init__(self, field: str, pattern: str) -> None:
        self._field = field
        self._pattern = pattern
        self._match = re.compile(pattern).fullmatch
        self._known: set[str] = set()

    def check(self, name: str) -> None:
        if name in self._known:
            return
        if self._match(name) is None:
            raise Invalid(f"must match {self._pattern}", field=self._field)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known.add(name)


handlers = _Names("handler", HANDLER)
queues = _Names("queue", QUEUE)


def parse_object(
    body: bytes, defaults: Defaults, now: int, traceparent: str | None = None, *, id: str | None = None
) -> NewTask:
    """One task, with the id `id` (None: a new one) when it has none. Raises TooLarge, InvalidJson, or Invalid."""
    if len(body) > defaults.max_body:
        raise TooLarge(f"a task has at most {defaults.max_body} bytes")
    return _new_task(strict.decode(_one, body, _fields), defaults, now, traceparent, id)


def parse_array(
    body: bytes, defaults: Defaults, now: int, traceparent: str | None = None
) -> list[NewTask | JobpipeError]:
    """A JSON array of 1 to MAX_ITEMS tasks. Raises InvalidJson or Invalid for the whole."""
    strict.check_utf8(body)
    # An item of a body that is no longer than the bound cannot be over it: one decoding serves all.
    if len(body) <= defaults.max_body and body.count(b"}") <= _FEW:
        try:
            bodies = _many.decode(body)
        except (ValidationError, RecursionError):
            pass  # one of them is not allowed: look at each
        except DecodeError as error:
            raise InvalidJson(str(error)) from None
        else:
            _check_count(len(bodies))
            try:  # all at once: a call less for each, as long as none is refused
                return [_new_task(item, defaults, now, traceparent) for item in bodies]
            except JobpipeError:
                return [_item(item, defaults, now, traceparent) for item in bodies]
    parsed = [_parse_item(item, defaults, now, traceparent) for item in split(body)]
    broken = next((item for item in parsed if isinstance(item, InvalidJson)), None)
    if broken is not None:  # then the array around it is no JSON either
        raise broken
    return parsed


def parse_lines(
    body: bytes, defaults: Defaults, now: int, traceparent: str | None = None
) -> list[NewTask | JobpipeError]:
    """NDJSON: 1 to MAX_ITEMS lines of one task each, blank lines aside. Raises Invalid for the whole."""
    return [_parse_item(line, defaults, now, traceparent) for line in split_lines(body)]


def split_lines(body: bytes) -> list[bytes]:
    """The lines of NDJSON that are not blank. Raises Invalid for none, or more than MAX_ITEMS."""
    lines = [line[0] for line in islice(_LINE.finditer(body), MAX_ITEMS + 1)]
    _check_count(len(lines))
    return lines


def valid_traceparent(header: bytes | None) -> str | None:
    """The W3C `traceparent` if it is well-formed (version 00, no id all zero), else None."""
    return header.decode() if header is not None and _TRACEPARENT.fullmatch(header) else None


def _check_count(count: int) -> None:
    if not 1 <= count <= MAX_ITEMS:
        raise Invalid(f"a batch has 1 to {MAX_ITEMS} tasks")


def _parse_item(item: bytes, defaults: Defaults, now: int, traceparent: str | None) -> NewTask | JobpipeError:
    try:
        return parse_object(item, defaults, now, traceparent)
    except JobpipeError as error:
        return strict.bare(error)


def _item(body: EnqueueBody, defaults: Defaults, now: int, traceparent: str | None) -> NewTask | JobpipeError:
    try:
        return _new_task(body, defaults, now, traceparent)
    except JobpipeError as error:
        return strict.bare(error)


def split(body: bytes) -> list[bytes]:
    """The items of an array as bytes, each still to be judged."""
    strict.check_item_count(body, MAX_ITEMS)
    try:
        items = [bytes(item) for item in _items.decode(body)]
    except ValidationError:
        raise Invalid("an array is expected") from None
    except DecodeError as error:
        raise InvalidJson(str(error)) from None
    except RecursionError:
        items = strict.split_deep(body)
    _check_count(len(items))
    return items


def _new_task(
    body: EnqueueBody, defaults: Defaults, now: int, traceparent: str | None, otherwise: str | None = None
) -> NewTask:
    id, handler, queue, payload = body.id, body.handler, body.queue, body.payload
    if id is None:
        id = otherwise or new_id(now)
    else:
        check_name(id, "id")
    if handler is None:
        handler = defaults.handler
    else:
        handlers.check(handler)
    if queue is None:
        queue = "default"
    else:
        queues.check(queue)
    if body.key is not None:
        check_name(body.key, "key")
    run_at = None if body.run_at is None and body.delay is None else _due(body, now)
    json = b"null" if payload is UNSET else bytes(payload)
    if strict.too_deep(json):
        raise strict.deep()
    return NewTask(
        id,
        handler,
        json,
        queue,
        body.priority or 0,
        defaults.max_retries if body.max_retries is None else body.max_retries,
        run_at,
        body.timeout,
        traceparent,
        body.key,
        None if body.unique is None else _uniqueness(body.unique),
        None if body.expires is None else expiry(body.expires, run_at, now),
    )


def text(value: str) -> bytes:
    """As JSON."""
    return msgspec.json.encode(value)


def check_name(name: str, field: str) -> None:
    """Raise Invalid for a name that cannot be part of a URL."""
    strict.check_text(name, field)
    if name in (".", ".."):
        raise Invalid("'.' and '..' cannot be part of a URL", field=field)


def _uniqueness(given: str | UniqueBody) -> str:
    body = UniqueBody(given) if isinstance(given, str) else given
    check_name(body.key, "unique" if isinstance(given, str) else "unique.key")
    rule = Unique(body.key, body.until or "end", body.on_conflict or OnConflict.RETURN, body.within)
    if rule.within is not None and rule.on_conflict is not OnConflict.REPLACE:
        raise Invalid("goes with on_conflict replace alone", field="unique.within")
    return text_of(rule)


def expiry(given: float | str, run_at: int | None, now: int) -> int:
    """When a task expires (ms), by seconds from now or a time. Raises Invalid, also for one before `run_at`."""
    try:
        at = parse_time(given) if isinstance(given, str) else now + round(given * 1000)
    except ValueError:
        raise Invalid("must be seconds, or an RFC 3339 time with an offset", field="expires") from None
    if at > now + MAX_DELAY_S * 1000:
        raise Invalid("at most ten years ahead", field="expires")
    if at < (now if run_at is None else run_at):
        raise Invalid("before run_at", field="expires")
    return at


def _due(body: EnqueueBody, now: int) -> int | None:
    """When to run, None for now."""
    if body.run_at is None:
        return now + round(body.delay * 1000) if body.delay else None
    if body.delay is not None:
        raise Invalid("give either delay or run_at", field="delay")
    return due(body.run_at, now)


def due(run_at: str, now: int) -> int | None:
    """The time (ms), None for now and the past. Raises Invalid."""
    try:
        at = parse_time(run_at)
    except ValueError:
        raise Invalid(
            "must be an RFC 3339 time with an offset, like 2026-11-21T21:09:00Z", field="run_at"
        ) from None
    if at > now + MAX_DELAY_S * 1000:
        raise Invalid("at most ten years ahead", field="run_at")
    return at if at > now else None
