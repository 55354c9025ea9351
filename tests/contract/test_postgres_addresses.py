"""A host name that stands for several addresses: one that does not answer takes its own time only."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from desk import Desk

import postgres
from jobpipe.core.errors import StorageRefused
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage

pytestmark = pytest.mark.timeout(60)
NAME = "database.invalid"


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """An address at the database's port that takes connections and never says a word, and comes first in the name."""
    postgres.require()
    port = postgres.shared_cluster().port
    resolve = socket.getaddrinfo

    def resolved(host: Any, *rest: Any, **named: Any) -> Any:
        if host != NAME:
            return resolve(host, *rest, **named)
        return [found for ip in ("127.0.0.2", "127.0.0.1") for found in resolve(ip, *rest, **named)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.2", port))
        except OSError:
            pytest.skip("there is no second address here")
        listener.listen(64)
        yield port


async def test_an_address_that_hangs_takes_its_own_time_and_is_left_from_then_on(silent: int) -> None:
    loop = asyncio.get_running_loop()
    with postgres.own_database("addresses"):
        url = f"postgresql://postgres@{NAME}:{silent}/addresses?connect_timeout=1&sslmode=prefer"
        store = open_storage(url)
        await store.open()
        try:
            began = loop.time()
            await (await store._hosts.connect()).close()  # type: ignore[attr-defined]
            assert loop.time() - began < 0.9, "later connections begin with the address that answered"
            await Desk(store, SystemClock()).accept("a")  # type: ignore[arg-type]
        finally:
            await store.close()


async def test_where_no_address_answers_each_has_had_its_time(silent: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        free.listen(8)
        port = free.getsockname()[1]
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(StorageRefused, match="cannot reach PostgreSQL"):
            await open_storage(f"postgresql://postgres@{NAME}:{port}/x?connect_timeout=1").open()
        assert loop.time() - began < 6
