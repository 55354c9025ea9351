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

    def acquire(self) -> None:
        """Take the lock, or raise StorageRefused naming the holder's pid."""
        try:
            descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise StorageRefused(f"cannot open {self._path}: {error.strerror}: {self._file}") from error
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
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock up; safe when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
