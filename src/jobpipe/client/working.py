"""The three calls of a worker, for those who write their own loop. `RemoteSource` has its own, leaner way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from msgspec import Raw, Struct

from jobpipe.client.exchange import Request
from jobpipe.client.flow import Caller, Flow, parse
from jobpipe.client.values import Extended, Lease, LeaseForm, Settle, Settled, encoded
from jobpipe.core.lifecycle import Kind
from jobpipe.wire.working import ExtendBody, ExtendLease, LeaseBody


class _Leases(Struct):
    tasks: list[LeaseForm]


_leases: Final = msgspec.json.Decoder(_Leases)
_settled: Final = msgspec.json.Decoder(list[Settled])
_extended: Final = msgspec.json.Decoder(list[Extended])


def lease(caller: Caller, wanted: LeaseBody) -> Flow[list[Lease]]:
    """Take tasks. Not sent again after a lost answer: what was leased unseen comes back when its lease runs out."""
    request = Request("POST", "/lease", encoded(wanted, "request"), wait=wanted.wait or 0.0)
    answer = yield from caller.call(request)
    return [form.lease() for form in parse(_leases, answer).tasks]


def settle(caller: Caller, settles: Iterable[Settle]) -> Flow[list[Settled]]:
    """Tell what became of runs. Sent again after a lost answer: the same settle gets the same answer."""
    body = b"[%b]" % b",".join(map(_settle_body, settles))
    answer = yield from caller.call(Request("POST", "/settle", body, repeatable=True))
    return parse(_settled, answer)


def extend(caller: Caller, worker_id: str, leases: Iterable[Lease], lease: float) -> Flow[list[Extended]]:
    """Prolong leases by `lease` seconds from now."""
    body = ExtendBody(worker_id, [ExtendLease(one.task.id, one.lease_id) for one in leases], lease)
    request = Request("POST", "/extend", encoded(body, "request"), repeatable=True)
    return parse(_extended, (yield from caller.call(request)))


def _settle_body(settle: Settle) -> bytes:
    fields: dict[str, Any] = {"id": settle.id, "lease_id": settle.lease_id, "outcome": settle.outcome}
    if settle.outcome == Kind.DONE:
        fields["result"] = Raw(encoded(settle.result, "result"))
    elif settle.outcome in (Kind.FAILED, Kind.TIMED_OUT):
        fields["error"] = {
            "type": settle.error_type,
            "message": settle.message,
            "traceback": settle.traceback,
        }
        fields |= {"retryable": settle.retryable, "retry_in": settle.retry_in}
    return encoded(fields, "settle")
