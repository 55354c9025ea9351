"""`python -m bench.far`: what a server does whose PostgreSQL is far away, by milliseconds each way.

A proxy before one cluster delays what goes through it; each distance has a server and a database of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from prove.cluster import Cluster, missing, running
from prove.distance import far_from

from bench import load, servers
from bench.client import counts, request, wait_done
from bench.limits import CONNECTIONS, ENQUEUE
from bench.report import machine
from jobpipe.storage import open_storage

WAIT_S = 120.0
SIZE = ("--queue-size", str(servers.QUEUE_SIZE))
COLUMNS = {
    "start": "start, s",
    "single": "enqueue, 1 connection, /s",
    "enqueue": f"enqueue, {CONNECTIONS} connections, /s",
    "listing": "listing, ms",
    "claim": "claimed and settled by one worker, /s",
    "stop": "stop, s",
}

Figures = dict[str, float]


def measure(cluster: Cluster, ms: float, tasks: int) -> Figures:
    """All figures of one distance."""
    name = f"far_{ms:g}".replace(".", "_")
    cluster.run(f"CREATE DATABASE {name}")
    asyncio.run(_migrated(cluster.url(name)))
    with (
        far_from(cluster.port, ms / 1000) as distance,
        tempfile.TemporaryDirectory(prefix="jobpipe-far-") as folder,
    ):
        store = f"{cluster.url(name, port=distance.port)}?sslmode=disable"
        return _enqueued(Path(folder), store, tasks) | _worked(Path(folder), store, tasks)


async def _migrated(url: str) -> None:
    """A start after the first one is what a distance is to be measured by."""
    store = open_storage(url)
    await store.open()
    await store.close()


def _enqueued(folder: Path, store: str, tasks: int) -> Figures:
    figures: Figures = {}
    with _timed(figures, "stop"), servers.jobpipe(folder, "--no-pool", *SIZE, store=store) as server:
        figures["start"] = server.started_s
        singles = max(4, tasks // CONNECTIONS)
        for name, connections, count in (("single", 1, singles), ("enqueue", CONNECTIONS, tasks)):
            report = load.post(load.Post(server.port, ENQUEUE, count, connections, warmup=connections))
            figures[name] = count / report.seconds
        with contextlib.closing(server.connection()) as connection:
            took = []
            for _ in range(5):
                began = time.perf_counter()
                connection.ask(request("GET", "/tasks?limit=100"))
                took.append((time.perf_counter() - began) * 1000)
            figures["listing"] = median(took)
        figures["stop"] = time.perf_counter()
    return figures


@contextlib.contextmanager
def _timed(figures: Figures, name: str) -> Iterator[None]:
    """What is noted as a moment becomes the seconds since then."""
    yield
    figures[name] = time.perf_counter() - figures[name]


def _worked(folder: Path, store: str, tasks: int) -> Figures:
    flags = (*SIZE, "--workers", str(servers.WORKERS), "--processes", "0")
    with (
        servers.jobpipe(folder, *flags, app="bench.app:app", store=store) as server,
        contextlib.closing(server.connection()) as connection,
    ):
        before, began = counts(connection)["done"], time.perf_counter()
        wait_done(connection, tasks, WAIT_S)
        took, done = time.perf_counter() - began, counts(connection)["done"]
    return {"claim": (done - before) / took}


def main() -> int:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.far", description=__doc__)
    parser.add_argument(
        "--ms", type=float, action="append", help="each way; may be repeated (0.1, 5, 60, 200)"
    )
    parser.add_argument("--tasks", type=int, default=0, help="a distance (by what it lets through)")
    arguments = parser.parse_args()
    lacking = missing()
    if lacking is not None:
        print(lacking, file=sys.stderr)
        return 1
    print(", ".join(f"{name} {value}" for name, value in machine().items()), end="\n\n")
    print("| each way, ms | " + " | ".join(COLUMNS.values()) + " |\n|---:|" + "---:|" * len(COLUMNS))
    with running(in_memory=True) as cluster:
        for ms in arguments.ms or (0.1, 5, 60, 200):
            tasks = arguments.tasks or max(CONNECTIONS * 20, min(20_000, round(CONNECTIONS * 2_500 / ms)))
            figures = measure(cluster, ms, tasks)
            print(f"| {ms:g} | " + " | ".join(_shown(figures[name]) for name in COLUMNS) + " |", flush=True)
    return 0


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
