"""A database that is far away, or does not answer at all: everything works, and every wait has its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from desk import ALL, DONE, Desk, ids_of, settlement
from prove.distance import Distance

import postgres
from jobpipe.core.errors import StorageError
from jobpipe.core.task import Status
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage
from jobpipe.storage.postgres import engine, lane

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def distance() -> AsyncIterator[Distance]:
    postgres.require()
    distance = Distance(postgres.shared_cluster().port)
    async with distance.listening():
        yield distance


@pytest.mark.parametrize("ms", [5, 60, 200])
async def test_tasks_are_served_however_far_the_database_is(distance: Distance, ms: int) -> None:
    trip = 2 * ms / 1000
    distance.seconds = ms / 1000
    with postgres.own_database(f"far_{ms}") as url:
        near = open_storage(url)  # which makes the schema: each step of it is several trips
        await near.open()
        await near.close()
        store = open_storage(url.replace(f":{postgres.shared_cluster().port}", f":{distance.port}"))
        loop = asyncio.get_running_loop()
        await asyncio.wait_for(store.open(), 10 + 60 * trip)
        desk = Desk(store, SystemClock())  # type: ignore[arg-type] # real time passes here

        async def taking(trips: int, call: object) -> object:
            """The answer of a call, which may take so many times there and back."""
            began = loop.time()
            answer = await call  # type: ignore[misc]
            assert loop.time() - began < trips * trip + 0.5
            return answer

        await taking(2, desk.accept("a", "b"))  # the counts are read once, then it is written
        claims = await taking(4, desk.claim(2))
        assert ids_of(claims) == ["a", "b"]  # type: ignore[arg-type]
        await taking(2, desk.write(*(settlement(claim, DONE, desk.now) for claim in claims)))  # type: ignore[attr-defined]
        page = await taking(6, store.page(ALL, 10, None, 1 << 20))
        assert len(page.tasks) == 2  # type: ignore[attr-defined]
        counts = await taking(2, store.counts())
        assert counts[Status.DONE] == 2  # type: ignore[index]
        await taking(20, store.check())
        await taking(20, store.close())


async def test_a_database_that_falls_silent_holds_nobody_for_ever(
    distance: Distance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, seconds in ((lane, "WAIT_S", 1.0), (lane, "STOP_S", 1.0), (engine, "CHECK_S", 1.0)):
        monkeypatch.setattr(module, name, seconds)
    with postgres.own_database("silent") as url:
        store = open_storage(url.replace(f":{postgres.shared_cluster().port}", f":{distance.port}"))
        await store.open()
        desk = Desk(store, SystemClock())  # type: ignore[arg-type]
        await desk.accept("before")
        distance.silent = True
        first = asyncio.ensure_future(desk.accept("held"))
        await asyncio.sleep(0)
        async with asyncio.timeout(8):
            with pytest.raises(StorageError):
                await store.check()
            with pytest.raises(StorageError):  # it waits behind the first one, in vain
                await desk.accept("behind")
        async with asyncio.timeout(15):
            await store.close()
        with pytest.raises(StorageError):
            await first


async def test_a_refusal_and_its_recovery_are_logged_once_and_readiness_follows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cluster = postgres.shared_cluster()
    await cluster.ask("CREATE ROLE served LOGIN")
    with postgres.own_database("revoked") as url:
        try:
            await cluster.ask("ALTER DATABASE revoked OWNER TO served")
            store = open_storage(url.replace("postgres@", "served@") + "?schema=revoked")
            await store.open()
            desk = Desk(store, SystemClock())  # type: ignore[arg-type]
            await store.check()
            with caplog.at_level(logging.INFO, "jobpipe.storage"):
                for grantless in ("INSERT ON revoked.tasks", "USAGE, UPDATE ON SEQUENCE revoked.seqs"):
                    await cluster.ask(f"REVOKE {grantless} FROM served", "revoked")
                    for n in range(3):
                        with pytest.raises(StorageError, match="permission denied"):
                            await desk.accept(f"{n}")
                        with pytest.raises(StorageError, match="permission denied"):
                            await store.check()
                    await cluster.ask(f"GRANT {grantless} TO served", "revoked")
                    await desk.accept(grantless.split()[0])
                    await store.check()
            lines = [record.message for record in caplog.records if "insert is" in record.message]
            assert sum("refused" in line for line in lines) == 1  # a kind is said once a minute at most
            assert "insert is served again" in lines
            await store.close()
        finally:
            await cluster.ask("REASSIGN OWNED BY served TO postgres", "revoked")
    await cluster.ask("DROP ROLE served")
