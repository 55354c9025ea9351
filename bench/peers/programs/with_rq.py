"""RQ on Redis: no results kept, its worker that does not fork for each job."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from common import PAYLOAD, URL, counted, main
from redis import Redis
from rq import Queue, SimpleWorker

connection = Redis.from_url(URL)
queue = Queue("peer", connection=connection)


def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


def produce(sent: Iterable[int]) -> None:
    for moment in sent:
        queue.enqueue("with_rq.noop", PAYLOAD, moment, result_ttl=0)


def batch(n: int, size: int) -> None:
    for _ in range(n // size):
        queue.enqueue_many(
            [Queue.prepare_data("with_rq.noop", (PAYLOAD, 0), result_ttl=0) for _ in range(size)]
        )


def work() -> None:
    import with_rq  # the module that the jobs name counts, not this one

    with_rq.counted = counted
    logging.getLogger("rq.worker").setLevel(logging.ERROR)
    SimpleWorker([queue], connection=connection).work(logging_level="ERROR")


if __name__ == "__main__":
    main(produce=produce, batch=batch, work=work)
