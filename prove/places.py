"""Where the stores of the worlds are, one way for each engine: how a fresh one is opened, how its server dies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil

from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.contract import Storage
from prove.cluster import WIPE, Cluster, running
from prove.times import DatabaseClock
from prove.world import CAPACITY, MAX_QUEUES, World

Opens = Callable[[Path], Awaitable[World]]
"""Opens a fresh world; the folder is empty, and the world's alone."""

TERMINATE = """
SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'jobpipe' AND datname = current_database()
"""
LATEST_SIGN = "SELECT max(alive_until) FROM jobpipe.servers"
TURNS = 20
"""Of the event loop, until all connections that ended have been told so: a few each."""


def open_store(url: str, clock: ManualClock) -> Storage:
    """A store with the bounds of the world."""
    return open_storage(url, capacity=CAPACITY, max_queues=MAX_QUEUES, clock=clock)


async def in_memory(_: Path) -> World:
    """A world that dies with its server."""
    clock = ManualClock()
    store = open_store("memory:", clock)
    await store.open()
    return World(store, clock)


async def on_files(folder: Path) -> World:
    """A world on SQLite."""
    clock = ManualClock()
    crashes = Crashes(folder, clock)
    store = open_store(crashes.url, clock)
    await store.open()
    return World(store, clock, crashes.reopen)


class Crashes:
    """SQLite files that are left as a killed server leaves them: copied while their server still has them open."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self._folder, self._clock = folder, clock
        self._count = 0
        (folder / "0").mkdir()

    @property
    def url(self) -> str:
        """Where the store is now."""
        return f"sqlite:///{self._folder / str(self._count) / 'jobpipe.db'}"

    async def reopen(self, store: Storage) -> tuple[Storage, None]:
        """The server on a copy of what it had on the disk."""
        before = self._folder / str(self._count)
        self._count += 1
        after = self._folder / str(self._count)
        after.mkdir()
        for name in ("jobpipe.db", "jobpipe.db-wal", "jobpipe.db-claims"):
            if (before / name).exists():
                shutil.copyfile(before / name, after / name)
        await store.close()
        shutil.rmtree(before)
        fresh = open_store(self.url, self._clock)
        await fresh.open()
        return fresh, None


class Database:
    """Worlds on PostgreSQL, one after the other: a database that has the schema and goes by the cluster's `clock`."""

    def __init__(self, cluster: Cluster, name: str = "postgres") -> None:
        self._cluster, self._name = cluster, name

    @property
    def url(self) -> str:
        """Where it is."""
        return self._cluster.url(self._name)

    async def empty(self) -> DatabaseClock:
        """Forget all; its clock begins anew."""
        await self._cluster.ask(WIPE, self._name)
        return self._cluster.clock()

    async def open(self, _: Path) -> World:
        """A world on the emptied database."""
        clock = await self.empty()
        store = await self._opened(clock)

        async def reopen(_: Storage) -> tuple[Storage, int]:
            ends = await self._kill()
            return await self._opened(clock), ends

        return World(store, clock, reopen, self._cut)

    async def _opened(self, clock: ManualClock) -> Storage:
        store = open_store(self.url, clock)
        await store.open()
        return store

    async def _kill(self) -> int:
        """End all that the server does where it is, and its connections; when its last sign of life ends."""
        doing = asyncio.all_tasks() - {asyncio.current_task()}
        for task in doing:
            task.cancel()
        await asyncio.gather(*doing, return_exceptions=True)
        await self._cut(None)
        return int((await self._cluster.ask(LATEST_SIGN, self._name))[0][0])

    async def _cut(self, _: Storage | None) -> None:
        ended = [row["pid"] for row in await self._cluster.ask(TERMINATE, self._name)]
        while any(map(psutil.pid_exists, ended)):
            await asyncio.sleep(0.001)
        for _turn in range(TURNS):
            await asyncio.sleep(0)


@contextlib.contextmanager
def database() -> Iterator[Database]:
    """One on a cluster of its own, for a while."""
    with running(in_memory=True) as cluster:
        cluster.clock()
        asyncio.run(_make_schema(cluster.url()))
        cluster.make_manual()
        yield Database(cluster)


async def _make_schema(url: str) -> None:
    store = open_store(url, ManualClock())
    await store.open()
    await store.close()
