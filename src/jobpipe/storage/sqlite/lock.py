"""One server a file: a lock file beside the database, locked for life, with the holder's pid in it.

The lock is the operating system's, so it ends with its holder, however that ends; the file itself stays. Where the
system keeps such locks apart from those of SQLite, the database itself is locked too: a lock file that was cleaned away
opens no door, and is made again.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from jobpipe.core.errors import StorageInUse
from jobpipe.storage.sqlite.beside import open_beside
from jobpipe.storage.sqlite.files import is_at

if sys.platform == "win32":  # pragma: no cover - exercised on Windows alone
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the pid, which others must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOCKS_DATABASE = sys.platform == "linux"
"""Elsewhere a lock of the whole file would be in the way of SQLite's own."""


class FileLock:
    """The lock on `path`, a database file; the same file reached by another name is the same lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._real = str(Path(path).resolve())
        self._file = f"{self._real}.lock"
        self._descriptor: int | None = None
        self._database: int | None = None
        self._made = False

    def acquire(self) -> None:
        """Take the lock, or raise StorageRefused naming the holder's pid."""
        while True:
            descriptor = self._open()
            self._lock(descriptor)
            if is_at(descriptor, self._file):
                break
            os.close(descriptor)  # its last holder took it away between our opening and our locking
        self._descriptor = descriptor
        with suppress(OSError):  # a full disk: the pid is for people, the lock holds without it
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()}\n".encode())

    def acquire_database(self) -> None:
        """Lock the database itself, once it exists. Raises StorageRefused when another server does.

        Its descriptor is open for as long as SQLite's are: to close one of a file ends all of SQLite's locks on it.
        """
        if not LOCKS_DATABASE or self._database is not None or not os.path.exists(self._real):
            return
        self._database = os.open(self._real, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _try_lock(self._database)
        except BlockingIOError:
            raise StorageInUse(f"cannot open {self._path}: another server is using it") from None
        except OSError:  # a file system without such locks: the lock file has to do
            return

    def renew(self) -> bool:
        """Make the lock file again if somebody took it away; whether that was so.

        Raises StorageRefused when another server has one by now.
        """
        if self._descriptor is None or is_at(self._descriptor, self._file):
            return False
        lost, self._descriptor = self._descriptor, None
        os.close(lost)
        self.acquire()
        return True

    def release(self, *, untouched: bool = False) -> None:
        """Give the lock up; safe when it is not held. `untouched` takes a lock file that was made here away again."""
        if self._descriptor is not None:
            if untouched and self._made:
                Path(self._file).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
        if self._database is not None:
            os.close(self._database)
            self._database = None

    def _open(self) -> int:
        self._made = not Path(self._file).exists()
        return open_beside(self._path, self._file, 0o644)

    def _lock(self, descriptor: int) -> None:
        try:
            _try_lock(descriptor)
        except OSError as error:
            holder = (
                os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() if os.name == "posix" else "?"
            )
            os.close(descriptor)
            raise StorageInUse(
                f"cannot open {self._path}: another server (pid {holder or 'unknown'}) is using it"
            ) from error


def holder_of(path: str) -> int | None:
    """The process that holds the lock on `path`, None when nobody does; found without trying the lock.

    Who tried it could keep a server that starts just then from its own store.
    """
    file = Path(f"{Path(path).resolve()}.lock")
    try:
        pid = int(file.read_text("ascii"))
        inode = file.stat().st_ino
    except (OSError, ValueError):
        return None
    return pid if _runs(pid) and _is_locked(inode) else None


def _runs(pid: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_locked(inode: int) -> bool:
    """Whether somebody locks a file with this inode; without a list of the locks a living pid is all there is."""
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return True
    return any("FLOCK" in line and line.split()[-3].endswith(f":{inode}") for line in locks.splitlines())
