"""PgQueuer on PostgreSQL by asyncpg: claims of 256, uvloop; producers share a pool of ten connections."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable

import asyncpg
import uvloop
from common import PAYLOAD, URL, counted, gathered, main
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 256


def payload(sent: int) -> bytes:
    return json.dumps({**PAYLOAD, "sent": sent}).encode()


async def _produce(sent: Iterable[int]) -> None:
    async with asyncpg.create_pool(URL, min_size=10, max_size=10) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        await gathered(lambda moment: queries.enqueue("noop", payload(moment)), sent)


async def _batch(n: int, size: int) -> None:
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    for _ in range(n // size):
        await queries.enqueue(["noop"] * size, [payload(0)] * size, [0] * size)


async def _setup() -> None:
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()


async def _work() -> None:
    connection = await asyncpg.connect(URL)
    queuer = PgQueuer.from_asyncpg_connection(connection)

    @queuer.entrypoint("noop")
    async def noop(job: Job) -> None:
        counted.seen(json.loads(job.payload or b"{}")["sent"])

    await queuer.run(batch_size=BATCH)


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if sys.argv[1] == "setup":
        asyncio.run(_setup())
    else:
        main(
            produce=lambda sent: asyncio.run(_produce(sent)),
            batch=lambda n, size: asyncio.run(_batch(n, size)),
            work=lambda: asyncio.run(_work()),
        )
