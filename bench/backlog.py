"""`python -m bench.backlog`: does a long backlog slow claims on PostgreSQL? Claims with few and with many waiting.

Both backlogs are in databases of one server started for it, and are measured in turns, so that an hour's weather of the
machine falls on both. What was taken is put back outside of the measured time: a backlog keeps its length.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from statistics import median

from prove.cluster import Cluster, missing, running

from bench.report import machine
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import NewTask
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.storage import open_storage

FEW = 1_000
BATCH = 64
"""Tasks of one claim."""
CHUNK = 5_000
TARGET = 0.9
DONE = Outcome(Kind.DONE, result=b"null")


class Backlog:
    """A database with so many tasks waiting; `rates` are those of its rounds, in tasks/s claimed and settled."""

    def __init__(self, cluster: Cluster, waiting: int) -> None:
        self.waiting = waiting
        self.rates: list[float] = []
        self._cluster = cluster
        self._name = f"waiting_{waiting}"
        self._queue = TaskQueue(open_storage(cluster.url(self._name), capacity=10 * waiting + CHUNK))
        self._made = 0

    async def fill(self) -> None:
        """Make the database with all its tasks, and have it analyzed as it would be after a while."""
        await self._cluster.ask(f"CREATE DATABASE {self._name}")
        await self._queue.open()
        while self._made < self.waiting:
            await self._enqueue(min(CHUNK, self.waiting - self._made))
        await self._cluster.ask("VACUUM ANALYZE", self._name)

    async def round(self, claims: int) -> None:
        """Take and settle so many batches."""
        seconds, settled = 0.0, 0
        for _ in range(claims):
            began = time.perf_counter()
            taken = await self._queue.claim("bench", BATCH)
            await self._queue.settle([Report(claim.task.id, claim.lease_id, DONE) for claim in taken])
            seconds += time.perf_counter() - began
            await self._enqueue(len(taken))
            settled += len(taken)
        self.rates.append(settled / seconds)

    async def close(self) -> None:
        """Leave the database."""
        await self._queue.close()

    async def _enqueue(self, n: int) -> None:
        await self._queue.enqueue([NewTask(f"t{self._made + i}", "h") for i in range(n)])
        self._made += n


async def measure(cluster: Cluster, most: int, rounds: int, claims: int) -> list[Backlog]:
    """The short backlog and the long one, with their rates."""
    backlogs = [Backlog(cluster, waiting) for waiting in (min(FEW, most), most)]
    try:
        for backlog in backlogs:
            await backlog.fill()
            await backlog.round(claims)
            backlog.rates.clear()  # the first was to warm up
        for turn in range(rounds):
            for backlog in backlogs if turn % 2 else reversed(backlogs):
                await backlog.round(claims)
    finally:
        for backlog in backlogs:
            await backlog.close()
    return backlogs


def main() -> int:
    """Measure and print."""
    arguments = _arguments()
    lacking = missing()
    if lacking is not None:
        print(lacking, file=sys.stderr)
        return 1
    with running() as cluster:
        few, many = asyncio.run(measure(cluster, arguments.most, arguments.rounds, arguments.claims))
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for backlog in (few, many):
        low, high = min(backlog.rates), max(backlog.rates)
        print(f"{backlog.waiting:>9,} waiting  {median(backlog.rates):>7,.0f} /s  ({low:,.0f} - {high:,.0f})")
    print(f"ratio {median(many.rates) / median(few.rates):.2f}, target >= {TARGET}")
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.backlog", description=__doc__)
    parser.add_argument("--most", type=int, default=1_000_000, help="tasks of the long backlog")
    parser.add_argument("--rounds", type=int, default=6, help="rounds of each backlog")
    parser.add_argument("--claims", type=int, default=150, help=f"claims of {BATCH} tasks in a round")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
