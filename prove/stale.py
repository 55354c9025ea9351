"""Stale workers: stopped for three leases while others finish their tasks, then woken. They change nothing."""

from __future__ import annotations

import contextlib
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import psutil

from prove.client import Client
from prove.proof import Figure, Trial, none
from prove.servers import Program, Server, serving, until, worker

LEASE_S = 5.0
LEASES = 3
TASKS = 16
TASK_S = 6.0
"""Long enough that the first still run when the last worker process has come up, also on a busy machine."""
OUTCOMES: tuple[dict[str, Any], ...] = (
    {"outcome": "done", "result": "stale"},
    {"outcome": "failed", "error": {"type": "Stale", "message": "stale"}, "retryable": False},
    {"outcome": "failed", "error": {"type": "Stale", "message": "stale"}},
    {"outcome": "timed_out"},
    {"outcome": "released"},
)


def stale(trial: Trial) -> Sequence[Figure]:
    """Real worker processes, stopped and woken; and beside them every outcome by hand over the lease API."""
    found: Counter[str] = Counter()
    with serving(trial.folder, "--no-pool", "--queue-size", "100000", "--retention", "inf") as server:
        for number in range(trial.sized(1, 3, 10)):
            _round(trial, server, number, found)
        _by_hand(server, trial.sized(100, 500, 2_000), found)
    return [
        Figure("workers stopped for three leases", found["stopped"]),
        Figure("tasks taken over meanwhile", found["taken over"], at_least=1),
        none("of these changed after the wake", found["changed"]),
        Figure("stale settles by hand", found["by hand"]),
        none("of these accepted", found["accepted"]),
        none("tasks that they changed", found["changed by hand"]),
    ]


def _round(trial: Trial, server: Server, number: int, found: Counter[str]) -> None:
    flags = ("--lease", str(LEASE_S), "--workers", str(TASKS), "--processes", "2")
    first = worker(trial.folder, f"first-{number}", server.port, *flags)
    ids = [f"s{number}-{n}" for n in range(TASKS)]
    with _ending(first), server.connected() as client:
        tasks = [{"id": id_, "handler": "work", "payload": {"seconds": TASK_S}} for id_ in ids]
        client.post("/enqueue", tasks)
        until("all run", lambda: server.counts()["running"] == TASKS)
        frozen = [psutil.Process(first.process.pid), *first.children()]
        _signal(frozen, signal.SIGSTOP)
        stopped_at = time.monotonic()
        second = worker(trial.folder, f"second-{number}", server.port, *flags)
        with _ending(second):
            until("others finished them", lambda: server.counts()["running"] + server.counts()["queued"] == 0)
        until("three leases are over", lambda: time.monotonic() - stopped_at > LEASES * LEASE_S)
        before = _tasks(client, ids)
        _signal(frozen, signal.SIGCONT)
        client.post("/enqueue", {"id": f"probe-{number}", "handler": "work"})
        until(
            "the woken worker works again", lambda: client.get(f"/tasks/probe-{number}")["status"] == "done"
        )
        time.sleep(LEASE_S)  # whatever it still had to say, it has said by now
        after = _tasks(client, ids)
    found["stopped"] += 1
    found["taken over"] += sum(task["lost"] == 1 and task["status"] == "done" for task in before)
    found["changed"] += sum(old != new for old, new in zip(before, after, strict=True))


def _by_hand(server: Server, count: int, found: Counter[str]) -> None:
    """The second holder has settled half of the tasks, and still runs the other half."""
    with server.connected() as client:
        for at in range(0, count, 1000):
            client.post(
                "/enqueue", [{"id": f"h{n}", "queue": "hand"} for n in range(at, min(at + 1000, count))]
            )
        old = _leased(client, count, "stale")
        until(
            "their leases are over",
            lambda: client.get("/queues") and server.counts()["queued"] == count,
            pause_s=0.2,
        )
        new = _leased(client, count, "fresh")
        half = [
            {"id": id_, "lease_id": new[id_], "outcome": "done", "result": "fresh"} for id_ in list(new)[::2]
        ]
        client.post("/settle", half)
        before = _tasks(client, list(new))
        for outcome in OUTCOMES:
            answers = client.post(
                "/settle", [{"id": id_, "lease_id": lease, **outcome} for id_, lease in old.items()]
            )
            found["by hand"] += len(answers)
            found["accepted"] += sum(answer["accepted"] for answer in answers)
        after = _tasks(client, list(new))
        found["changed by hand"] += sum(one != other for one, other in zip(before, after, strict=True))
        client.post(
            "/settle", [{"id": id_, "lease_id": lease, "outcome": "done"} for id_, lease in new.items()]
        )


def _leased(client: Client, count: int, name: str) -> dict[str, str]:
    """Lease ids of `count` tasks by their id."""
    leases: dict[str, str] = {}
    while len(leases) < count:
        wanted = {"worker_id": name, "queues": ["hand"], "max": 1000, "lease": LEASE_S, "wait": 10}
        leases |= {task["id"]: task["lease_id"] for task in client.post("/lease", wanted)["tasks"]}
    return leases


def _tasks(client: Client, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [client.get(f"/tasks/{id_}") for id_ in ids]


def _signal(processes: Sequence[psutil.Process], number: int) -> None:
    for process in processes:
        process.send_signal(number)


@contextlib.contextmanager
def _ending(program: Program) -> Any:
    """Stop it at the end, also when it sleeps."""
    try:
        yield
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            program.process.send_signal(signal.SIGCONT)
        if program.alive():
            program.stop()
