"""The three calls of a worker: /lease, /settle and /extend, as they come and as they are answered.

A body that is not what the route expects is refused whole; a settle that is not allowed is answered in its own place,
because the others beside it must not wait for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from jobpipe.core.errors import Invalid, JobpipeError, TooLarge
from jobpipe.core.lifecycle import HANDLER_MISSING, RELEASED, Kind, Outcome, Scope
from jobpipe.core.task import MAX_DELAY_S, Claim, Status
from jobpipe.core.text import head, tail
from jobpipe.wire import requests, strict
from jobpipe.wire.answers import TaskView, Time, encode_task
from jobpipe.wire.times import format_time

MAX_LEASED = 1000
MAX_WAIT_S = 60
MIN_LEASE_S, MAX_LEASE_S = 5, 3600
MAX_ITEMS = 10_000
"""Settles, and leases to extend, in one request."""

MAX_SLOTS = 1_000_000
FEATURES = ("hold", "total", "release")
"""Fields of a lease request that not every server takes: sent once an answer listed them."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Slots = Annotated[int, Meta(ge=1, le=MAX_SLOTS, description="Tasks that the worker can run at a time.")]
Release = Annotated[int, Meta(ge=0, le=2**53, description="Of the worker's app: a later one is higher.")]
LeaseSeconds = Annotated[float, Meta(ge=MIN_LEASE_S, le=MAX_LEASE_S, description="Seconds.")]


class LeaseBody(Struct, forbid_unknown_fields=True):
    """A worker's wish for tasks. A field that is null counts as left out."""

    worker_id: Name
    queues: (
        Annotated[list[str], Meta(min_length=1, max_length=1000, description='Names, or `["*"]` for all.')]
        | None
    ) = None
    max: Annotated[int, Meta(ge=1, le=MAX_LEASED)] | None = None
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S, description="Seconds.")] | None = None
    lease: LeaseSeconds | None = None
    host: Annotated[str, Meta(max_length=255)] | None = None
    pid: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    version: Annotated[str, Meta(max_length=100)] | None = None
    # Left out, not null, by a worker that does not know yet whether its server takes them: see `FEATURES`.
    total: Slots | UnsetType | None = UNSET
    release: Release | UnsetType | None = UNSET


class SettleError(Struct, forbid_unknown_fields=True):
    """Why a run failed; longer texts are cut to 8 KiB."""

    type: str | None = None
    message: str | None = None
    traceback: str | None = None


class SettleBody(Struct, forbid_unknown_fields=True):
    """What became of one run. `lost`: the process that ran it died, as its parent says."""

    id: str
    lease_id: str
    outcome: Literal["done", "failed", "timed_out", "cancelled", "released", "lost"]
    result: Annotated[Raw, Meta(description="Of done: any JSON value.")] | UnsetType = UNSET
    error: SettleError | None = None
    retryable: bool | None = None
    retry_in: (
        Annotated[float, Meta(ge=0, le=MAX_DELAY_S, description="Seconds; null for the server's backoff.")]
        | None
    ) = None
    unknown_handler: (
        Annotated[bool, Meta(description="Of released: this worker cannot run such tasks.")] | None
    ) = None
    hold: (
        Annotated[
            Scope,
            Meta(
                description="Of released with retry_in: nothing else of the task's key, or queue, starts meanwhile."
            ),
        ]
        | None
    ) = None


class ExtendLease(Struct, forbid_unknown_fields=True):
    """A lease to prolong; `timeout` is the handler's own, in seconds."""

    id: str
    lease_id: str
    timeout: Annotated[float, Meta(gt=0, le=MAX_DELAY_S)] | None = None


class ExtendBody(Struct, forbid_unknown_fields=True):
    """A heartbeat. With `wait` and no leases the answer comes when the cancelling of a task that this worker runs was
    asked for, after `wait` seconds at the latest: then a heartbeat tells which."""

    worker_id: Name
    leases: Annotated[list[ExtendLease], Meta(max_length=MAX_ITEMS)]
    lease: LeaseSeconds | None = None
    wait: Annotated[float, Meta(ge=0, le=MAX_WAIT_S, description="Seconds.")] | None = None


class SettledView(Struct, omit_defaults=True):
    """The answer to one settle: `accepted` with the status that it led to, or not, with the code that says why."""

    id: str | None
    accepted: bool
    status: Status | None = None
    code: str | None = None


class ExtendedView(Struct, omit_defaults=True):
    """The answer to one lease of a heartbeat."""

    id: str
    extended: bool
    lease_until: str | None = None
    cancel_requested: bool | None = None
    code: str | None = None


class LeasedView(TaskView, kw_only=True):
    """A task with the proof of its claim. `alone` asks that no other task run in the same process."""

    lease_id: str
    lease_until: Time | None
    traceparent: str | UnsetType = UNSET
    alone: bool | UnsetType = UNSET


class LeasesView(Struct):
    """What was leased; none when nothing was due, or when the server drains. `features` are the fields that this server
    takes beside those of the first version: `hold` in a settle, `total` and `release` in a lease."""

    tasks: list[LeasedView]
    features: list[Literal["hold", "total", "release"]]


class SettleItem(Struct, frozen=True):
    """A settle that may be carried out."""

    id: str
    lease_id: str
    outcome: Outcome


