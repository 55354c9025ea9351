"""A simulated disk under SQLite: it passes everything through, remembers every write and sync, and can lose its power.

The model is harsher than most disks. What was synced stays. Of what was written since, any subset may have reached the
platter, in any order, cut at sectors; the last write may be torn at any byte. A deleted file may come back, as it was
when it was last synced, unless its folder was synced.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
from msgspec import Struct

SECTOR = 512
PERSISTENT = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL


class Event(Struct, frozen=True):
    """What was asked of a file: write `data` at `offset`, cut it to `offset`, sync, delete (`offset` 1: for good)."""

    what: str
    file: str
    offset: int = 0
    data: bytes = b""


class Disk(apsw.VFS):
    """The disk, as SQLite's default file system while the `with` block lasts; `log` is all that it was asked.

    `fault`, when set, is called before each write and sync with its number (from 1) and may raise an error of apsw.
    Those within a checkpoint are neither counted nor failed: SQLite keeps such an error to itself and goes on later,
    but apsw hands what Python raised to whoever committed.
    """

    NAME = "jobpipe-disk"

    def __init__(self) -> None:
        super().__init__(self.NAME, "unix", makedefault=True)
        self.log: list[Event] = []
        self.asked = 0
        self.fault: Any = None

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Files that outlive a crash are remembered, temporary ones are not."""
        if name is None or not flags[0] & PERSISTENT:
            return apsw.VFSFile("unix", name, flags)
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        """Remember the deletion too."""
        super().xDelete(filename, syncdir)
        self.log.append(Event("delete", Path(filename).name, int(syncdir)))

    def ask(self, what: str, file: str) -> None:
        """A write or a sync is asked for: count it, and fail if it shall."""
        if self._in_checkpoint(what, file):
            return
        self.asked += 1
        if self.fault is not None:
            self.fault(self.asked)

    def _in_checkpoint(self, what: str, file: str) -> bool:
        """With a log, the database is written by checkpoints alone; they begin by syncing the log once more."""
        if file.endswith("-wal"):
            return what == "sync" and bool(self.log) and self.log[-1] == Event("sync", file)
        return any(event.file == f"{file}-wal" for event in self.log)


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk, self._name = disk, Path(path).name
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        self._disk.ask("write", self._name)
        super().xWrite(data, offset)
        self._disk.log.append(Event("write", self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._disk.log.append(Event("truncate", self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.ask("sync", self._name)
        super().xSync(flags)
        self._disk.log.append(Event("sync", self._name))


class _OnPlatter:
    """One file: what is safe, and what was asked since the last sync."""

    def __init__(self) -> None:
        self.safe: bytearray | None = None
        self.since: list[Event] = []

    def take(self, event: Event) -> None:
        if event.what == "sync" or (event.what == "delete" and event.offset):
            self.safe = _applied(self.safe, [*self.since, event])
            self.since = []
        else:
            self.since.append(event)


class Platter:
    """What is on the disk while a log is played; `start` are the files that were there, safe, before it began."""

    def __init__(self, start: Mapping[str, bytes] | None = None) -> None:
        self._files: dict[str, _OnPlatter] = {}
        for name, data in (start or {}).items():
            self._files[name] = _OnPlatter()
            self._files[name].safe = bytearray(data)

    def take(self, event: Event) -> None:
        """Play one event."""
        self._files.setdefault(event.file, _OnPlatter()).take(event)

    def cut(self, source: random.Random | None) -> dict[str, bytes]:
        """The files after the power went now; with no source of chance, after the process alone was killed."""
        images = {
            name: _applied(copy.copy(file.safe), _survived(file.since, source))
            for name, file in self._files.items()
        }
        return {name: bytes(image) for name, image in images.items() if image is not None}


def _applied(image: bytearray | None, events: list[Event]) -> bytearray | None:
    for event in events:
        if event.what == "delete":
            image = None
            continue
        if event.what == "sync":
            continue
        image = bytearray() if image is None else image
        end = event.offset + len(event.data)
        if event.what == "truncate":
            del image[event.offset :]
        if len(image) < end:
            image.extend(bytes(end - len(image)))
        image[event.offset : end] = event.data
    return image


def _survived(events: list[Event], source: random.Random | None) -> list[Event]:
    """Which of the unsynced events reached the platter, and what of each write."""
    if source is None or not events:
        return events
    kind = source.randrange(5)
    if kind == 0:
        return []
    if kind == 1:  # in order up to a moment, the last one torn
        kept = events[: source.randint(1, len(events))]
        return [*kept[:-1], *_torn(kept[-1], source)]
    share = source.choice([0.1, 0.5, 0.9])
    if kind == 2:  # whole ones, any subset
        return [event for event in events if source.random() < share]
    return [part for event in events for part in _sectors(event) if source.random() < share]


def _torn(event: Event, source: random.Random) -> list[Event]:
    if event.what != "write":
        return [event]
    return [Event("write", event.file, event.offset, event.data[: source.randint(0, len(event.data))])]


def _sectors(event: Event) -> Iterator[Event]:
    """A write as the writes of its sectors; anything else as it is."""
    if event.what != "write":
        yield event
        return
    at, end = event.offset, event.offset + len(event.data)
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        yield Event("write", event.file, at, event.data[at - event.offset : stop - event.offset])
        at = stop
