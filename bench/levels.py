"""`python -m bench.levels`: do many queues and priorities slow claims? On SQLite and PostgreSQL, in turns.

A level is a queue and a priority that have waiting tasks. Each store has as many tasks as the others, spread over its
levels; what is measured is claims of a batch and their settles, and enqueues of single tasks beside 64 others.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from prove.cluster import Cluster, missing, running

from bench.report import machine
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import NewTask
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.storage import open_storage

BATCH = 64
CHUNK = 5_000
SHAPES = ((1, 1), (1_000, 2), (1_000, 20), (1_000, 200), (1, 200_000))
"""Queues, and priorities of each; the first is what the others are compared with."""
TARGET = 0.5
DONE = Outcome(Kind.DONE, result=b"null")


class Spread:
    """A store whose tasks are spread over levels; `claims` and `enqueues` are rates of its rounds."""

    def __init__(self, engine: str, queues: int, priorities: int, url: str, waiting: int) -> None:
        self.name = f"{engine}, {queues:,} x {priorities:,}"
        self.engine = engine
        self.claims: list[float] = []
        self.enqueues: list[float] = []
        self._levels = itertools.cycle(
            (queue, priority) for priority in range(priorities) for queue in range(queues)
        )
        self._waiting = max(waiting, queues * priorities)
        self._queue = TaskQueue(open_storage(url, capacity=10 * self._waiting, max_queues=queues + 1))
        self._made = 0

    async def fill(self) -> None:
        """Make all tasks."""
        await self._queue.open()
        while self._made < self._waiting:
            await self._queue.enqueue(list(self._new(min(CHUNK, self._waiting - self._made))))

    async def round(self, claims: int) -> None:
        """Take and settle so many batches; put as many back, one by one but many at once."""
        taken, began = 0, time.perf_counter()
        for _ in range(claims):
            got = await self._queue.claim("bench", BATCH)
            await self._queue.settle([Report(claim.task.id, claim.lease_id, DONE) for claim in got])
            taken += len(got)
        self.claims.append(taken / (time.perf_counter() - began))
        began = time.perf_counter()
        for _ in range(claims):
            await asyncio.gather(*(self._queue.enqueue([task]) for task in self._new(BATCH)))
        self.enqueues.append(claims * BATCH / (time.perf_counter() - began))

    async def close(self) -> None:
        """Leave the store."""
        await self._queue.close()

    def _new(self, n: int) -> Iterator[NewTask]:
        for _ in range(n):
            queue, priority = next(self._levels)
            self._made += 1
            yield NewTask(f"t{self._made}", "h", queue=f"q{queue}", priority=priority)


async def measure(spreads: list[Spread], rounds: int, claims: int) -> None:
    """All rounds, the stores in turns."""
    for spread in spreads:
        print(f"filling: {spread.name}", file=sys.stderr, flush=True)
        await spread.fill()
        await spread.round(2)
        spread.claims.clear()  # the first was to warm up
        spread.enqueues.clear()
    for turn in range(rounds):
        for spread in spreads if turn % 2 else reversed(spreads):
            await spread.round(claims)
    for spread in spreads:
        await spread.close()


def _spreads(folder: Path, cluster: Cluster | None, arguments: argparse.Namespace) -> Iterator[Spread]:
    for number, (queues, priorities) in enumerate(SHAPES):
        if queues * priorities > arguments.most:
            continue
        yield Spread("SQLite", queues, priorities, f"sqlite:///{folder}/{number}.db", arguments.most)
        if cluster is not None:
            cluster.run(f"CREATE DATABASE levels_{number}")
            url = cluster.url(f"levels_{number}")
            yield Spread("PostgreSQL", queues, priorities, url, arguments.most)


def main() -> int:
    """Measure and print a Markdown table."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="jobpipe-levels-") as folder, ExitStack() as stack:
        lacking = missing()
        cluster = stack.enter_context(running()) if lacking is None else None
        spreads = list(_spreads(Path(folder), cluster, arguments))
        asyncio.run(measure(spreads, arguments.rounds, arguments.claims))
    print(", ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    print("| store, queues x priorities | claim and settle /s | of one level | enqueue /s | of one level |")
    print("|---|---:|---:|---:|---:|")
    one = {spread.engine: spread for spread in reversed(spreads)}
    for spread in spreads:
        shown = [
            f"{median(mine):,.0f} | {median(mine) / median(base):.2f}"
            for mine, base in (
                (spread.claims, one[spread.engine].claims),
                (spread.enqueues, one[spread.engine].enqueues),
            )
        ]
        print(f"| {spread.name} | {' | '.join(shown)} |")
    print(f"\nTarget: 200,000 levels claim at {TARGET} of one, or more.")
    if lacking is not None:
        print(lacking, file=sys.stderr)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.levels", description=__doc__)
    parser.add_argument("--most", type=int, default=200_000, help="levels, and tasks of each store (200,000)")
    parser.add_argument("--rounds", type=int, default=5, help="of each store")
    parser.add_argument("--claims", type=int, default=50, help=f"claims of {BATCH} tasks in a round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
