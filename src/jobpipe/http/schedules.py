"""Schedules: read, said, paused, run now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from jobpipe.core.errors import Draining, JobpipeError
from jobpipe.core.unique import Known
from jobpipe.http.answers import Receive, Scope, Send, send_json, send_raw
from jobpipe.http.bodies import read_body
from jobpipe.http.browser import HEAD
from jobpipe.http.config import Api
from jobpipe.http.problems import SAFE
from jobpipe.http.routing import Endpoint, RawRoute, path_id
from jobpipe.wire import encode_task, parse_flag, parse_query
from jobpipe.wire.schedules import encode_schedule, encode_schedules, parse_schedule, schedule_name

SLICE = 20
"""So many schedules are written at a time: their next times cost a tenth of a millisecond each."""

Handling = Callable[[Api, Scope, Receive, Send], Awaitable[None]]


def routes(api: Api) -> list[RawRoute]:
    """The routes of this module."""

    def of(endpoint: Handling) -> Endpoint:
        return partial(endpoint, api)

    return [
        RawRoute("/schedules", GET=of(_list)),
        RawRoute("/schedules/{id}", GET=of(_get), PUT=of(_put), DELETE=of(_delete)),
        RawRoute("/schedules/{id}/run", POST=of(_run)),
        RawRoute("/schedules/{id}/pause", POST=partial(_pause, api, True)),
        RawRoute("/schedules/{id}/resume", POST=partial(_pause, api, False)),
    ]


async def _list(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    encoded = []
    for n, schedule in enumerate(await api.queue.schedules.all(), 1):
        encoded.append(encode_schedule(schedule))
        if n % SLICE == 0:
            await asyncio.sleep(0)  # others' requests come between
    await send_json(scope, send, encode_schedules(encoded))


async def _get(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await send_json(scope, send, encode_schedule(await api.queue.schedules.get(_name(scope))))


async def _put(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    body = await read_body(scope, receive, api.config.max_body)
    said = parse_schedule(path_id(scope), body, api.defaults, api.now())
    if parse_flag(parse_query(scope["query_string"]), "dry_run"):
        await send_json(
            scope, send, encode_schedule(await api.queue.schedules.preview(said, _by(api, scope)))
        )
        return
    schedule, made = await api.queue.schedules.put(said, _by(api, scope))
    await send_json(scope, send, encode_schedule(schedule), 201 if made else 200)


async def _delete(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    await api.queue.schedules.delete(_name(scope))
    await send_raw(scope, send, 204, SAFE, b"")


async def _run(api: Api, scope: Scope, receive: Receive, send: Send) -> None:
    if api.queue.draining:
        raise Draining
    answer = await api.queue.schedules.run(_name(scope))
    if isinstance(answer, JobpipeError):
        raise answer
    task = answer.task if isinstance(answer, Known) else answer
    await send_json(scope, send, encode_task(task), 202)


async def _pause(api: Api, paused: bool, scope: Scope, receive: Receive, send: Send) -> None:
    schedule = await api.queue.schedules.pause(_name(scope), _by(api, scope), paused=paused)
    await send_json(scope, send, encode_schedule(schedule))


def _name(scope: Scope) -> str:
    return schedule_name(path_id(scope))


def _by(api: Api, scope: Scope) -> str | None:
    return api.key_name(scope[HEAD]) or None
