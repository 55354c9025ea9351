"""Many servers on one PostgreSQL: together they are one queue, and somebody's open snapshot slows no claim."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence

import asyncpg

from prove.client import connected
from prove.cluster import Cluster, elsewhere, running
from prove.fleet import Fleet, fleet
from prove.proof import Figure, Trial, none
from prove.servers import Server

BATCH = 500
FLOOR_S = 0.02
"""Below so many seconds a p99 is this machine's scheduler, not the database."""
DUPLICATES = """
SELECT count(*) FROM (SELECT id FROM (SELECT id FROM jobpipe.tasks UNION ALL SELECT id FROM jobpipe.finished) every
                       GROUP BY id HAVING count(*) > 1) twice
"""
MISCOUNTED = """
SELECT count(*) FROM (
    SELECT queue, status, sum(n) AS n FROM (
        SELECT queue, status, n FROM jobpipe.counts
        UNION ALL SELECT queue, status, -1 FROM jobpipe.tasks
        UNION ALL SELECT queue, status, -1 FROM jobpipe.finished) every
     GROUP BY queue, status HAVING sum(n) <> 0) off
"""


def sound(cluster: Cluster, servers: Fleet) -> list[Figure]:
    """What must be true of the database, and of the servers, whatever was done to them."""
    return [
        none("ids that two tasks have", cluster.run(DUPLICATES)[0][0]),
        none("kept counts that are off", cluster.run(MISCOUNTED)[0][0]),
        none("servers crashed", servers.fallen()),
    ]


def once(trial: Trial) -> Sequence[Figure]:
    """Three servers and three workers, no faults: every task runs once."""
    count = trial.sized(2_000, 20_000, 20_000)
    ids = [f"t{n}" for n in range(count)]
    with running() as cluster, fleet(trial.folder, cluster.url()) as whole:
        began = time.monotonic()
        for number, at in enumerate(range(0, count, BATCH)):
            with whole.servers[number % 3].connected() as client:
                client.post("/enqueue", [{"id": id_, "handler": "work"} for id_ in ids[at : at + BATCH]])
        whole.all_ended(600)
        took = time.monotonic() - began
        begun = whole.begun()
        ran = Counter(run.task for run in begun)
        pids = {run.pid for run in begun}
        figures = sound(cluster, whole)
        done = whole.counts()["done"]
    return [
        Figure("tasks", count),
        none("not run", sum(ran[id_] == 0 for id_ in ids)),
        none("run more than once", sum(n > 1 for n in ran.values())),
        none("not done", count - done),
        *figures,
        Figure("worker processes that had a part", len(pids), at_least=3),
        Figure("from the first to the last", took, "s"),
    ]


def pinned(trial: Trial) -> Sequence[Figure]:
    """Claims while a snapshot is held open, so that nothing can be vacuumed: the last are as fast as the first."""
    seconds = trial.sized(20, 120, 600)
    window = trial.sized(5, 30, 60)
    with running() as cluster, fleet(trial.folder, cluster.url(), servers=2, workers=0) as whole:
        holder = elsewhere(_hold(cluster))
        began = time.monotonic()
        claims: list[tuple[float, float]] = []
        threads = [
            threading.Thread(target=_work, args=(server, n, began + seconds, claims), daemon=True)
            for n, server in enumerate(whole.servers)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        dead = cluster.run("SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'tasks'")[0][0]
        elsewhere(holder.close())
        figures = sound(cluster, whole)
    first = _p99(took for at, took in claims if at - began < window)
    last = _p99(took for at, took in claims if at - began > seconds - window)
    return [
        Figure("seconds with the snapshot", seconds, "s"),
        Figure("claims", len(claims)),
        Figure("rows that could not be vacuumed", dead),
        Figure("claim p99, first", first * 1000, "ms"),
        Figure("claim p99, last", last * 1000, "ms"),
        Figure("  last to first", max(last, FLOOR_S) / max(first, FLOOR_S), at_most=2.0),
        *figures,
    ]


async def _hold(cluster: Cluster) -> asyncpg.Connection[asyncpg.Record]:
    connection = await asyncpg.connect(cluster.url())
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM jobpipe.tasks")
    return connection


def _work(server: Server, name: int, until: float, claims: list[tuple[float, float]]) -> None:
    """Enqueue, claim and settle in turns, as fast as it goes; note when each claim began and how long it took."""
    with connected(server.port) as client:
        for turn in itertools.count():
            if (began := time.monotonic()) > until:
                return
            client.post("/enqueue", [{"id": f"w{name}-{turn}-{n}"} for n in range(20)])
            began = time.monotonic()
            leased = client.post("/lease", {"worker_id": f"w{name}", "max": 20})["tasks"]
            claims.append((began, time.monotonic() - began))
            client.post(
                "/settle",
                [{"id": task["id"], "lease_id": task["lease_id"], "outcome": "done"} for task in leased],
            )


def _p99(times: Iterable[float]) -> float:
    return statistics.quantiles(times, n=100)[98]
