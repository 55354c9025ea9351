"""Whether the files that a store has open are still the ones that the next start would find under its name.

A file that was removed, moved away or replaced takes writes as before, and all of them are gone with the process that
has it open. Only a look at the name tells.
"""

from __future__ import annotations

import os
from pathlib import Path

LOOK_S = 2.0
"""How often a server looks: it may acknowledge tasks for as long that are lost with a store that somebody took away."""

_Identity = tuple[int, int]


class OpenFiles:
    """The database at `path`, open by now, and the log and the index beside it."""

    def __init__(self, path: str) -> None:
        # Absolute, for a handler may change the folder. The names beside it are those of the file behind a link.
        real = Path(path).resolve()
        names = (os.path.abspath(path), f"{real}-wal", f"{real}-shm")
        self._known = {name: _identity(name) for name in names}

    def problem(self) -> str | None:
        """What has become of them, in words; None while all is well."""
        for name, known in self._known.items():
            try:
                found = _identity(name)
            except PermissionError:
                continue  # the folder is closed to us by now, which says nothing about the file
            except OSError as error:
                return f"{name} is not there any more ({error.strerror})"
            if found != known:
                return f"{name} was replaced by another file"
        return "the store was emptied" if self._is_empty() else None

    def _is_empty(self) -> bool:
        try:
            return os.stat(next(iter(self._known))).st_size == 0
        except OSError:
            return False


def is_at(descriptor: int, name: str) -> bool:
    """Whether the open file is the one that others find under this name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(name))
    except OSError:
        return False


def _identity(name: str) -> _Identity:
    status = os.stat(name)
    return status.st_dev, status.st_ino
