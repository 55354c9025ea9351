"""Opening the small files beside a store: the lock and the log of claims, which are written over.

Whoever may write to the folder could have put a link there, which leads to another file of ours, or a pipe, which lets
us wait for ever.
"""

from __future__ import annotations

import os
import stat

from jobpipe.core.errors import StorageRefused

_FLAGS = os.O_RDWR | os.O_CREAT
for _name in ("O_CLOEXEC", "O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"):
    _FLAGS |= getattr(os, _name, 0)


def open_beside(store: str, file: str, mode: int) -> int:
    """The descriptor of `file`, which is made when it is not there. Raises StorageRefused."""
    try:
        descriptor = os.open(file, _FLAGS, mode)
    except OSError as error:
        why = "it is a symbolic link" if os.path.islink(file) else error.strerror
        raise StorageRefused(f"cannot open {store}: {why}: {file}") from error
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    raise StorageRefused(f"cannot open {store}: it is no ordinary file, or has a second name: {file}")
