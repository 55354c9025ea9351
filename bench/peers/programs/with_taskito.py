"""taskito on its SQLite: push dispatch, claims of 64, a pool of 4 threads."""

from __future__ import annotations

from collections.abc import Iterable

from common import PAYLOAD, URL, counted, main
from taskito import Queue

queue = Queue(
    db_path=f"{URL}/taskito.db",
    workers=4,
    scheduler_batch_size=64,
    scheduler_poll_interval_ms=10,
    push_dispatch=True,
)


@queue.task(name="noop")
def noop(payload: dict[str, object], sent: int) -> None:
    counted.seen(sent)


def produce(sent: Iterable[int]) -> None:
    for moment in sent:
        noop.delay(PAYLOAD, moment)


def batch(n: int, size: int) -> None:
    for _ in range(n // size):
        queue.enqueue_many("noop", [(PAYLOAD, 0)] * size)


def work() -> None:
    queue.run_worker()


if __name__ == "__main__":
    main(produce=produce, batch=batch, work=work)
