"""Starts of servers on one database: who comes first makes the schema, whoever comes at the same moment finds it."""

from __future__ import annotations

import asyncio

import postgres
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest
from jobpipe.storage.contract import Storage
from jobpipe.storage.postgres import migrations
from jobpipe.storage.postgres.link import in_schema


async def test_servers_that_start_at_once_on_an_empty_database_all_start() -> None:
    postgres.require()
    cluster = postgres.shared_cluster()
    for n in range(5):
        url = f"{cluster.url('real')}?schema=started_{n}"
        stores: list[Storage] = [open_storage(url) for _ in range(4)]
        try:
            await asyncio.gather(*(store.open() for store in stores))
        finally:
            await asyncio.gather(*(store.close() for store in stores))
            await cluster.ask(f"DROP SCHEMA started_{n} CASCADE", "real")


async def test_a_schema_of_the_first_program_is_brought_up_to_date_with_all_that_is_in_it() -> None:
    postgres.require()
    cluster = postgres.shared_cluster()
    first = in_schema(migrations.scripts()[0], "of_before")
    for part in (
        "CREATE SCHEMA of_before; CREATE TABLE of_before.version (schema int NOT NULL, oldest int NOT NULL)",
        first,
        "INSERT INTO of_before.version VALUES (1, 1); INSERT INTO of_before.counts VALUES (0, 'q', 0, 0, 1);"
        " INSERT INTO of_before.ids VALUES ('a', nextval('of_before.seqs'), 1);"
        " INSERT INTO of_before.tasks (seq, id, handler, queue, payload, priority, status, attempts, failures, lost,"
        " max_retries, run_at, created_at) VALUES (1, 'a', 'h', 'q', '1', 0, 0, 0, 0, 0, 3, 0, 0)",
    ):
        await cluster.ask(f"{part};", "real")
    store = open_storage(f"{cluster.url('real')}?schema=of_before")
    await store.open()
    try:
        (claim,) = (await store.claim(ClaimRequest(1, "w"), 0)).claims
        assert claim.task.id == "a"
        ((schema, oldest),) = await cluster.ask("SELECT schema, oldest FROM of_before.version", "real")
        assert (schema, oldest) == (len(migrations.scripts()), 1)
    finally:
        await store.close()
        await cluster.ask("DROP SCHEMA of_before CASCADE", "real")
