"""`GET /handlers` and `/handlers/{name}`: how each handler does."""

from __future__ import annotations

from functools import partial

from msgspec import UNSET, Raw

from jobpipe.core.errors import NotFound
from jobpipe.engine.handlers import HOUR_MS, HOURS, Failure, Handler, Runs
from jobpipe.http.answers import Receive, Scope, Send, send_json
from jobpipe.http.config import Api
from jobpipe.http.routing import RawRoute, path_id
from jobpipe.wire import encode_view, time_text
from jobpipe.wire.handlers import (
    HandlerErrorView,
    HandlerHourView,
    HandlerRatesView,
    HandlerReleaseView,
    HandlerView,
    PercentilesView,
    RunsView,
)


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""
    return [
        RawRoute("/handlers", GET=partial(_handlers, api)),
        RawRoute("/handlers/{id}", GET=partial(_handler, api)),
    ]


async def _handlers(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    told, known, now = await api.queue.flow.handlers(), api.queue.handlers.known, api.now()
    views = [_view(name, known.get(name), told.get(name), now) for name in sorted({*told, *known})]
    await send_json(scope, send, encode_view(views))


async def _handler(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    name = path_id(scope)
    handler, told = api.queue.handlers.known.get(name), (await api.queue.flow.handlers()).get(name)
    if handler is None and told is None:
        raise NotFound(f"no app told of a handler '{name}', and no task of it has run here")
    await send_json(scope, send, encode_view(_view(name, handler, told, api.now(), whole=True)))


def _view(
    name: str, handler: Handler | None, told: tuple[str, bytes] | None, now: int, *, whole: bool = False
) -> HandlerView:
    handler = handler or Handler()
    declared_by, payload = told or (None, b"null")
    day, (runs, failed) = handler.day(now), handler.lately(now)
    first = now // HOUR_MS - HOURS + 1
    return HandlerView(
        handler=name,
        declared_by=declared_by,
        payload=Raw(payload),
        queues=list(handler.queues),
        rates=HandlerRatesView(round(runs / 300, 3), round(failed / 300, 3)),
        wait=_percentiles(day, waits=True),
        run=_percentiles(day),
        failures=RunsView(day.runs, day.failed),
        recent=RunsView(runs, failed),
        by_hour=[_hour(hour, handler.hours.get(hour)) for hour in range(first, first + HOURS)],
        errors=[_error(failure) for failure in reversed(handler.errors)] if whole else UNSET,
        releases=_releases(handler) if whole else UNSET,
    )


def _percentiles(runs: Runs, *, waits: bool = False) -> PercentilesView:
    histogram = runs.waits if waits else runs.seconds
    found = [histogram.percentile(share) for share in (0.5, 0.95, 0.99)]
    return PercentilesView(*(None if value is None else round(value, 6) for value in found))


def _hour(hour: int, runs: Runs | None) -> HandlerHourView:
    runs = runs or Runs()
    return HandlerHourView(time_text(hour * HOUR_MS), runs.runs, runs.failed, _percentiles(runs).p95)


def _error(failure: Failure) -> HandlerErrorView:
    error = failure.error
    return HandlerErrorView(failure.task_id, error.type, error.message, time_text(error.at))


def _releases(handler: Handler) -> list[HandlerReleaseView]:
    """The newest first."""
    return [
        HandlerReleaseView(release, time_text(since), runs.runs, runs.failed, _percentiles(runs))
        for release, (since, runs) in sorted(handler.releases.items(), reverse=True)
    ]
