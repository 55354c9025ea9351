"""Measuring one peer: its producer and its worker are processes of their own, and tell moments of one shared clock."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from bench.client import BenchError
from bench.load import percentile
from bench.peers.install import command, environment
from bench.peers.services import Service
from bench.peers.systems import Peer

BATCH = 1000
BATCHES = 20
PICKUPS = 100
PROGRAM_S = 120.0

Figures = dict[str, float]


def measure(peer: Peer, service: Service, scale: float) -> Figures:
    """All figures of a peer, each on an empty store. `scale` shortens (or lengthens) what is done."""
    tasks = max(200, round(peer.tasks * scale))
    figures = _enqueue_and_drain(peer, service, tasks)
    if peer.batches:
        figures |= _batches(peer, service, max(1, round(BATCHES * scale)))
    return figures | _through(peer, service, tasks) | _pickups(peer, service, max(20, round(PICKUPS * scale)))


def _enqueue_and_drain(peer: Peer, service: Service, tasks: int) -> Figures:
    """Single enqueues without a worker, then one worker process for what waits."""
    url = _fresh(peer, service)
    sent = _produce(peer, url, "produce", tasks + 1)  # the first one only warms the worker up
    with _Worker(peer, url, tasks) as worker:
        began = worker.wait_warm()
        report = worker.wait_report()
    return {
        "enqueue": (tasks + 1) / _seconds(sent),
        "drain": tasks / ((report["last"] - began) / 1e9),
        "worker_mb": report["rss_mb"],
        "service_mb": service.rss_mb(),
    }


def _batches(peer: Peer, service: Service, batches: int) -> Figures:
    url = _fresh(peer, service)
    sent = _produce(peer, url, "batch", batches * BATCH, BATCH)
    return {"batch": batches * BATCH / _seconds(sent)}


def _through(peer: Peer, service: Service, tasks: int) -> Figures:
    """From the first enqueue until the last task was run, producer and worker side by side."""
    url = _fresh(peer, service)
    _produce(peer, url, "produce", 1)
    with _Worker(peer, url, tasks) as worker:
        worker.wait_warm()
        sent = _produce(peer, url, "produce", tasks)
        report = worker.wait_report()
    return {"through": tasks / ((report["last"] - sent["began"]) / 1e9)}


def _pickups(peer: Peer, service: Service, tasks: int) -> Figures:
    """How soon an idle worker starts a task, from before it is sent."""
    url = _fresh(peer, service)
    _produce(peer, url, "produce", 1)
    with _Worker(peer, url, tasks) as worker:
        worker.wait_warm()
        _produce(peer, url, "paced", tasks)
        latencies = sorted(worker.wait_report()["latencies"])
    return {"pickup_p50": percentile(latencies, 0.5), "pickup_p99": percentile(latencies, 0.99)}


def _fresh(peer: Peer, service: Service) -> str:
    url = service.fresh()
    if peer.service == "postgres":
        _run(peer, url, "setup", "0")
    return url


def _produce(peer: Peer, url: str, what: str, *numbers: int) -> dict[str, Any]:
    lines = _run(peer, url, what, *map(str, numbers)).decode().strip().splitlines()
    sent: dict[str, Any] = json.loads(lines[-1])
    return sent


def _seconds(sent: dict[str, Any]) -> float:
    return float(sent["ended"] - sent["began"]) / 1e9


def _run(peer: Peer, url: str, *arguments: str) -> bytes:
    done = subprocess.run(
        command(peer, *arguments),
        env=environment(peer, url, 0),
        capture_output=True,
        timeout=PROGRAM_S,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"{peer.name} {arguments[0]}: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return done.stdout


class _Worker:
    """A worker process: it says when its first task ran, and reports after its last one."""

    def __init__(self, peer: Peer, url: str, tasks: int) -> None:
        self._peer = peer
        self._process = subprocess.Popen(
            command(peer, "work", str(tasks)),
            env=environment(peer, url, tasks),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def wait_warm(self) -> float:
        """The moment at which its first task ran, in nanoseconds of the monotonic clock."""
        return float(self._line(lambda line: line.startswith("warm")).split()[1])

    def wait_report(self) -> dict[str, Any]:
        """What it reports at the end."""
        report: dict[str, Any] = json.loads(self._line(lambda line: line.startswith("{")))
        return report

    def _line(self, wanted: Callable[[str], bool]) -> str:
        timer = threading.Timer(PROGRAM_S, self._process.kill)
        timer.start()
        try:
            for line in self._process.stdout or ():
                if wanted(text := line.decode(errors="replace")):
                    return text
        finally:
            timer.cancel()
        raise BenchError(
            f"the worker of {self._peer.name} ended before its tasks did, or took over {PROGRAM_S:g} s"
        )
