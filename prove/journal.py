"""Memories that survive what is done to the server: lines that are on disk before anybody counts on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from pathlib import Path


class Journal:
    """A client's own record of what it was told; may be used from many threads."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._lock = threading.Lock()
        self.ids: set[str] = set()
        """All that was recorded."""

    def record(self, ids: Iterable[str]) -> None:
        """Write ids down and sync; only then do they count as acknowledged."""
        fresh = list(ids)
        if not fresh:
            return
        with self._lock:
            os.write(self._descriptor, "".join(f"{id_}\n" for id_ in fresh).encode())
            os.fsync(self._descriptor)
            self.ids.update(fresh)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def note(path: str, *words: object) -> None:
    """One line of a handler's journal: whole (one append) and synced."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, (" ".join(map(str, words)) + "\n").encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
