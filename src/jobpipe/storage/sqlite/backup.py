"""Copying a store, also while a server writes to it: one state, whole, checked and on disk before it has a name.

The copy is read in one transaction of a second connection, so that it is the store as it was when the copying began,
and nobody waits for it. Until it ends the write-ahead log only grows: that is the price.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from jobpipe.core.errors import StorageBroken, StorageFull, StorageRefused
from jobpipe.storage.sqlite.connection import judge, open_reader, open_still
from jobpipe.storage.sqlite.lock import FileLock, holder_of

PAGES: Final = 256
"""Copied in one step, between two reports of progress: a megabyte."""

Opening = Callable[[str], apsw.Connection]
Progress = Callable[[int, int], None]
"""Called with the pages copied so far, and all."""


def back_up(store: str, file: str, *, replace: bool, progress: Progress) -> None:
    """Copy the store to `file`; with `replace` in the place of an older copy.

    Raises StorageRefused when there is no such store or the file may not be written, StorageFull without space, and
    StorageBroken when what was copied is damaged; then no file is left behind.
    """
    target = Path(file)
    if target.exists() and os.path.samefile(target, store):
        raise StorageRefused(f"cannot back up {store} onto itself")
    _copy(store, target, open_reader, replace=replace, progress=progress)


def restore(file: str, store: str, *, progress: Progress) -> None:
    """Make a copy the store, where none is. Raises as `back_up`."""
    lock = FileLock(store)
    lock.acquire()  # no server may begin a store of its own here meanwhile
    try:
        # Read as it is where nobody has it open: a reader of a store would leave files beside the backup.
        in_use = Path(f"{file}-wal").exists() or holder_of(file) is not None
        _copy(file, Path(store), open_reader if in_use else open_still, replace=False, progress=progress)
    finally:
        lock.release(untouched=True)


def _copy(source: str, target: Path, opened: Opening, *, replace: bool, progress: Progress) -> None:
    if not Path(source).is_file():
        raise StorageRefused(f"there is no store at {source}")
    _refuse_target(target, replace)
    try:
        _refuse_little_space(source, target)
        temporary = _private_file(target)
        try:
            _copy_pages(opened, source, temporary, progress)
            _verify(source, temporary)
            _sync(temporary)
            _put_in_place(temporary, target, replace)
        finally:
            temporary.unlink(missing_ok=True)
    except apsw.FullError as error:
        raise StorageFull(f"no space is left for {target}") from error
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise StorageBroken(f"{source} is damaged: {error}") from error
    except apsw.Error as error:
        raise StorageRefused(f"cannot copy {source}: {error}") from error
    except OSError as error:
        raise StorageRefused(f"cannot write {target}: {error.strerror}") from error


def _refuse_target(target: Path, replace: bool) -> None:
    if not target.parent.is_dir():
        raise StorageRefused(f"the folder {target.parent} does not exist")
    if target.exists() and not (replace and target.is_file()):
        raise StorageRefused(f"{target} exists already")
    for log in (Path(f"{target}{suffix}") for suffix in ("-wal", "-journal", "-claims")):
        if log.exists() and log.stat().st_size:
            # It would be played into the copy.
            raise StorageRefused(f"{log} exists: {target} is a database in use, or was one")


def _refuse_little_space(source: str, target: Path) -> None:
    needed, free = os.path.getsize(source), shutil.disk_usage(target.parent).free
    if needed > free:
        raise StorageFull(f"{target} needs {needed} bytes, and {free} are free")


def _private_file(target: Path) -> Path:
    """A fresh file beside the target, its owner's alone: it is going to hold every payload."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    os.close(handle)
    return Path(name)


def _copy_pages(opened: Opening, source: str, temporary: Path, progress: Progress) -> None:
    with contextlib.closing(opened(source)) as reader, contextlib.closing(_scratch(temporary)) as copy:
        reader.execute("BEGIN")  # one state of the store: without it every commit would begin the copy anew
        version = reader.execute("PRAGMA user_version").get
        application = reader.execute("PRAGMA application_id").get
        judge(source, version, application or -1)
        with copy.backup("main", reader, "main") as backup:
            while not backup.done:
                backup.step(PAGES)
                progress(backup.page_count - backup.remaining, backup.page_count)


def _scratch(temporary: Path) -> apsw.Connection:
    """The connection to a copy under way: what is thrown away when it fails needs neither a journal nor syncs."""
    connection = apsw.Connection(str(temporary))
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _verify(source: str, copy: Path) -> None:
    with contextlib.closing(open_still(str(copy))) as connection:
        found = connection.execute("PRAGMA integrity_check(1)").get
    if found != "ok":
        raise StorageBroken(f"{source} is damaged: {found}")


def _sync(file: Path) -> None:
    with file.open("rb+") as written:
        os.fsync(written)


def _put_in_place(temporary: Path, target: Path, replace: bool) -> None:
    """Give the copy its name, whole or not at all, and never over a file that came meanwhile."""
    if replace:
        os.replace(temporary, target)
    else:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise StorageRefused(f"{target} exists already") from None
        except OSError:  # a file system without hard links
            os.rename(temporary, target)
    temporary.unlink(missing_ok=True)  # a store with two names would be refused
    if sys.platform != "win32":
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
