"""An examination: settings, keys, store, machine and server, each looked at without disturbing what runs."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path

from jobpipe.care import database, reachable, store
from jobpipe.care.findings import Finding, fine, problem, warning
from jobpipe.client.address import Address
from jobpipe.core.errors import StorageError
from jobpipe.core.keys import BadKeys, parse_keys
from jobpipe.settings.server import Settings
from jobpipe.storage.sqlite import audit


def examine(
    settings: Settings, servers: Sequence[Address], key: str | None, *, whole: bool
) -> Iterator[Finding]:
    """All findings, one after the other. Each of `servers` is asked."""
    now = time.time()
    yield from _settings(settings)
    if settings.api_keys_file:
        yield _keys(Path(settings.api_keys_file))
    if settings.store.startswith("sqlite:///"):
        yield from store.examine(settings.store.removeprefix("sqlite:///"), int(now * 1000), whole=whole)
    elif settings.store == "memory:":
        yield warning("store", "memory: keeps nothing over a restart")
    else:
        yield from database.examine(settings.store, now, whole=whole)
    for server in servers:
        yield from reachable.server(server, key, now)


def repair(settings: Settings) -> Iterator[Finding]:
    """Make the kept counts of the store true; what was wrong. Nothing else is touched."""
    try:
        if settings.store.startswith("sqlite:///"):
            wrong = audit.repair(settings.store.removeprefix("sqlite:///"))
        elif settings.store == "memory:":
            wrong = []
        else:
            wrong = database.repair(settings.store)
    except StorageError as error:
        yield problem("repair", str(error))
        return
    for one in wrong:
        yield fine("repair", f"{one}: made true")
    if not wrong:
        yield fine("repair", "the counts are what the rows say: nothing to do")


def _settings(settings: Settings) -> Iterator[Finding]:
    doubts = list(_doubts(settings))
    yield from (warning("settings", doubt) for doubt in doubts)
    if not doubts:
        yield fine("settings", "can be served with")


def _doubts(settings: Settings) -> Iterator[str]:
    if not (_is_loopback(settings.host) or settings.api_keys or settings.api_keys_file):
        yield f"host {settings.host} is open to others, and no keys are asked for"
    if settings.max_batch_body < settings.max_body:
        yield "max_batch_body is below max_body: a task that fits alone fits no batch"
    if settings.retention == float("inf"):
        yield "retention is inf: finished tasks are never deleted, and the store only grows"


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host == "localhost"


def _keys(file: Path) -> Finding:
    try:
        keys = parse_keys(file.read_text(encoding="utf-8-sig"))
        mode = file.stat().st_mode
    except OSError as error:
        return problem("keys", f"{file} cannot be read: {error.strerror}")
    except (BadKeys, UnicodeDecodeError) as error:
        return problem("keys", f"{file}: {error if isinstance(error, BadKeys) else 'is not UTF-8 text'}")
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return problem("keys", f"{file} can be changed by others, who could let themselves in")
    return fine("keys", f"{len(keys)} in {file}") if keys else problem("keys", f"{file} holds none")
