"""SQLite files: kept in memory, tuned for short proofs, put back after a fault, read by the real engine."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import apsw
from msgspec import Struct

from jobpipe.core.errors import StorageError
from jobpipe.core.task import Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import TaskFilter
from jobpipe.storage.contract import Storage

FILE = "jobpipe.db"
OFTEN = "PRAGMA wal_autocheckpoint = 60"
"""Far fewer pages than the engine's own, so that a short proof has many checkpoints in it."""


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: the real disk's own syncs prove nothing here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="jobpipe-prove-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)


@contextlib.contextmanager
def tuned(*pragmas: str) -> Iterator[Callable[[], None]]:
    """What is given sets `pragmas` on the connections that were made meanwhile; their store must be idle then."""
    connections: list[apsw.Connection] = []
    apsw.connection_hooks.append(connections.append)

    def tune() -> None:
        for connection in connections:
            for pragma in pragmas:
                connection.execute(pragma).fetchall()

    try:
        yield tune
    finally:
        apsw.connection_hooks.remove(connections.append)


def put(images: Mapping[str, bytes], place: Path) -> None:
    """The files of a disk after a cut, in an empty folder."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name, data in images.items():
        (place / name).write_bytes(data)


class Reopened(Struct):
    """What a new server found: whether the file is sound, the state of each task, whether the kept counts are true."""

    corrupt: bool
    states: dict[str, str] = {}
    counts_are_true: bool = True


async def reopen(path: Path) -> Reopened:
    """Open a store as a server's start does, read all of it, close it, and check the file."""
    store = open_storage(f"sqlite:///{path}", capacity=1_000_000, clock=ManualClock())
    try:
        await store.open()
        tasks = await everything(store)
        counts = await store.counts()
        await store.close()
    except StorageError:
        return Reopened(corrupt=True)
    recounted = Counter(task.status for task in tasks)
    return Reopened(
        corrupt=_unsound(path),
        states={task.id: task.status.value for task in tasks},
        counts_are_true=all(counts[status] == recounted[status] for status in Status),
    )


async def everything(store: Storage) -> list[Task]:
    """All tasks of a store."""
    tasks: list[Task] = []
    before: int | None = None
    while True:
        page = await store.page(TaskFilter(), 1000, before, 1 << 40)
        tasks += page.tasks
        before = page.next_seq
        if before is None:
            return tasks


def _unsound(path: Path) -> bool:
    with contextlib.closing(apsw.Connection(str(path))) as connection:
        return bool(connection.execute("PRAGMA integrity_check").get != "ok")
