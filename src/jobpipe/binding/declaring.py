"""Telling the server what an app says of queues, schedules and handlers when workers start. Who cannot, works on."""

from __future__ import annotations

import logging
from typing import Any

from msgspec.json import encode

from jobpipe.core.errors import Forbidden, JobpipeError, NotFound
from jobpipe.core.rules import Said
from jobpipe.engine.flow import Flow
from jobpipe.engine.queue import TaskQueue
from jobpipe.storage.flow import Declaration
from jobpipe.wire import Defaults
from jobpipe.wire.rules import MAX_DECLARED, said_of
from jobpipe.wire.schedules import parse_declared
from jobpipe.work.app import App
from jobpipe.work.schema import schema_of

log = logging.getLogger("jobpipe.declare")

NOT_TAKEN = "what the app says of its queues and schedules is not taken: %s"
MOST_BYTES = 256 * 1024
"""Of schemas."""
TOML = "jobpipe.toml"
"""The app that a file of settings is."""


async def declare_here(queue: TaskQueue, app: App[Any], defaults: Defaults, now: int) -> None:
    """Tell the queue of this process."""
    name = app.name or "app"
    try:
        queues = {name: said_of(rules) for name, rules in app.queues.items()}
        said = parse_declared(app.schedules, defaults, now)
        if await queue.flow.declare(Declaration(name, app.release, queues, encode(_handlers(app)))):
            await queue.schedules.declare(name, app.release, said)
    except JobpipeError as error:
        log.warning(NOT_TAKEN, error)


def _handlers(app: App[Any]) -> dict[str, Any]:
    """Each with its schema, without where all together would be too much for one request."""
    told = {name: schema_of(app.handlers[name]) for name in sorted(app.handlers)[:MAX_DECLARED]}
    return told if len(encode(told)) <= MOST_BYTES else {name: {} for name in told}


async def declare_toml(flow: Flow, queues: dict[str, Said]) -> None:
    """Tell the queue what stands in the file of settings."""
    try:
        await flow.declare(Declaration(TOML, 0, queues))
    except JobpipeError as error:
        log.warning("the rules in %s are not taken: %s", TOML, error)


async def declare_there(url: str, key: str | None, app: App[Any]) -> None:
    """Tell the server that a worker works for."""
    from jobpipe.client import AsyncClient

    client = AsyncClient(url, key=key)
    try:
        await client.declare(
            app.name or "app",
            release=app.release,
            queues=app.queues,
            schedules=app.schedules,
            handlers=_handlers(app),
        )
    except NotFound:
        log.debug("this server takes no declarations")
    except Forbidden as error:
        if app.queues or app.schedules:
            log.warning("the key of this worker may not say what holds of queues and schedules: %s", error)
    except JobpipeError as error:
        log.warning(NOT_TAKEN, error)
    finally:
        await client.close()
