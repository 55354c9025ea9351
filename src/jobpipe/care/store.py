"""A SQLite store under examination: the file, what is in it, and who uses it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from jobpipe.care import machine
from jobpipe.care.database import told_counts
from jobpipe.care.findings import Finding, fine, problem, size, warning
from jobpipe.core.errors import StorageError
from jobpipe.storage.sqlite.inspection import Inspection, inspect, library
from jobpipe.storage.sqlite.lock import holder_of

SAFE_SQLITE: Final = (3, 51, 3)
"""Older ones (since 3.7.0) could lose what was committed when a write-ahead log began anew."""
LONG_LOG: Final = 64 * 1024**2
JITTER_MS: Final = 2000


def examine(path: str, now: int, *, whole: bool) -> Iterator[Finding]:
    """All findings about the store at `path`; `now` is this machine's clock in ms."""
    file = Path(path)
    yield _library()
    folder = machine.folder(file.parent)
    yield folder
    if not file.parent.is_dir():
        return
    yield machine.file_system(file.parent)
    yield machine.space(file.parent)
    holder = holder_of(path)
    yield fine("server", "none uses the store" if holder is None else f"process {holder} uses the store")
    yield machine.open_files(holder)
    if file.is_file() and file.stat().st_size == 0:
        yield warning("store", f"{path} is empty: the next start makes a store of it")
    elif file.is_file():
        yield machine.permissions(file)
        yield from _content(path, now, whole)
    else:
        yield warning("store", f"there is none at {path}: the first start makes one")


def _library() -> Finding:
    version = library()
    if tuple(map(int, version.split("."))) < SAFE_SQLITE:
        return problem("SQLite", f"{version} may lose commits: upgrade apsw")
    return fine("SQLite", version)


def _content(path: str, now: int, whole: bool) -> Iterator[Finding]:
    try:
        found = inspect(path, whole=whole)
    except StorageError as error:
        yield problem("store", str(error))
        return
    yield _damage(path, found, whole)
    yield _schema(found)
    yield _log(found)
    yield _clock(found, now)
    if not found.damage:
        yield told_counts(found.miscounts)


def _damage(path: str, found: Inspection, whole: bool) -> Finding:
    if found.damage:
        return problem("store", f"{path} is damaged, restore a backup: {'; '.join(found.damage)}")
    spare = f", {size(found.spare)} of it to be used again" if found.spare else ""
    how = "tables and indexes" if whole else "tables"
    return fine("store", f"{path} is whole ({how}), {size(found.size)}{spare}")


def _schema(found: Inspection) -> Finding:
    if found.schema < found.newest_schema:
        return fine("schema", f"{found.schema}: the next start makes it {found.newest_schema}")
    return fine("schema", f"{found.schema}, the newest")


def _log(found: Inspection) -> Finding:
    text = f"{size(found.log_size)} of write-ahead log"
    if found.log_size > LONG_LOG:
        return warning("log", f"{text}: something reads the store for long (a backup, a shell)")
    return fine("log", text)


def _clock(found: Inspection, now: int) -> Finding:
    if found.newest is not None and found.newest > now + JITTER_MS:
        ahead = (found.newest - now) / 1000
        return problem("clock", f"the newest task is {ahead:.0f} s in the future: this clock was set back")
    return fine("clock", "no task is of the future")
