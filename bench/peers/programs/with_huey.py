"""Huey on Redis: results off, a consumer of 4 threads without the scheduler of periodic tasks."""

from __future__ import annotations

from collections.abc import Iterable

from common import PAYLOAD, URL, counted, main
from huey import RedisHuey

huey = RedisHuey("peer", url=URL, results=False)


@huey.task()
def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


def produce(sent: Iterable[int]) -> None:
    for moment in sent:
        noop(PAYLOAD, moment)


def work() -> None:
    huey.create_consumer(workers=4, worker_type="thread", periodic=False, check_worker_health=False).run()


if __name__ == "__main__":
    main(produce=produce, batch=None, work=work)
