"""SAQ on Redis: 64 jobs at a time, uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import uvloop
from common import CONCURRENCY, PAYLOAD, URL, counted, gathered, main
from saq import Queue, Worker


async def noop(ctx: dict[str, Any], *, payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


async def _produce(sent: Iterable[int]) -> None:
    queue = Queue.from_url(URL)
    await queue.connect()
    await gathered(lambda moment: queue.enqueue("noop", payload=PAYLOAD, sent=moment), sent)


async def _work() -> None:
    queue = Queue.from_url(URL)
    await queue.connect()
    await Worker(queue, functions=[noop], concurrency=CONCURRENCY).start()


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    main(produce=lambda sent: asyncio.run(_produce(sent)), batch=None, work=lambda: asyncio.run(_work()))