class RefusedSettle(Struct, frozen=True):
    """A settle that is not allowed, with its id as far as it could be read."""

    id: str | None
    error: JobpipeError


class _SettleId(Struct):
    id: str


_DONE = Kind.DONE
_KINDS = {kind.value: kind for kind in Kind}
_lease = msgspec.json.Decoder(LeaseBody)
_lease_fields: dict[str, Any] = dict.fromkeys(LeaseBody.__struct_fields__)
_extend = msgspec.json.Decoder(ExtendBody)
_extend_fields: dict[str, Any] = dict.fromkeys(ExtendBody.__struct_fields__)
_settle = msgspec.json.Decoder(SettleBody)
_settles = msgspec.json.Decoder(list[SettleBody])
_settle_fields: dict[str, Any] = dict.fromkeys(SettleBody.__struct_fields__)
_settle_id = msgspec.json.Decoder(_SettleId)
_encode = msgspec.json.encode
_FEATURES = b',"features":%b' % _encode(FEATURES)


def parse_lease(body: bytes) -> LeaseBody:
    """A lease request. Raises InvalidJson or Invalid with the field."""
    parsed = strict.decode(_lease, body, _lease_fields)
    for field in ("worker_id", "host", "version"):
        if (text := getattr(parsed, field)) is not None:
            strict.check_text(text, field)
    try:
        for queue in parsed.queues or ():
            if queue != "*":
                requests.queues.check(queue)
    except Invalid as error:
        raise Invalid(error.detail, field="queues") from None
    return parsed


def queues_of(lease: LeaseBody) -> frozenset[str] | None:
    """The queues that a worker asks for, None for all."""
    return None if lease.queues is None or "*" in lease.queues else frozenset(lease.queues)


def parse_extend(body: bytes) -> ExtendBody:
    """A heartbeat. Raises InvalidJson or Invalid with the field."""
    return strict.decode(_extend, body, _extend_fields)


def parse_settles(body: bytes, max_result: int) -> list[SettleItem | RefusedSettle]:
    """The settles of an array, each judged alone. Raises InvalidJson or Invalid for the whole."""
    strict.check_utf8(body)
    try:
        parsed = _settles.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return [_judge(item, max_result) for item in requests.split(body)]
    if len(parsed) > MAX_ITEMS:
        raise Invalid(f"at most {MAX_ITEMS} settles at a time")
    return [_item(settle, max_result) for settle in parsed]


def encode_leases(claims: Iterable[Claim], most: int) -> tuple[bytes, int]:
    """The answer to a lease request, at most `most` bytes but one task; and how many of the claims are in it."""
    parts: list[bytes] = []
    size = 0
    for claim in claims:
        part = _encode_claim(claim)
        size += len(part) + 1
        if size > most and parts:
            break
        parts.append(part)
    return b'{"tasks":[%b]%b}' % (b",".join(parts), _FEATURES), len(parts)


def _encode_claim(claim: Claim) -> bytes:
    until = b"null" if claim.lease_until is None else format_time(claim.lease_until)
    more = b',"lease_id":%b,"lease_until":%b' % (_encode(claim.lease_id), until)
    if claim.task.traceparent is not None:
        more += b',"traceparent":%b' % _encode(claim.task.traceparent)
    if claim.alone:
        more += b',"alone":true'
    return encode_task(claim.task)[:-1] + more + b"}"


def _judge(item: bytes, max_result: int) -> SettleItem | RefusedSettle:
    """One settle of an array in which some item is not allowed."""
    try:
        return _item(strict.decode(_settle, item, _settle_fields), max_result)
    except JobpipeError as error:
        return RefusedSettle(_id_of(item), strict.bare(error))


def _id_of(item: bytes) -> str | None:
    try:
        return _settle_id.decode(item).id
    except (ValueError, RecursionError):
        return None


def _item(settle: SettleBody, max_result: int) -> SettleItem | RefusedSettle:
    result = b"null" if settle.result is UNSET else bytes(settle.result)
    if len(result) > max_result:
        return RefusedSettle(settle.id, TooLarge(f"a result has at most {max_result} bytes", field="result"))
    if settle.unknown_handler and settle.outcome != "released":
        return RefusedSettle(settle.id, Invalid("only of a released run", field="unknown_handler"))
    if settle.hold is not None and (settle.outcome != "released" or settle.retry_in is None):
        return RefusedSettle(settle.id, Invalid("only of a released run with retry_in", field="hold"))
    if strict.too_deep(result):
        return RefusedSettle(settle.id, strict.deep("result"))
    return SettleItem(settle.id, settle.lease_id, _outcome(settle, result))


def _outcome(settle: SettleBody, result: bytes) -> Outcome:
    kind = _KINDS[settle.outcome]
    if kind is _DONE:
        return Outcome(kind, result)
    if kind is Kind.RELEASED:
        if settle.unknown_handler:
            return HANDLER_MISSING
        return (
            RELEASED if settle.retry_in is None else Outcome(kind, retry_in=settle.retry_in, hold=settle.hold)
        )
    error = settle.error or SettleError()
    return Outcome(
        kind,
        error_type=None if error.type is None else head(error.type),
        message=head(error.message or ""),
        traceback=None if error.traceback is None else tail(error.traceback),
        retryable=settle.retryable is not False,
        retry_in=settle.retry_in,
    )
