"""arq on Redis: 64 jobs at a time, no results kept, asking for work every 10 ms."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from arq import create_pool, func
from arq.connections import RedisSettings
from arq.worker import Worker
from common import CONCURRENCY, PAYLOAD, URL, counted, gathered, main

SETTINGS = RedisSettings.from_dsn(URL)


async def noop(ctx: dict[Any, Any], payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


async def _produce(sent: Iterable[int]) -> None:
    pool = await create_pool(SETTINGS)
    await gathered(lambda moment: pool.enqueue_job("noop", PAYLOAD, moment), sent)


def work() -> None:
    Worker(
        [func(noop, name="noop", keep_result=0)],
        redis_settings=SETTINGS,
        max_jobs=CONCURRENCY,
        poll_delay=0.01,
        handle_signals=False,
    ).run()


if __name__ == "__main__":
    main(produce=lambda sent: asyncio.run(_produce(sent)), batch=None, work=work)
