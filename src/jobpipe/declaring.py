"""Telling the server what an app says of its queues, when its workers start. Who may not, or cannot, works on."""

from __future__ import annotations

import logging
from typing import Any

from jobpipe.core.errors import Forbidden, JobpipeError, NotFound
from jobpipe.core.rules import Said
from jobpipe.engine.flow import Flow
from jobpipe.storage.flow import Declaration
from jobpipe.wire.rules import said_of
from jobpipe.work.app import App

log = logging.getLogger("jobpipe.declare")

TOML = "jobpipe.toml"
"""The app that a file of settings is."""


async def declare_here(flow: Flow, app: App[Any]) -> None:
    """Tell the queue of this process."""
    try:
        queues = {name: said_of(rules) for name, rules in app.queues.items()}
        await flow.declare(Declaration(app.name or "app", app.release, queues))
    except JobpipeError as error:
        log.warning("what the app says of its queues is not taken: %s", error)


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
            app.name or "app", release=app.release, queues=app.queues, schedules=app.schedules
        )
    except NotFound:
        log.debug("this server takes no declarations")
    except Forbidden as error:
        if app.queues or app.schedules:
            log.warning("the key of this worker may not say what holds of queues: %s", error)
    except JobpipeError as error:
        log.warning("what the app says of its queues is not taken: %s", error)
    finally:
        await client.close()
