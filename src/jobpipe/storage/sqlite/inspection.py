"""Looking at a store without touching it, also while a server writes to it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import apsw
from msgspec import Struct

from jobpipe.core.errors import StorageBroken, StorageRefused
from jobpipe.storage.base import Miscount
from jobpipe.storage.sqlite.audit import compare
from jobpipe.storage.sqlite.connection import judge, newest_schema, open_reader, open_still

MOST_TOLD = 5


class Inspection(Struct, frozen=True):
    """What a store is like. `damage` is what SQLite's own check found, the first few lines of it.

    `newest` is when its latest task was accepted (ms), None without tasks. Sizes are bytes; `spare` is what deleted
    tasks left free inside the file.
    """

    schema: int
    newest_schema: int
    size: int
    spare: int
    log_size: int
    newest: int | None
    damage: list[str]
    miscounts: list[Miscount] = []
    """Counts that are not what the rows say."""


def inspect(path: str, *, whole: bool) -> Inspection:
    """Look at the store. `whole` also compares indexes with tables, which takes several times as long.

    Raises StorageRefused for what is no store of this version or an older one, StorageBroken when it cannot be read.
    """
    try:
        with contextlib.closing(_open(path)) as connection:
            connection.execute("BEGIN")
            return _look(connection, path, "integrity_check" if whole else "quick_check")
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        raise StorageBroken(f"{path} is damaged: {error}") from error
    except apsw.Error as error:
        raise StorageRefused(f"cannot read {path}: {error}") from error


def library() -> str:
    """The version of SQLite that stores are served with."""
    return apsw.sqlite_lib_version()


def _open(path: str) -> apsw.Connection:
    if os.access(Path(path).parent, os.W_OK) or _log_size(path):
        return open_reader(path)
    # Where nothing can be written no server is at work, and the files that a reader makes beside it are not to be had.
    return open_still(path)


def _look(connection: apsw.Connection, path: str, check: str) -> Inspection:
    schema = connection.execute("PRAGMA user_version").get
    judge(path, schema, connection.execute("PRAGMA application_id").get or -1)
    page = connection.execute("PRAGMA page_size").get
    found = [str(line) for (line,) in connection.execute(f"PRAGMA {check}({MOST_TOLD})")]
    damage = [] if found == ["ok"] else found
    return Inspection(
        schema=schema,
        newest_schema=newest_schema(),
        size=page * connection.execute("PRAGMA page_count").get,
        spare=page * connection.execute("PRAGMA freelist_count").get,
        log_size=_log_size(path),
        # A damaged store may not be readable this far.
        newest=None if damage else connection.execute(_NEWEST).get,
        damage=damage,
        miscounts=[] if damage else compare(connection),
    )


_NEWEST = "SELECT created_at FROM tasks ORDER BY seq DESC LIMIT 1"


def _log_size(path: str) -> int:
    with contextlib.suppress(FileNotFoundError):
        return os.path.getsize(f"{path}-wal")
    return 0
