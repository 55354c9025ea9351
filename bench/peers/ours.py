"""Jobpipe measured as its peers are: one server process, its tasks run by its own worker process or in the server."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from bench import load, servers, wrk
from bench.cases import ARRAY, BATCH, BATCH_CONNECTIONS
from bench.client import BenchError, counts, request, wait_done
from bench.limits import BODY, CONNECTIONS, ENQUEUE
from bench.peers.install import ROOT
from bench.peers.measure import BATCHES, PICKUPS, PROGRAM_S, Figures
from bench.peers.services import Service, rss_mb

TASKS = 40_000
BACKLOG = 100_000
POST_S = 2
WARM_S = 1
BACKLOG_IN_S = 4.0
"""Posting the backlog must take less: it is due at one moment, as one that waited for its worker."""
DURABLE = {
    "file": "on disk: committed and synced (SQLite, synchronous FULL)",
    "memory": "nothing: in the server's memory",
    "postgres": "committed to PostgreSQL",
}


def measure(store: str, service: Service | None, scale: float, processes: int = 1) -> Figures:
    """All figures of Jobpipe on a `store`: file, memory or postgres. `processes` 0 runs the handler in the server."""
    tasks = max(1000, round(TASKS * scale / 1000) * 1000)
    figures: Figures = {}
    with _server(store, service, "--no-pool") as server:
        figures["enqueue"] = _enqueue(server, tasks)
    with _server(store, service, "--no-pool") as server:
        batches = max(4, round(BATCHES * scale))
        plan = load.Post(server.port, ARRAY, batches, BATCH_CONNECTIONS, warmup=4)
        figures["batch"] = batches * BATCH / load.post(plan).seconds
    working = ("--processes", str(processes))
    with _server(store, service, *working) as server:
        figures |= _drain(server, service, max(2, round(BACKLOG * scale / BATCH)), processes)
    with _server(store, service, *working) as server:
        figures["through"] = _through(server, tasks)
    with _server(store, service, *working) as server:
        load.pick_up(load.Pickups(server.port, 10))
        report = load.pick_up(load.Pickups(server.port, max(20, round(PICKUPS * scale))))
        figures |= {"pickup_p50": report.sent_p50, "pickup_p99": report.sent_p99}
    return figures


def measure_client(store: str, when: str, scale: float) -> Figures:
    """What one Python program gets through with our own client: single tasks, and for many at a time batches."""
    program = [sys.executable, "-m", "bench.clients", "--json", "--rounds", "1", "--store", store]
    cases = {"enqueue": f"typed, {when}"} | ({"batch": "in batches"} if when != "one after the other" else {})
    words = [*program, "--scale", str(scale), *(word for name in cases.values() for word in ("--only", name))]
    done = subprocess.run(words, capture_output=True, timeout=PROGRAM_S, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise BenchError(f"our client: {done.stderr.decode(errors='replace').strip()[-400:]}")
    rates = json.loads(done.stdout)
    return {key: rates[name][0] for key, name in cases.items()}


def generator() -> str:
    """What makes the load of single tasks."""
    return "wrk" if wrk.installed() else "a Python program"


def _enqueue(server: servers.Server, tasks: int) -> float:
    if not wrk.installed():
        return tasks / load.post(load.Post(server.port, ENQUEUE, tasks, CONNECTIONS, warmup=500)).seconds
    wrk.post(server.port, "/enqueue", BODY, CONNECTIONS, WARM_S)
    answered = wrk.post(server.port, "/enqueue", BODY, CONNECTIONS, POST_S)
    return answered.requests / answered.seconds


def _through(server: servers.Server, tasks: int) -> float:
    """From the first POST until the last task is done, the server's start out of the way."""
    with contextlib.closing(server.connection()) as connection:
        if not wrk.installed():
            plan = load.Post(server.port, ENQUEUE, tasks, CONNECTIONS, warmup=500, until_done=tasks + 500)
            return tasks / load.post(plan).done_seconds
        wrk.post(server.port, "/enqueue", BODY, CONNECTIONS, WARM_S)
        before = sum(counts(connection).values())
        wait_done(connection, before)
        began = time.perf_counter()
        wrk.post(server.port, "/enqueue", BODY, CONNECTIONS, POST_S)
        posted = sum(counts(connection).values())
        wait_done(connection, posted)
        return (posted - before) / (time.perf_counter() - began)


def _drain(server: servers.Server, service: Service | None, batches: int, processes: int) -> Figures:
    """A backlog that is due at one moment, worked off by one process."""
    due = datetime.now(UTC) + timedelta(seconds=BACKLOG_IN_S)
    task = BODY[:-1] + b',"run_at":"%b"}' % due.isoformat().encode()
    array = request("POST", "/enqueue", b"[" + b",".join([task] * BATCH) + b"]")
    with contextlib.closing(server.connection()) as connection:
        for _ in range(batches):
            connection.ask(array)
        if datetime.now(UTC) >= due:
            raise BenchError(f"posting the backlog took more than {BACKLOG_IN_S:g} s")
        wait_done(connection, 1)
        began, done = time.perf_counter(), counts(connection)["done"]
        wait_done(connection, batches * BATCH)
        seconds = time.perf_counter() - began
    server_mb = server.rss_mb() + (service.rss_mb() if service else 0.0)
    workers = [rss_mb(child.pid) for child in psutil.Process(server.pid).children()]
    return {
        "drain": (batches * BATCH - done) / seconds,
        "worker_mb": sum(workers) if processes else 0.0,
        "service_mb": server_mb,
    }


@contextlib.contextmanager
def _server(store: str, service: Service | None, *flags: str) -> Iterator[servers.Server]:
    with tempfile.TemporaryDirectory(prefix="jobpipe-peers-") as name:
        urls = {"file": f"sqlite:///{name}/jobpipe.db", "memory": "memory:"}
        url = urls[store] if service is None else service.fresh()
        sizes = ["--workers", str(servers.WORKERS), "--queue-size", str(servers.QUEUE_SIZE)]
        with servers.jobpipe(Path(name), *sizes, *flags, app="bench.app:app", store=url) as server:
            yield server
