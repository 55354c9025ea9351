"""Core's values from and to the wire, as a worker has them: leased tasks become claims, outcomes become settles."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Struct

from jobpipe.client.values import LeaseForm
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Task, TaskError
from jobpipe.wire.answers import encode_text


class _Leases(Struct):
    tasks: list[LeaseForm]


_leases: Final = msgspec.json.Decoder(_Leases)


def claims_of(body: bytes) -> list[Claim]:
    """The claims in the answer of `/lease`. Raises ValueError when it is not one."""
    return [_claim(form) for form in _leases.decode(body).tasks]


def settle_body(claim: Claim, outcome: Outcome) -> bytes:
    """One item for `/settle`."""
    return b'{"id":%b,"lease_id":%b,"outcome":"%b"%b}' % (
        encode_text(claim.task.id),
        encode_text(claim.lease_id),
        outcome.kind.encode(),
        _details(outcome),
    )


def _details(outcome: Outcome) -> bytes:
    if outcome.kind is Kind.DONE:
        return b',"result":%b' % (outcome.result or b"null")
    if outcome.kind not in (Kind.FAILED, Kind.TIMED_OUT):
        return b""
    return b',"error":{"type":%b,"message":%b,"traceback":%b},"retryable":%b,"retry_in":%b' % (
        encode_text(outcome.error_type or outcome.kind),
        encode_text(outcome.message),
        b"null" if outcome.traceback is None else encode_text(outcome.traceback),
        b"true" if outcome.retryable else b"false",
        b"null" if outcome.retry_in is None else msgspec.json.encode(outcome.retry_in),
    )


def _claim(form: LeaseForm) -> Claim:
    error = form.last_error
    task = Task(
        seq=0,  # the order of acceptance is the server's own knowledge
        id=form.id,
        handler=form.handler,
        queue=form.queue,
        payload=bytes(form.payload),
        priority=form.priority,
        status=form.status,
        attempts=form.attempts,
        failures=form.failures,
        lost=form.lost,
        max_retries=form.max_retries,
        timeout=form.timeout,
        run_at=_ms(form.run_at),
        created_at=_ms(form.created_at),
        started_at=None if form.started_at is None else _ms(form.started_at),
        cancel_requested=form.cancel_requested,
        worker=form.worker,
        last_error=None
        if error is None
        else TaskError(error.type, error.message, error.traceback, error.attempt, _ms(error.at)),
        traceparent=form.traceparent,
    )
    return Claim(task, form.lease_id, None if form.lease_until is None else _ms(form.lease_until), form.alone)


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
