"""What a worker in any language calls: /lease, /settle, /extend."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from hashlib import sha256

import msgspec
from msgspec import UNSET

from jobpipe.core.errors import Forbidden, JobpipeError
from jobpipe.core.task import Claim
from jobpipe.engine import MAX_CLAIM_BYTES, Extended, Settled
from jobpipe.engine.signs import Sign
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.http.answers import Receive, Reply, Scope, Send, send_reply
from jobpipe.http.bodies import read_body, while_connected
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.routing import Endpoint, RawRoute
from jobpipe.wire import time_text
from jobpipe.wire.working import (
    ExtendBody,
    ExtendedView,
    LeaseBody,
    RefusedSettle,
    SettledView,
    SettleItem,
    encode_leases,
    parse_extend,
    parse_lease,
    parse_settles,
    queues_of,
)

LOCAL = b"x-jobpipe-local"
"""The header by which the server's own worker processes are known: a secret that only they were told."""

_encode = msgspec.json.encode


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""

    def of(endpoint: Callable[[Api, Scope, Receive, Send], Awaitable[None]]) -> Endpoint:
        return partial(endpoint, api)

    return [
        RawRoute("/settle", POST=of(_settle)),
        RawRoute("/lease", POST=of(_lease)),
        RawRoute("/extend", POST=of(_extend)),
    ]


async def _lease(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    wish = parse_lease(await read_body(scope, receive, api.config.max_body))
    claims = await _claim(api, wish, is_local(api, scope[HEAD]), receive)
    reply, sent = await handed_out(api, claims)
    try:
        await send_reply(scope, send, reply)
    except Exception:
        await api.queue.release(sent)
        raise


async def _claim(api: Api, wish: LeaseBody, local: bool, receive: Receive) -> Sequence[Claim]:
    """Wait for tasks. A client that leaves gets none: what was claimed for it is released.

    One that ended its own side has left too: a worker that gives up a poll does so, and listens only for what was on
    its way by then.
    """
    claims, connected = await while_connected(receive, claiming(api, wish, local), both_ways=True)
    if not connected:
        api.queue.workers.hung_up(wish.worker_id)
        if claims:
            await api.queue.release(claims)
    return claims if claims and connected else []


async def claiming(api: Api, wish: LeaseBody, local: bool) -> list[Claim]:
    """The claim that a worker asks for; it waits for as long as the worker wants to."""
    workers = api.queue.workers
    if not local:
        _refuse_own(api, wish.worker_id)
    workers.asked(_sign(api, wish, local), own=local)
    try:
        return await api.queue.claim(
            wish.worker_id,
            wish.max or 1,
            queues=queues_of(wish),
            lease_s=_lease_s(api, wish),
            local=local,
            wait=wish.wait or 0.0,
            total=None if wish.total is UNSET else wish.total,
        )
    finally:
        workers.answered(wish.worker_id)


async def handed_out(api: Api, claims: Sequence[Claim]) -> tuple[Reply, Sequence[Claim]]:
    """The answer with the claims, and those that are in it: what does not fit is released."""
    body, sent = encode_leases(claims, MAX_CLAIM_BYTES)
    if sent < len(claims):
        await api.queue.release(claims[sent:])
    return Reply(200, body), claims[:sent]


def _lease_s(api: Api, wish: LeaseBody | ExtendBody) -> float:
    return api.config.lease if wish.lease is None else wish.lease


def _sign(api: Api, wish: LeaseBody, local: bool) -> Sign:
    release = None if wish.release is UNSET else wish.release
    if local:  # all else of its own workers the server knows better
        return Sign(wish.worker_id, wish.max or 1, _lease_s(api, wish), release=release)
    queues = queues_of(wish)
    return Sign(
        wish.worker_id,
        wants=wish.max or 1,
        lease_s=_lease_s(api, wish),
        queues=None if queues is None else tuple(sorted(queues)),
        host=wish.host,
        pid=wish.pid,
        version=wish.version,
        total=None if wish.total is UNSET else wish.total,
        release=release,
    )


async def _settle(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, api.config.max_batch_body)
    await send_reply(scope, send, await settled(api, body))


async def settled(api: Api, body: bytes) -> Reply:
    """Settle what the body reports. Raises InvalidJson or Invalid for the whole."""
    items = parse_settles(body, api.config.max_body)
    reports = [Report(item.id, item.lease_id, item.outcome) for item in items if isinstance(item, SettleItem)]
    if reports:  # all of one request are one worker's
        api.queue.workers.settles(reports[0].id, reports[0].lease_id)
    answers = iter(await api.queue.settle(reports) if reports else [])
    views = [
        _refused(item.id, item.error) if isinstance(item, RefusedSettle) else _settled(item.id, next(answers))
        for item in items
    ]
    return Reply(200, _encode(views))


def _settled(id: str, answer: Settled | JobpipeError) -> SettledView:
    if isinstance(answer, JobpipeError):
        return _refused(id, answer)
    return SettledView(id, accepted=True, status=answer.status)


def _refused(id: str | None, error: JobpipeError) -> SettledView:
    return SettledView(id, accepted=False, code=error.code)


async def _extend(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, api.config.max_batch_body)
    await send_reply(scope, send, await extended(api, body, is_local(api, scope[HEAD])))


async def extended(api: Api, body: bytes, local: bool) -> Reply:
    """Prolong the leases that the body names. Raises InvalidJson or Invalid with the field."""
    wish = parse_extend(body)
    lease_s = _lease_s(api, wish)
    if not local:
        _refuse_own(api, wish.worker_id)
    api.queue.workers.beat(wish.worker_id, lease_s, own=local)
    if wish.wait and not wish.leases:
        await api.queue.wait_cancel(wish.worker_id, wish.wait)
    beats = [Heartbeat(lease.id, lease.lease_id, lease_s, lease.timeout) for lease in wish.leases]
    answers = await api.queue.extend(beats) if beats else []
    views = [_extended(beat.id, answer) for beat, answer in zip(beats, answers, strict=True)]
    return Reply(200, _encode(views))


def _extended(id: str, answer: Extended | JobpipeError) -> ExtendedView:
    if isinstance(answer, JobpipeError):
        return ExtendedView(id, extended=False, code=answer.code)
    until = None if answer.lease_until is None else time_text(answer.lease_until)
    return ExtendedView(id, True, until, answer.cancel_requested)


def _refuse_own(api: Api, worker_id: str) -> None:
    if api.queue.workers.owns(worker_id):
        raise Forbidden("this worker id belongs to one of the server's own workers")


def is_local(api: Api, head: dict[bytes, bytes]) -> bool:
    """Whether one of the server's own worker processes asks. Digests are compared: any bytes, in constant time."""
    token, given = api.config.local_token, head.get(LOCAL)
    if token is None or given is None:
        return False
    return hmac.compare_digest(sha256(token.encode()).digest(), sha256(given).digest())
