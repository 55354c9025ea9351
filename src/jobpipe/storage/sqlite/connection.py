"""Opening the file, or refusing it with one clear line; and what an error of SQLite means for Jobpipe.

A file is refused untouched when it is no database, belongs to another program, was written by a newer Jobpipe, or is
served by a running one. Otherwise older schemas are migrated, one numbered script and one transaction each.
"""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import apsw

from jobpipe.core.errors import StorageBroken, StorageError, StorageFull, StorageRefused

APPLICATION_ID = 0x4A6F6250
"""The letters JobP, in the header of the file (SQLite file format, section 1.3.16)."""
_MAGIC = b"SQLite format 3\0"
# The rollback journal's first bytes; the size of the database before, in pages, stands at offset 16 (SQLite's file
# format, section 3).
_JOURNAL = bytes.fromhex("d9d505f920a163d7")
_BUSY_MS = 5000


def open_writer(path: str | None) -> apsw.Connection:
    """The connection that writes, with the current schema; `path` None is a database in memory.

    Raises StorageRefused when the file cannot be served.
    """
    if path is None:
        connection = apsw.Connection(":memory:")
        _migrate(connection)
        return connection
    try:
        connection = apsw.Connection(path)
        connection.set_busy_timeout(_BUSY_MS)
        _refuse_newer(connection, path)
        _make_durable(connection, path)
        _migrate(connection)
    except apsw.Error as error:
        raise StorageRefused(f"cannot open {path}: {error}") from error
    return connection


def open_reader(path: str) -> apsw.Connection:
    """A second connection that can only read."""
    connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    connection.set_busy_timeout(_BUSY_MS)
    return connection


def open_still(path: str) -> apsw.Connection:
    """A connection that reads a file which nobody changes meanwhile: it makes nothing beside it."""
    uri = f"file:{quote(str(Path(path).resolve()))}?immutable=1"
    return apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)


def translate(error: apsw.Error) -> StorageError:
    """The error of our tree for one of SQLite.

    Full is the one that heals by itself. After an I/O error, a failed sync above all, what the kernel holds of the file
    is unknown: only a new process that reads it from the start may be trusted.
    """
    if isinstance(error, apsw.FullError):
        return StorageFull(f"no space is left for the store: {error}")
    if isinstance(error, (apsw.IOError, apsw.CorruptError, apsw.NotADBError)):
        return StorageBroken(f"the store failed: {type(error).__name__}: {error}")
    return StorageError(f"the store refused: {type(error).__name__}: {error}")


def refuse_foreign_file(path: str) -> None:
    """Raise StorageRefused for what is no database of ours; read as a plain file: SQLite would touch the folder."""
    file = Path(path)
    if not file.parent.is_dir():
        raise StorageRefused(f"cannot open {path}: the folder {file.parent} does not exist")
    if not os.access(file.parent, os.W_OK):
        raise StorageRefused(f"cannot open {path}: the folder {file.parent} is read-only")
    if not file.exists():
        return
    if not file.is_file():
        raise StorageRefused(f"cannot open {path}: it is not a file")
    if file.stat().st_nlink > 1:
        # By its other name a second server would have a lock and a write-ahead log of its own: that corrupts the file.
        raise StorageRefused(f"cannot open {path}: it has a second name (a hard link)")
    if not os.access(file, os.R_OK | os.W_OK):
        raise StorageRefused(f"cannot open {path}: it is read-only")
    with file.open("rb") as stream:
        header = stream.read(100)
    if not header or _half_made(file, header):
        return
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StorageRefused(f"cannot open {path}: it is not a SQLite database")
    version, application = int.from_bytes(header[60:64], "big"), int.from_bytes(header[68:72], "big")
    judge(path, version, application)


def _half_made(file: Path, header: bytes) -> bool:
    """Whether the power went while the file was made: SQLite's journal takes its torn first page back to nothing."""
    journal = Path(f"{file}-journal")
    if header.startswith(_MAGIC) or not journal.is_file():
        return False
    with journal.open("rb") as stream:
        head = stream.read(20)
    return head[:8] == _JOURNAL and head[16:] == bytes(4)


def _refuse_newer(connection: apsw.Connection, path: str) -> None:
    """Ask again through SQLite, for a write-ahead log may hold a newer header than the file."""
    version = connection.execute("PRAGMA user_version").get
    application = connection.execute("PRAGMA application_id").get
    try:
        if connection.execute("SELECT count(*) FROM sqlite_schema").get:
            judge(path, version, application or -1)
    except StorageRefused:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close()
        raise


def judge(path: str, version: int, application: int) -> None:
    """Raise StorageRefused unless a file with these two numbers in its header is ours, and not of a newer Jobpipe."""
    if application not in (0, APPLICATION_ID) or (application == 0 and version != 0):
        raise StorageRefused(f"cannot open {path}: it is the database of another program")
    newest = newest_schema()
    if version > newest:
        raise StorageRefused(
            f"cannot open {path}: its schema {version} is newer than this program's {newest}; upgrade jobpipe"
        )


def _make_durable(connection: apsw.Connection, path: str) -> None:
    # The way into WAL mode leads over a rollback journal, once. Were its deletion forgotten by a power cut, it would
    # undo everything since; EXTRA alone syncs the folder too. Within WAL mode it is the same as FULL.
    connection.execute("PRAGMA synchronous = EXTRA")
    mode = connection.execute("PRAGMA journal_mode = WAL").get
    connection.execute("PRAGMA synchronous = FULL")
    # Both can be refused silently, the first by file systems without shared memory: read them back.
    if mode != "wal" or connection.execute("PRAGMA synchronous").get != 2:
        raise StorageRefused(f"cannot open {path}: its file system does not allow a write-ahead log")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA cache_size = -32768")
    connection.execute("PRAGMA wal_autocheckpoint = 2000")


def _migrate(connection: apsw.Connection) -> None:
    version = connection.execute("PRAGMA user_version").get
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").get:
        raise StorageRefused(f"cannot open {connection.filename}: it is the database of another program")
    for number, script in enumerate(_scripts(), 1):
        if number > version:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(script).fetchall()
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}").fetchall()
            connection.execute(f"PRAGMA user_version = {number}").fetchall()
            connection.execute("COMMIT")


def newest_schema() -> int:
    """The schema that this program makes of every older one."""
    return len(_scripts())


def _scripts() -> list[str]:
    """The numbered schema scripts; script n leads from version n-1 to n."""
    folder = resources.files("jobpipe.storage.sqlite") / "schema"
    named = {entry.name: entry for entry in folder.iterdir() if re.fullmatch(r"\d{4}_\w+\.sql", entry.name)}
    return [named[name].read_text("utf-8") for name in sorted(named)]
