"""Jobpipe measured as its peers are: one server process, its tasks run by one worker process of its own."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench import load, servers
from bench.cases import ARRAY, BATCH, BATCH_CONNECTIONS
from bench.client import counts, wait_done
from bench.limits import CONNECTIONS, ENQUEUE
from bench.peers.measure import BATCHES, PICKUPS, Figures
from bench.peers.services import Service, rss_mb

TASKS = 20_000
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
        plan = load.Post(server.port, ENQUEUE, tasks, CONNECTIONS, warmup=500)
        figures["enqueue"] = tasks / load.post(plan).seconds
    with _server(store, service, "--no-pool") as server:
        batches = max(4, round(BATCHES * scale))
        plan = load.Post(server.port, ARRAY, batches, BATCH_CONNECTIONS, warmup=4)
        figures["batch"] = batches * BATCH / load.post(plan).seconds
    figures |= _drain(store, service, tasks)
    with _server(store, service, "--processes", str(processes)) as server:
        plan = load.Post(server.port, ENQUEUE, tasks, CONNECTIONS, warmup=500, until_done=tasks + 500)
        figures["through"] = tasks / load.post(plan).done_seconds
    with _server(store, service, "--processes", str(processes)) as server:
        load.pick_up(load.Pickups(server.port, 10))
        report = load.pick_up(load.Pickups(server.port, max(20, round(PICKUPS * scale))))
        figures |= {"pickup_p50": report.sent_p50, "pickup_p99": report.sent_p99}
    return figures


def _drain(store: str, service: Service | None, tasks: int) -> Figures:
    """A backlog worked off by a worker process that is started beside the server, as a peer's is."""
    with (
        _server(store, service, "--no-pool") as server,
        contextlib.closing(server.connection()) as connection,
    ):
        for _ in range(tasks // BATCH):
            connection.ask(ARRAY)
        with servers.worker(server) as worker:
            wait_done(connection, 1)
            began, done = time.perf_counter(), counts(connection)["done"]
            wait_done(connection, tasks)
            seconds = time.perf_counter() - began
            return {
                "drain": (tasks - done) / seconds,
                "worker_mb": rss_mb(worker.pid),
                "service_mb": server.rss_mb() + (service.rss_mb() if service else 0.0),
            }


@contextlib.contextmanager
def _server(store: str, service: Service | None, *flags: str) -> Iterator[servers.Server]:
    with tempfile.TemporaryDirectory(prefix="jobpipe-peers-") as name:
        urls = {"file": f"sqlite:///{name}/jobpipe.db", "memory": "memory:"}
        url = urls[store] if service is None else service.fresh()
        sizes = ["--workers", str(servers.WORKERS), "--queue-size", str(servers.QUEUE_SIZE)]
        with servers.jobpipe(Path(name), *sizes, *flags, app="bench.app:app", store=url) as server:
            yield server
