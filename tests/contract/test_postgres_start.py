"""Starts of servers on one database: who comes first makes the schema, whoever comes at the same moment finds it."""

from __future__ import annotations

import asyncio

import postgres
from jobpipe.storage import open_storage
from jobpipe.storage.base import Storage


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
