"""`GET /series` and `GET /errors`: what the charts show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from jobpipe.engine.charts import ErrorGroup, Point, errors, series
from jobpipe.engine.history import MINUTE_MS
from jobpipe.http.answers import Receive, Scope, Send, send_json
from jobpipe.http.config import Api
from jobpipe.http.routing import Endpoint, RawRoute
from jobpipe.http.shared import SharedAnswers
from jobpipe.wire import ErrorGroupView, PointView, encode_view, parse_span, time_text

HOUR, DAY = 60, 24 * 60
"""In minutes: how far the series and the errors look back when the request does not say."""


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    shared = SharedAnswers(api.config.clock.monotonic)

    def of(endpoint: Callable[[Api, SharedAnswers, Scope, Receive, Send], Awaitable[None]]) -> Endpoint:
        return partial(endpoint, api, shared)

    return [RawRoute("/series", GET=of(_series)), RawRoute("/errors", GET=of(_errors))]


async def _series(api: Api, shared: SharedAnswers, scope: Scope, receive: Receive, send: Send) -> None:
    span = parse_span(scope["query_string"], "since", "until")
    since, until = _minutes(api, span.since, span.until, HOUR)
    body = await shared.get(("series", since, until), lambda: _points(api, since, until))
    await send_json(scope, send, body)


async def _errors(api: Api, shared: SharedAnswers, scope: Scope, receive: Receive, send: Send) -> None:
    span = parse_span(scope["query_string"], "since", "limit")
    since, until = _minutes(api, span.since, None, DAY)
    asked = ("errors", since, until, span.limit)
    body = await shared.get(asked, lambda: _groups(api, since, until, span.limit))
    await send_json(scope, send, body)


def _minutes(api: Api, since: int | None, until: int | None, back: int) -> tuple[int, int]:
    """Whole minutes, the running one included: so that all who ask within a minute ask for the same."""
    this = api.now() // MINUTE_MS
    end = this + 1 if until is None else min(this + 1, -(-until // MINUTE_MS))
    return (end - back if since is None else since // MINUTE_MS), end


async def _points(api: Api, since: int, until: int) -> bytes:
    parts = [
        encode_view([_point_view(point) for point in points])[1:-1]
        async for points in series(api.queue.history, since, until)
    ]
    return b"[%b]" % b",".join(part for part in parts if part)


async def _groups(api: Api, since: int, until: int, limit: int) -> bytes:
    found = await errors(api.queue.history, since, until, limit)
    return encode_view([_group_view(group) for group in found])


def _point_view(point: Point) -> PointView:
    return PointView(
        time_text(point.at), point.enqueued, point.done, point.failed, point.cancelled, point.retried,
        point.rescued, point.queued, *point.waits, *point.runs,
    )  # fmt: skip


def _group_view(group: ErrorGroup) -> ErrorGroupView:
    return ErrorGroupView(
        group.group, group.handler, group.type, group.message, group.count, time_text(group.first_seen),
        time_text(group.last_seen), group.example_id, list(group.trend),
    )  # fmt: skip
