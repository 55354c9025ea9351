"""Every test of this folder runs over every engine, unless its file names one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import apsw
import pytest
from desk import Desk, OpenDesk, OpenStore

import postgres
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.contract import Storage
from jobpipe.storage.sqlite import engine as sqlite_engine

ENGINES: dict[str, Callable[[Path], str]] = {
    "sqlite": lambda folder: f"sqlite:///{folder / 'jobpipe.db'}",
    "memory": lambda _: "memory:",
    "postgres": lambda _: postgres.empty_store(),
}
"""How to make the URL of a fresh store: a new engine is one line here."""


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return ENGINES[request.param](tmp_path)


@pytest.fixture
def clock(request: pytest.FixtureRequest) -> ManualClock:
    """The store's time. A test that names no `url` has none that could be a database's."""
    url = request.getfixturevalue("url") if "url" in request.fixturenames else ""
    return postgres.shared_cluster().clock() if url.startswith("postgresql:") else ManualClock()


@pytest.fixture
async def open_store(url: str, clock: ManualClock) -> AsyncIterator[OpenStore]:
    """Opens stores at `url` and sees them closed."""
    opened: list[Storage] = []

    async def open_(*, capacity: int = 1_000_000, max_queues: int = 1000) -> Storage:
        store = open_storage(url, capacity=capacity, max_queues=max_queues, clock=clock)
        await store.open()
        opened.append(store)
        return store

    yield open_
    for store in opened:
        await store.close()


@pytest.fixture
async def open_desk(open_store: OpenStore, clock: ManualClock) -> OpenDesk:
    async def open_(**limits: int) -> Desk:
        return Desk(await open_store(**limits), clock)

    return open_


@pytest.fixture
async def desk(open_desk: OpenDesk) -> Desk:
    """A desk without bounds that a test could meet by accident."""
    return await open_desk()


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[apsw.Connection]:
    """The writing connections of SQLite stores, as they are opened: the seam for watching and disturbing them.

    A test may use one only while the store is idle.
    """
    opened: list[apsw.Connection] = []
    open_writer = sqlite_engine.open_writer

    def open_and_tell(path: str | None) -> apsw.Connection:
        opened.append(open_writer(path))
        return opened[-1]

    monkeypatch.setattr(sqlite_engine, "open_writer", open_and_tell)
    return opened
