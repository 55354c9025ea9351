"""What a role, a database or its encoding brings along changes neither what our statements mean nor how long they may
take; where it cannot be served, the start says so in one line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from desk import ALL, DONE, FAILED, Desk, codes_of, ids_of, new, settlement

import postgres
from jobpipe.core.errors import StorageError, StorageRefused
from jobpipe.core.task import Status
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage

ROLE = "settled"
SETTINGS = {
    "default_transaction_isolation": "serializable",
    "search_path": "traps, pg_catalog",
    "standard_conforming_strings": "off",
    "bytea_output": "escape",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "extra_float_digits": "-15",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "statement_timeout": "1",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "50",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "plan_cache_mode": "force_custom_plan",
    "jit": "on",
    "synchronous_commit": "on",
    "client_min_messages": "debug5",
    "default_table_access_method": "heap",
    "row_security": "on",
    "work_mem": "64",
}
# Names of the catalogue that mean something else where `search_path` puts others first.
TRAPS = """
CREATE SCHEMA traps;
CREATE FUNCTION traps.octet_length(bytea) RETURNS int LANGUAGE sql AS 'SELECT 1000000000';
CREATE FUNCTION traps.starts_with(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION traps.statement_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT now() - interval ''1 year''';
CREATE VIEW traps.pg_stat_activity AS SELECT 1 AS pid;
GRANT USAGE ON SCHEMA traps TO public
"""


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A database that belongs to the role, with the traps in it."""
    postgres.require()
    cluster = postgres.shared_cluster()
    cluster.run(f"CREATE ROLE {ROLE} LOGIN")
    cluster.run(f"CREATE DATABASE inherited OWNER {ROLE}")
    cluster.run(TRAPS, "inherited")
    yield cluster.url("inherited").replace("postgres@", f"{ROLE}@")
    cluster.run("DROP DATABASE inherited WITH (FORCE)")
    cluster.run(f"DROP ROLE {ROLE}")


@pytest.fixture
def role(database: str) -> Iterator[str]:
    yield database
    postgres.shared_cluster().run(f"ALTER ROLE {ROLE} RESET ALL")


async def set_for_role(**settings: str) -> None:
    for name, value in settings.items():
        if name == "search_path":  # a list
            await postgres.shared_cluster().ask(f"ALTER ROLE {ROLE} SET search_path = {value}")
        else:
            await postgres.shared_cluster().ask(f"ALTER ROLE {ROLE} SET {name} = '{value}'")


async def a_life(url: str) -> None:
    """A task of every kind of end, in a schema of its own."""
    clock = SystemClock()
    store = open_storage(url, clock=clock)
    await store.open()
    try:
        desk = Desk(store, clock)  # type: ignore[arg-type] # real time passes here
        odd = "back\\slash' \u00fc \u65e5\u672c \U0010ffff"
        assert codes_of(await desk.insert(new(odd, payload=b'"\\\\\\u0000"'), new("b"), new("b"))) == [
            "task", "task", "task_exists",
        ]  # fmt: skip
        await asyncio.sleep(0.1)
        claims = await desk.claim(10)
        assert ids_of(claims) == [odd, "b"]
        assert claims[0].task.payload == b'"\\\\\\u0000"'
        await desk.write(settlement(claims[0], DONE, desk.now), settlement(claims[1], FAILED, desk.now))
        assert [task.id for task in (await store.page(ALL, 10, None, 1 << 30)).tasks] == ["b", odd]
        assert (await store.counts())[Status.DONE] == 1
        assert codes_of(await store.cancel(["b"], desk.now)) == ["cancelled"]
        assert codes_of(await store.retry(["b"], desk.now)) == ["task"]
        assert (await store.queues(desk.now))[0].by_status[Status.QUEUED] == 1
        assert codes_of(await store.delete([odd])) == ["task"]
        assert await store.prune(desk.now + 10**9, desk.now + 10**9, 100) == 0
        await store.check()
    finally:
        await store.close()


async def test_whatever_a_role_brings_along_tasks_are_served(role: str) -> None:
    await set_for_role(**SETTINGS)
    await a_life(f"{role}?schema=all_of_them")


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_servers_of_a_stricter_isolation_start_at_once_and_work_at_once(
    role: str, isolation: str
) -> None:
    await set_for_role(default_transaction_isolation=isolation)
    url = f"{role}?schema=at_once_{isolation.partition(' ')[0]}"
    stores = [open_storage(url, capacity=10**6) for _ in range(3)]
    await asyncio.gather(*(store.open() for store in stores))
    try:
        desks = [Desk(store, SystemClock()) for store in stores]  # type: ignore[arg-type]
        for turn in range(5):
            await asyncio.gather(
                *(desk.accept(*(f"{turn}-{n}-{i}" for i in range(20))) for n, desk in enumerate(desks))
            )
            found = await asyncio.gather(*(desk.claim(40) for desk in desks))
            for desk, claims in zip(desks, found, strict=True):
                await desk.write(*(settlement(claim, DONE, desk.now) for claim in claims))
        assert len({id_ for claims in found for id_ in ids_of(claims)}) == sum(map(len, found))
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def test_a_database_that_is_fenced_off_as_read_only_is_respected_and_comes_back(role: str) -> None:
    store = open_storage(f"{role}?schema=fenced")
    await store.open()
    try:
        desk = Desk(store, SystemClock())  # type: ignore[arg-type]
        await desk.accept("before")
        await set_for_role(default_transaction_read_only="on")
        await postgres.shared_cluster().ask(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{ROLE}'"
        )
        with pytest.raises(StorageError):  # it may meet the end of its connection first
            await desk.accept("meanwhile")
        for _ in range(2):
            with pytest.raises(StorageError, match="read-only"):
                await desk.accept("meanwhile")
            with pytest.raises(StorageError, match="read-only"):
                await store.check()
        with pytest.raises(StorageRefused, match="read-only"):
            await open_storage(f"{role}?schema=fenced").open()
        await postgres.shared_cluster().ask(f"ALTER ROLE {ROLE} RESET ALL")
        async with asyncio.timeout(10):
            while True:
                try:
                    await desk.accept("after")
                    break
                except StorageError:
                    await asyncio.sleep(0.1)
        await store.check()
        assert ids_of(await desk.claim(5)) == ["before", "after"]
    finally:
        await store.close()


@pytest.fixture
async def encoded() -> AsyncIterator[Any]:
    """Makes a database of an encoding; its URL."""
    postgres.require()
    made: list[str] = []

    async def make(encoding: str) -> str:
        name = f"in_{encoding.lower()}"
        made.append(name)
        await postgres.shared_cluster().ask(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
        )
        return postgres.shared_cluster().url(name)

    yield make
    for name in made:
        await postgres.shared_cluster().ask(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.parametrize("encoding", ["UTF8", "SQL_ASCII"])
async def test_an_encoding_that_holds_all_text_is_served(encoded: Any, encoding: str) -> None:
    await a_life(await encoded(encoding))


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "WIN1252", "KOI8R"])
async def test_an_encoding_that_does_not_is_refused_in_one_line_and_nothing_is_made(
    encoded: Any, encoding: str
) -> None:
    url = await encoded(encoding)
    with pytest.raises(StorageRefused, match=f"encoding {encoding}") as refused:
        await open_storage(url).open()
    assert "\n" not in str(refused.value)
    made = "SELECT FROM pg_namespace WHERE nspname = 'jobpipe'"
    assert await postgres.shared_cluster().ask(made, url.rpartition("/")[2]) == []
