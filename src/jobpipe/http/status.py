"""What the server says about itself: health, counts, and its contract."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from math import isinf

from msgspec import UNSET

from jobpipe.core.errors import StorageError
from jobpipe.core.keys import Scope as Scopes
from jobpipe.core.task import Status
from jobpipe.engine.signs import State
from jobpipe.engine.values import Rates
from jobpipe.http.answers import Receive, Scope, Send, send_json
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.openapi import document
from jobpipe.http.routing import Endpoint, RawRoute
from jobpipe.wire import KeyView, RatesView, StatsView, WaitingView, WorkersView, encode_view

_OK = b'{"status":"ok"}'


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""

    def of(endpoint: Callable[[Api, Scope, Receive, Send], Awaitable[None]]) -> Endpoint:
        return partial(endpoint, api)

    return [
        RawRoute("/healthz", GET=_alive),
        RawRoute("/health", GET=_alive),
        RawRoute("/livez", GET=_alive),
        RawRoute("/readyz", GET=of(_ready)),
        RawRoute("/stats", GET=of(_stats)),
        RawRoute("/openapi.json", GET=of(_openapi)),
        RawRoute("/keys/self", GET=of(_key)),
    ]


def rates_view(rates: Rates) -> RatesView:
    """What this server did in the last minute, per second."""
    refused = round(rates.refused, 3) or UNSET
    return RatesView(round(rates.enqueued, 3), round(rates.finished, 3), round(rates.failed, 3), refused)


async def _alive(scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(scope, send, _OK)


async def _ready(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        await api.queue.check()
    except StorageError as error:
        raise StorageError(str(error)) from error  # 503, also for what answers a task with 507
    await send_json(scope, send, _OK)


async def _stats(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    counts = await api.queue.counts()
    rates, workers = api.queue.rates(), await api.queue.workers.all()
    trouble, waiting = api.queue.workers.trouble(), await api.queue.waiting.counts()
    view = StatsView(
        version=api.config.version,
        uptime_s=round(api.config.clock.monotonic() - api.started, 3),
        store=api.config.store,
        status="draining" if api.queue.draining else "ok" if trouble is None else "degraded",
        counts={status: counts.get(status, 0) for status in Status},
        waiting=WaitingView(waiting.scheduled, waiting.retrying),
        rates=rates_view(rates),
        workers=WorkersView(
            total=sum(worker.total for worker in workers),
            busy=sum(worker.busy for worker in workers),
            processes=sum(worker.apart and worker.state is not State.LOST for worker in workers),
        ),
        trouble=UNSET if trouble is None else trouble,
        paused_queues=await api.queue.flow.paused() or UNSET,
        timeout=UNSET if isinf(api.queue.default_timeout) else api.queue.default_timeout,
    )
    await send_json(scope, send, encode_view(view))


async def _openapi(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(scope, send, document(api.config.version, api.config.enqueue_status))


async def _key(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    keys = api.config.keys
    key = None if keys is None else keys.owner(scope[HEAD].get(b"authorization"))
    if key is None:
        view = KeyView(keys=False, name=None, scopes=[Scopes.ADMIN])
    else:
        view = KeyView(keys=True, name=key.name, scopes=sorted(key.scopes))
    await send_json(scope, send, encode_view(view))
