"""Taskiq on a Redis list, its fastest broker: no results, one worker process, 64 tasks at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable

from common import CONCURRENCY, PAYLOAD, URL, counted, gathered, main
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(URL)


@broker.task(task_name="noop")
async def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


async def _produce(sent: Iterable[int]) -> None:
    await broker.startup()
    await gathered(lambda moment: noop.kiq(PAYLOAD, moment), sent)
    await broker.shutdown()


async def _work() -> None:
    from taskiq.api import run_receiver_task

    await run_receiver_task(broker, max_async_tasks=CONCURRENCY, run_startup=True)


if __name__ == "__main__":
    sys.modules["with_taskiq"] = sys.modules["__main__"]
    main(produce=lambda sent: asyncio.run(_produce(sent)), batch=None, work=lambda: asyncio.run(_work()))
