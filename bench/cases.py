"""What is measured: each case starts its own server on an empty store, and gives its figures by name.

Targets are for two cores that the load generator shares; enqueues are measured with no worker running, so that they
show the way in alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec

from bench import load, servers
from bench.client import BenchError, Connection, counts, request, wait_done
from bench.events import reading
from bench.limits import BODY, CONNECTIONS, ENQUEUE
from bench.sizes import Sizes

BATCH = 1000
READERS = 3
EVENT_TURNS = 2
BATCH_CONNECTIONS = 4
ARRAY = request("POST", "/enqueue", b"[" + b",".join([BODY] * BATCH) + b"]")
LINES = request("POST", "/enqueue", b"\n".join([BODY] * BATCH), "application/x-ndjson")

Figures = dict[str, float]


class Figure(NamedTuple):
    """A figure as it is shown, beside its `limits`. `target` is its least value, or with `at_most` its greatest."""

    title: str
    unit: str
    limits: tuple[str, ...] = ()
    target: float | None = None
    at_most: bool = False


FIGURES = {
    "single": Figure("enqueue, 1 connection", "/s", ("http_1", "sqlite_1")),
    "single_p50": Figure("  half of the answers within", "ms", ("answer_commit",)),
    "single_p99": Figure("  99 of 100 answers within", "ms"),
    "parallel": Figure("enqueue, 64 connections", "/s", ("http_64", "protocol_64", "sqlite_64"), 10_000),
    "parallel_p99": Figure("  99 of 100 answers within", "ms"),
    "parallel_cpu": Figure("  processor time a task", "us", ("http_cpu",)),
    "array": Figure("enqueue, arrays of 1,000 tasks", "/s", ("sqlite_1000",), 150_000),
    "ndjson": Figure("enqueue, 1,000 lines of NDJSON", "/s", ("sqlite_1000",), 150_000),
    "events": Figure("enqueue with 3 event readers, against none", "", (), 0.95),
    "done": Figure("POST to done, 64 connections, 64 workers", "/s", ("http_64", "sqlite_64"), 7_000),
    "done_cpu": Figure("  processor time a task", "us", ("http_cpu",)),
    "done_rss": Figure("  memory afterwards", "MB"),
    "drain": Figure("drain of waiting tasks, 64 workers", "/s", ("sqlite_64",)),
    "drain_cpu": Figure("  processor time a task", "us"),
    "pickup_p50": Figure("pick-up when idle, sent to started, p50", "ms", ("idle_commit",), 2, at_most=True),
    "pickup_p99": Figure("  p99", "ms", (), 5, at_most=True),
    "answered_p50": Figure("  answer read to started, p50", "ms", (), 1, at_most=True),
    "start": Figure("start to first 200", "s", ("http_start",), 0.6, at_most=True),
    "idle_rss": Figure("memory when idle", "MB", ("http_rss",), 60, at_most=True),
    "idle_cpu": Figure("processor when idle, of one core", "%", (), 0.2, at_most=True),
}


def single(folder: Path, sizes: Sizes) -> Figures:
    """Durable enqueues, one after the other."""
    report, _ = _enqueue(folder, load.Post(0, ENQUEUE, sizes.single, warmup=50))
    return {"single": sizes.single / report.seconds, "single_p50": report.p50, "single_p99": report.p99}


def parallel(folder: Path, sizes: Sizes) -> Figures:
    """Durable enqueues, 64 at a time, one task each."""
    plan = load.Post(0, ENQUEUE, sizes.parallel, CONNECTIONS, warmup=500)
    report, cpu_s = _enqueue(folder, plan)
    return {
        "parallel": sizes.parallel / report.seconds,
        "parallel_p99": report.p99,
        "parallel_cpu": cpu_s / (sizes.parallel + plan.warmup) * 1e6,
    }


def array(folder: Path, sizes: Sizes) -> Figures:
    """Durable enqueues of JSON arrays."""
    plan = load.Post(0, ARRAY, sizes.batches, BATCH_CONNECTIONS, warmup=4)
    return {"array": sizes.batches * BATCH / _enqueue(folder, plan, BATCH)[0].seconds}


def ndjson(folder: Path, sizes: Sizes) -> Figures:
    """Durable enqueues of lines."""
    plan = load.Post(0, LINES, sizes.batches, BATCH_CONNECTIONS, warmup=4)
    return {"ndjson": sizes.batches * BATCH / _enqueue(folder, plan, BATCH)[0].seconds}


def events(folder: Path, sizes: Sizes) -> Figures:
    """Durable enqueues in turns without and with bare readers of the live changes, each on a fresh server."""
    plan = load.Post(0, ENQUEUE, sizes.parallel, CONNECTIONS, warmup=500)
    seconds = {0: 0.0, READERS: 0.0}
    for turn, readers in enumerate((0, READERS) * EVENT_TURNS):
        place = folder / f"events{turn}"
        place.mkdir()
        seconds[readers] += _enqueue(place, plan, readers=readers)[0].seconds
    return {"events": seconds[0] / seconds[READERS]}


def done(folder: Path, sizes: Sizes) -> Figures:
    """From the first POST until the last task is done, while the same process works on them."""
    warmup = min(500, sizes.done)
    tasks = sizes.done + warmup
    with servers.busy(folder) as server:
        before = server.cpu_s()
        report = load.post(load.Post(server.port, ENQUEUE, sizes.done, CONNECTIONS, warmup, until_done=tasks))
        return {
            "done": sizes.done / report.done_seconds,
            "done_cpu": (server.cpu_s() - before) / tasks * 1e6,
            "done_rss": server.rss_mb(),
        }


def drain(folder: Path, sizes: Sizes) -> Figures:
    """A backlog that a server finds when it starts, from its first answer until all are done."""
    with servers.busy(folder, "--no-pool") as server, _connected(server) as connection:
        for _ in range(sizes.drain // BATCH):
            connection.ask(ARRAY)
    tasks = sizes.drain // BATCH * BATCH
    with servers.busy(folder) as server, _connected(server) as connection:
        done_before, cpu_before, began = counts(connection)["done"], server.cpu_s(), time.perf_counter()
        wait_done(connection, tasks)
        seconds, cpu_s = time.perf_counter() - began, server.cpu_s() - cpu_before
    if done_before == tasks:
        raise BenchError("the backlog was done before the server could be asked: make it longer")
    drained = tasks - done_before
    return {"drain": drained / seconds, "drain_cpu": cpu_s / drained * 1e6}


def pickup(folder: Path, sizes: Sizes) -> Figures:
    """How soon an idle server starts a task."""
    with servers.busy(folder) as server:
        load.pick_up(load.Pickups(server.port, 10))
        report = load.pick_up(load.Pickups(server.port, sizes.pickups))
    return {"pickup_p50": report.sent_p50, "pickup_p99": report.sent_p99, "answered_p50": report.answered_p50}


def idle(folder: Path, sizes: Sizes) -> Figures:
    """A server as it comes, without tasks."""
    with servers.jobpipe(folder) as server:
        time.sleep(0.5)  # what its start left to do
        before, began = server.cpu_s(), time.monotonic()
        time.sleep(sizes.idle_s)
        share = (server.cpu_s() - before) / (time.monotonic() - began)
        return {"start": server.started_s, "idle_rss": server.rss_mb(), "idle_cpu": share * 100}


Case = Callable[[Path, Sizes], Figures]
CASES: dict[str, Case] = {
    case.__name__: case for case in (single, parallel, array, ndjson, events, done, drain, pickup, idle)
}


def _enqueue(
    folder: Path, plan: load.Post, tasks_each: int = 1, readers: int = 0
) -> tuple[load.Posted, float]:
    """Carry the plan out against a server without workers, and see that every task is there.

    `readers` read its live changes meanwhile.

    The report, and the seconds of processor time that the server took.
    """
    with servers.busy(folder, "--no-pool") as server, _connected(server) as connection:
        before = server.cpu_s()
        with reading(server.port, readers):
            report = load.post(msgspec.structs.replace(plan, port=server.port))
        cpu_s = server.cpu_s() - before
        queued, posted = counts(connection)["queued"], (plan.count + plan.warmup) * tasks_each
        if queued != posted:
            raise BenchError(f"{posted} tasks were posted, but {queued} are queued")
        return report, cpu_s


def _connected(server: servers.Server) -> contextlib.closing[Connection]:
    return contextlib.closing(server.connection())
