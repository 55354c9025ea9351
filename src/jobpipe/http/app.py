"""The application: the guard, the routes, and one place where every error becomes its answer.

It is plain ASGI around Starlette's router and can be mounted in other people's applications.
"""

from __future__ import annotations

import logging

from starlette.routing import Router
from starlette.types import ASGIApp

from jobpipe.core.errors import JobpipeError
from jobpipe.engine.feed import Feed
from jobpipe.engine.queue import TaskQueue
from jobpipe.http import (
    enqueue,
    events,
    handlers,
    history,
    metrics,
    pages,
    queues,
    schedules,
    status,
    tasks,
    workers,
    working,
)
from jobpipe.http.answers import Message, Receive, Scope, Send, send_problem
from jobpipe.http.bodies import BodyTooLarge, ClientGone, NotReading
from jobpipe.http.browser import Guard
from jobpipe.http.config import Api, HttpConfig
from jobpipe.http.fastlane import FastLane
from jobpipe.http.meter import NO_ROUTE, Meter
from jobpipe.http.problems import BadHttp
from jobpipe.http.routing import ROUTE, no_such_path

log = logging.getLogger("jobpipe.http")


def create_app(queue: TaskQueue, config: HttpConfig, feed: Feed | None = None) -> ASGIApp:
    """The HTTP API over an open `queue`. `feed` is what `/events` tells, for those who want to end it in time."""
    api = Api(queue, config, feed or Feed(queue))
    routes = [
        *enqueue.routes(api),
        *working.routes(api),
        *tasks.routes(api),
        *status.routes(api),
        *queues.routes(api),
        *history.routes(api),
        *workers.routes(api),
        *handlers.routes(api),
        *schedules.routes(api),
        *pages.routes(),
        *events.routes(api),
        *metrics.routes(api),
    ]
    guard = Guard(config.allowed_hosts, config.keys)
    lane = FastLane(api, guard) if config.fast_lane else None
    return _Edge(Router(routes, redirect_slashes=False, default=no_such_path), guard, lane, api.meter)


class _Edge:
    """Refuses who may not ask, and answers what goes wrong.

    Starlette's own middleware would do the second, for two closures and a Request on every call.
    """

    def __init__(self, router: Router, guard: Guard, lane: FastLane | None, meter: Meter) -> None:
        self._router = router
        self._guard = guard
        self.lane = lane
        """The hot routes by a shorter way, for a server that is our own."""
        self.meter = meter
        """Told of every answer, also by a server that is our own of those that it gives itself."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(self._router, scope, receive, send)
            return
        await self._answer(scope, receive, _metered(self.meter, scope, send))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            refusal = self._guard.judge(scope)
            if refusal is None:
                await self._router.app(scope, receive, send)
            else:
                await send_problem(scope, send, refusal)
        except JobpipeError as error:
            await send_problem(scope, send, error, close=isinstance(error, BodyTooLarge))
        except ClientGone:
            # Nobody reads this; but servers and middleware around us complain of requests without an answer.
            await send_problem(scope, send, BadHttp("the request did not arrive whole"), close=True)
        except NotReading:
            raise
        except Exception:
            log.exception("%s %r failed", scope["method"], scope["path"])
            await _answer_internal(scope, send)


def _metered(meter: Meter, scope: Scope, send: Send) -> Send:
    """`send`, with the meter told of the answer's head."""
    began = meter.begin()

    async def metered(message: Message) -> None:
        if message["type"] == "http.response.start":
            meter.answered(scope["method"], scope.get(ROUTE, NO_ROUTE), message["status"], began)
        await send(message)

    return metered


async def _answer_internal(scope: Scope, send: Send) -> None:
    """The plain 500. Servers refuse it when an answer had begun; then the connection is broken off there."""
    try:
        await send_problem(scope, send, JobpipeError(), close=True)
    except RuntimeError:
        log.debug("an answer had begun already")


async def _other(router: Router, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await router.lifespan(scope, receive, send)
    else:
        await send({"type": "websocket.close"})
