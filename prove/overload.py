"""Three times what the server can do, for minutes: it says so, stays as large as it is, and forgets no heartbeat."""

from __future__ import annotations

import http.client
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence

from prove.client import Client
from prove.proof import Figure, Trial, none
from prove.servers import Server, serving, until, worker

CAPACITY = 500
WORKERS = 8
SLOW = 4
"""Long tasks on a worker elsewhere that lives by its heartbeats."""
LEASE_S = 5.0
BATCH = 20
CLIENTS = 4
MEASURE_S = 4.0
FLAGS = (
    "--queue-size", str(CAPACITY), "--workers", str(WORKERS), "--queues", "default", "--retention", "5",
    "--log-level", "WARNING",
)  # fmt: skip
RSS_SLACK = 1.1


class Offer:
    """Clients that post so many tasks a second whatever is answered; `told` counts the answers by status."""

    def __init__(self, port: int, per_s: float) -> None:
        self._port, self._per_s = port, per_s
        self._stop = threading.Event()
        self.told: Counter[int] = Counter()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]

    def __enter__(self) -> Offer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        client = Client(self._port)
        every_s = BATCH * CLIENTS / self._per_s
        following = time.monotonic()
        tasks = [{"handler": "quiet", "payload": {"seconds": 0.02}}] * BATCH
        while not self._stop.is_set():
            try:
                answer = client.ask("POST", "/enqueue", tasks)
                items = answer.json()
                self.told.update(
                    item["status"] for item in items
                ) if answer.status == 200 else self.told.update([answer.status])
            except (OSError, http.client.HTTPException):
                self.told[0] += 1
            following += every_s
            self._stop.wait(max(0.0, following - time.monotonic()))


def overload(trial: Trial) -> Sequence[Figure]:
    """Measure what it can do, offer three times as much, and watch it."""
    seconds = trial.sized(10, 60, 240)
    with serving(trial.folder, *FLAGS) as server:
        remote = worker(
            trial.folder,
            "worker",
            server.port,
            "--lease",
            str(LEASE_S),
            "--workers",
            str(SLOW),
            "--queues",
            "slow",
        )
        try:
            sustainable = _sustainable(server)
            slow = _post_slow(server, seconds)
            with Offer(server.port, 3 * sustainable) as offer:
                depths, sizes = _watch(server, seconds)
            lost = _lost(server, slow)
        finally:
            remote.stop()
    third = len(sizes) // 3
    growth = statistics.median(sizes[-third:]) / statistics.median(sizes[third : 2 * third])
    odd = sum(count for status, count in offer.told.items() if status not in (202, 503))
    return [
        Figure("sustainable", sustainable, "tasks/s"),
        Figure("offered, times that", 3),
        Figure("for", seconds, "s"),
        Figure("accepted", offer.told[202]),
        Figure("refused with 503", offer.told[503], at_least=1),
        none("other answers", odd),
        Figure("most waiting at a time", max(depths), at_most=CAPACITY + WORKERS),
        Figure("memory at the end against the middle", growth, "times", at_most=RSS_SLACK),
        Figure("  largest", max(sizes), "MB"),
        Figure("long tasks that lived by heartbeats", len(slow)),
        none("  whose lease was lost", lost),
    ]


def _sustainable(server: Server) -> float:
    """Tasks a second that a full queue takes: as many as are finished."""
    with Offer(server.port, 5_000) as offer:
        until("the queue is full", lambda: server.counts()["queued"] >= CAPACITY - BATCH)
        before, began = offer.told[202], time.monotonic()
        time.sleep(MEASURE_S)
        return (offer.told[202] - before) / (time.monotonic() - began)


def _post_slow(server: Server, seconds: float) -> list[str]:
    """Tasks of three leases each, enough for the time."""
    ids = [f"slow-{n}" for n in range(max(SLOW, int(seconds / (3 * LEASE_S)) * SLOW))]
    with server.connected() as client:
        client.post("/enqueue", [
            {"id": id_, "handler": "quiet", "queue": "slow", "payload": {"seconds": 2 * LEASE_S - 1}} for id_ in ids
        ])  # fmt: skip
    return ids


def _watch(server: Server, seconds: float) -> tuple[list[int], list[float]]:
    depths: list[int] = []
    sizes: list[float] = []
    end = time.monotonic() + seconds
    with server.connected() as client:
        while time.monotonic() < end:
            queues = {queue["queue"]: queue for queue in client.get("/queues")}
            depths.append(queues.get("default", {"queued": 0})["queued"])
            sizes.append(server.rss_mb())
            time.sleep(0.1)
    return depths, sizes


def _lost(server: Server, slow: Sequence[str]) -> int:
    """Long tasks that were begun more than once."""
    with server.connected() as client:
        return sum(client.get(f"/tasks/{id_}")["lost"] > 0 for id_ in slow)
