"""Procrastinate on PostgreSQL: a pool of connections, 64 jobs at a time, finished jobs deleted."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

import procrastinate
from common import CONCURRENCY, PAYLOAD, URL, counted, gathered, main

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL, max_size=10))


@app.task(name="noop", queue="peer")
async def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


async def _produce(sent: Iterable[int]) -> None:
    async with app.open_async():
        await gathered(lambda moment: noop.defer_async(payload=PAYLOAD, sent=moment), sent)


async def _batch(n: int, size: int) -> None:
    async with app.open_async():
        for _ in range(n // size):
            await noop.batch_defer_async(*({"payload": PAYLOAD, "sent": 0} for _ in range(size)))


async def _setup() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def _work() -> None:
    async with app.open_async():
        await app.run_worker_async(
            concurrency=CONCURRENCY, delete_jobs="always", install_signal_handlers=False
        )


if __name__ == "__main__":
    if sys.argv[1] == "setup":
        asyncio.run(_setup())
    else:
        main(
            produce=lambda sent: asyncio.run(_produce(sent)),
            batch=lambda n, size: asyncio.run(_batch(n, size)),
            work=lambda: asyncio.run(_work()),
        )
