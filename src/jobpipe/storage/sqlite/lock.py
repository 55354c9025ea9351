"""One server a file: a lock file beside the database, locked for life, with the holder's pid in it.

The lock is the operating system's, so it ends with its holder, however that ends; the file itself stays.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jobpipe.core.errors import StorageRefused

if sys.platform == "win32":  # pragma: no cover - exercised on Windows alone
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # far behind the pid, which others must be able to read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class FileLock:
    """The lock on `path`, a database file; the same file reached by another name is the same lock."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = f"{Path(path).resolve()}.lock"
        self._descriptor: int | None = None
        self._made = False

    def acquire(self) -> None:
        """Take the lock, or raise StorageRefused naming the holder's pid."""
        while True:
            descriptor = self._open()
            self._lock(descriptor)
            if _is_still(descriptor, self._file):
                break
            os.close(descriptor)  # its last holder took it away between our opening and our locking
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self, *, untouched: bool = False) -> None:
        """Give the lock up; safe when it is not held. `untouched` takes a lock file that was made here away again."""
        if self._descriptor is not None:
            if untouched and self._made:
                Path(self._file).unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        self._made = not Path(self._file).exists()
        try:
            return os.open(self._file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise StorageRefused(f"cannot open {self._path}: {error.strerror}: {self._file}") from error

    def _lock(self, descriptor: int) -> None:
        try:
            _try_lock(descriptor)
        except OSError as error:
            holder = (
                os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() if os.name == "posix" else "?"
            )
            os.close(descriptor)
            raise StorageRefused(
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


def _is_still(descriptor: int, file: str) -> bool:
    """Whether the locked file is the one that others find under its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file))
    except FileNotFoundError:
        return False
