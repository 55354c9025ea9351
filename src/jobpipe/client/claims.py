"""Core's values from and to the wire, as a worker has them: leased tasks become claims, outcomes become settles."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct

from jobpipe.core.lifecycle import HANDLER_MISSING, Kind, Outcome
from jobpipe.core.task import Claim, Status, Task, TaskError
from jobpipe.wire.answers import encode_text
from jobpipe.wire.times import read_time


class _Error(Struct, gc=False):
    type: str
    message: str
    traceback: str | None
    attempt: int
    at: str


class _Leased(Struct, gc=False):
    """What a worker needs of `values.LeaseForm`; times as they are written, for most of them are the same."""

    id: str
    handler: str
    queue: str
    payload: Raw
    priority: int
    status: Status
    attempts: int
    failures: int
    lost: int
    max_retries: int
    timeout: float | None
    run_at: str
    created_at: str
    lease_id: str
    lease_until: str | None
    started_at: str | None = None
    cancel_requested: bool = False
    worker: str | None = None
    last_error: _Error | None = None
    alone: bool = False
    traceparent: str | None = None
    schedule: str | None = None
    scheduled_for: str | None = None


class _Leases(Struct):
    tasks: list[_Leased]
    features: tuple[str, ...] = ()


class Leased(Struct, frozen=True):
    """What a server leased, and the further fields of a lease request that it takes."""

    claims: list[Claim]
    features: tuple[str, ...]


_DONE: Final = Kind.DONE
_leases: Final = msgspec.json.Decoder(_Leases)


def leased(body: bytes) -> Leased:
    """The answer of `/lease`. Raises ValueError when it is not one."""
    answer = _leases.decode(body)
    return Leased([_claim(form) for form in answer.tasks], answer.features)


def settle_body(claim: Claim, outcome: Outcome) -> bytes:
    """One item for `/settle`."""
    return settle_item(claim.task.id, claim.lease_id, outcome)


def settle_item(id: str, lease_id: str, outcome: Outcome) -> bytes:
    """One item for `/settle`, of a claim of which no more is known."""
    return b'{"id":%b,"lease_id":%b,"outcome":"%b"%b}' % (
        encode_text(id),
        encode_text(lease_id),
        outcome.kind.encode(),
        _details(outcome),
    )


def _details(outcome: Outcome) -> bytes:
    if outcome.kind is _DONE:
        return b',"result":%b' % (outcome.result or b"null")
    if outcome == HANDLER_MISSING:
        return b',"unknown_handler":true'
    if outcome.kind is Kind.RELEASED and outcome.retry_in is not None:
        hold = b"" if outcome.hold is None else b',"hold":"%b"' % outcome.hold.encode()
        return b',"retry_in":%b%b' % (msgspec.json.encode(outcome.retry_in), hold)
    if outcome.kind not in (Kind.FAILED, Kind.TIMED_OUT, Kind.LOST):
        return b""
    return b',"error":{"type":%b,"message":%b,"traceback":%b},"retryable":%b,"retry_in":%b' % (
        encode_text(outcome.error_type or outcome.kind),
        encode_text(outcome.message),
        b"null" if outcome.traceback is None else encode_text(outcome.traceback),
        b"true" if outcome.retryable else b"false",
        b"null" if outcome.retry_in is None else msgspec.json.encode(outcome.retry_in),
    )


def _claim(form: _Leased) -> Claim:
    task = Task(
        0,  # the order of acceptance is the server's own knowledge
        form.id, form.handler, form.queue, bytes(form.payload), form.priority, form.status,
        form.attempts, form.failures, form.lost, form.max_retries, form.timeout,
        read_time(form.run_at), read_time(form.created_at),
        None if form.started_at is None else read_time(form.started_at),
        None, form.cancel_requested, form.worker, None,
        None if form.last_error is None else _error(form.last_error),
        form.traceparent,
        schedule=form.schedule,
        scheduled_for=None if form.scheduled_for is None else read_time(form.scheduled_for),
    )  # fmt: skip
    return Claim(
        task, form.lease_id, None if form.lease_until is None else read_time(form.lease_until), form.alone
    )


def _error(form: _Error) -> TaskError:
    return TaskError(form.type, form.message, form.traceback, form.attempt, read_time(form.at))
