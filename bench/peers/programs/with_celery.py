"""Celery on Redis: results off, a pool of threads, prefetching, no gossip."""

from __future__ import annotations

from collections.abc import Iterable

from celery import Celery
from common import PAYLOAD, URL, counted, main

app = Celery("peer", broker=URL)
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    worker_redirect_stdouts=False,
)


@app.task(name="noop")
def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


def produce(sent: Iterable[int]) -> None:
    with app.producer_pool.acquire(block=True) as producer:
        for moment in sent:
            noop.apply_async((PAYLOAD, moment), producer=producer)


def work() -> None:
    options = ["--pool=threads", "--concurrency=4", "--loglevel=ERROR"]
    app.worker_main(["worker", *options, "--without-gossip", "--without-mingle", "--without-heartbeat"])


if __name__ == "__main__":
    main(produce=produce, batch=None, work=work)
