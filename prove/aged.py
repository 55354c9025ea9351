"""A PostgreSQL with millions of finished tasks: listings stay quick, and pruning forgets them in time, one partition
after the other, while tasks come and go.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from jobpipe.core.task import NewTask, Status
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest, TaskFilter
from jobpipe.storage.contract import Storage
from jobpipe.storage.postgres.partitions import WIDTH_MS
from prove.cluster import Cluster, running
from prove.postgres import MISCOUNTED
from prove.proof import Figure, Trial, none

PARTITIONS = 8
LISTINGS = {
    "newest": TaskFilter(),
    "by status": TaskFilter(status=Status.DONE),
    "nothing found": TaskFilter(status=Status.FAILED),
    "ids that begin so, none": TaskFilter(id_prefix="old-77"),
    "ids that begin so, all": TaskFilter(id_prefix="old-"),
}
MAKE = """
CREATE TABLE IF NOT EXISTS jobpipe.ended_{start} PARTITION OF jobpipe.finished_ended
    FOR VALUES FROM ({start}) TO ({end});
WITH made AS (
    INSERT INTO jobpipe.finished (seq, id, handler, queue, payload, priority, status, attempts, failures, lost,
        max_retries, run_at, created_at, finished_at, result)
    SELECT nextval('jobpipe.seqs'), 'old-' || {start} || '-' || n, 'h', 'q' || n % 20, '{{}}', n % 3, 2, 1, 0, 0, 3,
           {start} + n % 1000, {start} + n % 1000, {start} + n, '1'
      FROM generate_series(1, {count}) n RETURNING id, seq)
INSERT INTO jobpipe.ids SELECT id, seq, 0 FROM made;
INSERT INTO jobpipe.counts SELECT 0, 'q' || n % 20, 2, n % 3, count(*) FROM generate_series(1, {count}) n GROUP BY 2, 4;
"""


def aged(trial: Trial) -> Sequence[Figure]:
    """Fill, list, work and prune."""
    count = trial.sized(40_000, 1_000_000, 5_000_000)
    with running(in_memory=True, maintenance_work_mem="256MB", max_wal_size="4GB") as cluster:
        return asyncio.run(_aged(cluster, count))


async def _aged(cluster: Cluster, count: int) -> Sequence[Figure]:
    store = open_storage(cluster.url(), capacity=10**6)
    await store.open()
    try:
        await asyncio.to_thread(_fill, cluster, count)
        slowest = {name: await _listed(store, where) for name, where in LISTINGS.items()}
        calls, took, work = await _pruned(store)
        left = (await store.counts())[Status.DONE]
    finally:
        await store.close()
    return [
        Figure("finished tasks", count),
        *(Figure(f"  list, {name}", seconds * 1000, "ms", at_most=1000) for name, seconds in slowest.items()),
        Figure("  until all were pruned", took, "s", at_most=max(60.0, count / 10_000)),
        Figure("  calls of the pruner", calls),
        Figure("  a task accepted, claimed and gone meanwhile, longest", work, "s", at_most=5.0),
        none("  finished tasks that are left", left),
        none("  kept counts that are off", cluster.run(MISCOUNTED)[0][0]),
    ]


def _fill(cluster: Cluster, count: int) -> None:
    first = int(time.time() * 1000) // WIDTH_MS * WIDTH_MS - (PARTITIONS + 4) * WIDTH_MS
    for n in range(PARTITIONS):
        start = first + n * WIDTH_MS
        cluster.run(MAKE.format(start=start, end=start + WIDTH_MS, count=count // PARTITIONS), timeout=600)
    cluster.run("ANALYZE jobpipe.finished", timeout=600)


async def _listed(store: Storage, where: TaskFilter) -> float:
    """The slowest of three pages one after the other."""
    slowest, before = 0.0, None
    for _ in range(3):
        began = time.monotonic()
        page = await store.page(where, 100, before, 1 << 20)
        slowest, before = max(slowest, time.monotonic() - began), page.next_seq
        if before is None:
            break
    return slowest


async def _pruned(store: Storage) -> tuple[int, float, float]:
    began, calls, longest = time.monotonic(), 0, 0.0
    kept = int(time.time() * 1000) - 3 * WIDTH_MS
    while await store.prune(kept, kept, 500):
        calls += 1
        if calls % 20 == 1:
            longest = max(longest, await _one(store, f"new-{calls}"))
    return calls, time.monotonic() - began, longest


async def _one(store: Storage, id_: str) -> float:
    """How long a task takes on its way while the pruner is at work."""
    began, now = time.monotonic(), int(time.time() * 1000)
    await store.insert([NewTask(id_, "h", queue="new")], now)
    claims = (await store.claim(ClaimRequest(1, "w", frozenset({"new"})), now)).claims
    assert [claim.task.id for claim in claims] == [id_]
    return time.monotonic() - began
