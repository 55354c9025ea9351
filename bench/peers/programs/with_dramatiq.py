"""Dramatiq on Redis: its own middleware, a worker of 8 threads."""

from __future__ import annotations

import time
from collections.abc import Iterable

import dramatiq
from common import PAYLOAD, URL, counted, main
from dramatiq.brokers.redis import RedisBroker

broker = RedisBroker(url=URL)
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


def produce(sent: Iterable[int]) -> None:
    for moment in sent:
        noop.send(PAYLOAD, moment)


def work() -> None:
    dramatiq.Worker(broker, worker_threads=8).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(produce=produce, batch=None, work=work)
