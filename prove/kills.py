"""SIGKILL at random moments under load, of servers and workers: nothing acknowledged is lost, nothing is stuck."""

from __future__ import annotations

import contextlib
import random
import signal
import statistics
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from prove.checker import Begun, books, by_task, runs
from prove.client import Client
from prove.journal import Journal
from prove.load import Load
from prove.proof import Broken, Figure, Trial, none
from prove.servers import Program, Server, ended, serving, until, worker

LEASE_S = 5.0
"""The shortest lease that may be asked for."""
SETTLED_S = 120.0
FLAGS = ("--queue-size", "1000000", "--workers", "16", "--retention", "inf", "--retention-failed", "inf")
BACKOFF_S = 0.5
"""The longest delay before the second and third attempt of a task that lost its worker, jitter included."""
RUN_S = 0.3
"""The longest task of `make`: a worker may be killed at its end, and the lease begins to run out then."""
LATE_S = 2.0
"""How late a busy machine may be."""
BOUND_S = RUN_S + LEASE_S + BACKOFF_S + LATE_S


def make(source: random.Random, id_: str) -> dict[str, Any]:
    """A mixture: short and longer tasks, on the loop and in threads, some that fail at first."""
    handler = source.choice(["work", "work", "thread", "flaky"])
    seconds = source.choice([0, 0, 0, 0.05, 0.3])
    payload = {} if handler == "flaky" else {"seconds": seconds}
    return {"id": id_, "handler": handler, "payload": payload, "priority": source.randint(-1, 1)}


def server_kills(trial: Trial) -> Sequence[Figure]:
    """Kill the server again and again while clients post; compare with the journal of what they were told."""
    source, journal = trial.source(), Journal(trial.folder / "acknowledged")
    kills = trial.sized(3, 25, 100)
    recoveries: list[float] = []
    gone_after_start = 0
    server = Server(trial.folder, *FLAGS).up()
    with Load(server.port, journal, trial.source("load"), make, clients=4, pause_s=0.02) as load:
        for _ in range(kills):
            until("something is acknowledged", _grows(journal))
            time.sleep(source.uniform(0.05, 1.2))
            known = source.sample(sorted(journal.ids), min(20, len(journal.ids)))
            server.kill()
            server = server.again().up()
            recoveries.append(time.monotonic() - server.began)
            gone_after_start += _missing(server, known)
    with ended(server):
        _all_ended(server)
        with server.connected() as client:
            found = books(journal.ids, client.tasks(), runs(server.runs))
        server.stop()
    return [
        Figure("kills of the server", kills),
        Figure("acknowledged", len(journal.ids)),
        none("missing right after a start", gone_after_start),
        *found.figures(),
        none("answers that no client should get", len(load.odd)),
        Figure("start to first answer, median", statistics.median(recoveries), "s"),
        Figure("  longest", max(recoveries), "s"),
    ]


def worker_kills(trial: Trial) -> Sequence[Figure]:
    """Kill worker processes, the server's own and remote ones with their parents; interrupted tasks go on in time."""
    source, journal = trial.source(), Journal(trial.folder / "acknowledged")
    kills = trial.sized(3, 25, 100)
    with serving(trial.folder, *FLAGS, "--processes", "2") as server:
        remote = _remote(trial, server)
        try:
            with Load(
                server.port, journal, trial.source("load"), make, clients=2, batch=5, pause_s=0.1
            ) as load:
                for number in range(kills):
                    until("workers work since the last kill", _grows_file(server.runs))
                    time.sleep(source.uniform(0.2, 1.0))
                    if number % 5 == 4:
                        remote.kill()
                        remote = _remote(trial, server)
                    else:
                        _kill_one(source, [*server.children(), *remote.children()])
            _all_ended(server)
            with server.connected() as client:
                tasks = list(client.tasks())
                begun = runs(server.runs)
                waits = [_rescued(client, run) for run in _interrupted(begun)]
            alive = server.alive()
        finally:
            remote.stop()
    return [
        Figure("kills of workers", kills),
        Figure("acknowledged", len(journal.ids)),
        *books(journal.ids, tasks, begun).figures(),
        Figure("runs that were interrupted", len(waits)),
        Figure(
            "from their begin until the task waits again, longest",
            max(waits, default=0),
            "s",
            at_most=BOUND_S,
        ),
        none("answers that no client should get", len(load.odd)),
        none("server restarts", not alive),
    ]


def no_faults(trial: Trial) -> Sequence[Figure]:
    """Without faults each task runs as often as its books say, and those that do not fail run once."""
    journal = Journal(trial.folder / "acknowledged")
    target = trial.sized(1_000, 10_000, 50_000)
    with serving(trial.folder, *FLAGS, "--processes", "2") as server:
        with Load(server.port, journal, trial.source("load"), _instant, clients=4, batch=100):
            until("enough is acknowledged", lambda: len(journal.ids) >= target, 600)
        _all_ended(server)
        with server.connected() as client:
            tasks = list(client.tasks())
        begun = runs(server.runs)
    once = {task["id"] for task in tasks if task["handler"] != "flaky"}
    twice = [id_ for id_, ran in by_task(begun).items() if id_ in once and len(ran) > 1]
    return [
        Figure("acknowledged", len(journal.ids)),
        Figure("runs", len(begun)),
        none("tasks run twice", len(twice)),
        *books(journal.ids, tasks, begun).figures(),
    ]


def _instant(source: random.Random, id_: str) -> dict[str, Any]:
    return {"id": id_, "handler": source.choice(["work", "work", "thread", "flaky"])}


def _remote(trial: Trial, server: Server) -> Program:
    return worker(
        trial.folder, "worker", server.port, "--lease", str(LEASE_S), "--workers", "8", "--processes", "2"
    )


def _kill_one(source: random.Random, processes: list[psutil.Process]) -> None:
    """SIGKILL one of them, unless it ended by itself."""
    if processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            source.choice(sorted(processes, key=lambda process: process.pid)).send_signal(signal.SIGKILL)


def _grows(journal: Journal) -> Any:
    before = len(journal.ids)
    return lambda: len(journal.ids) > before


def _grows_file(path: Path) -> Any:
    before = path.stat().st_size if path.exists() else 0
    return lambda: path.exists() and path.stat().st_size > before


def _missing(server: Server, ids: Sequence[str]) -> int:
    with server.connected() as client:
        return sum(client.ask("GET", f"/tasks/{id_}").status != 200 for id_ in ids)


def _all_ended(server: Server) -> None:
    """Wait until no task is left. A backlog may take its time; one that does not shrink for a while is stuck."""
    left, since = _left(server), time.monotonic()
    while left:
        if time.monotonic() - since > SETTLED_S:
            raise Broken(f"{left} tasks are at no end, and none came to one within {SETTLED_S:g} s")
        time.sleep(0.1)
        now = _left(server)
        if now < left:
            left, since = now, time.monotonic()


def _left(server: Server) -> int:
    counts = server.counts()
    return counts["queued"] + counts["running"]


def _interrupted(begun: Sequence[Begun]) -> list[Begun]:
    """The runs that did not come to their end, while their task did."""
    return [run for ran in by_task(begun).values() for run in ran[:-1] if run.ended is None]


def _rescued(client: Client, run: Begun) -> float:
    """Seconds from the begin of an interrupted run until its task could be claimed again, its backoff included.

    When a worker takes it is another matter: the test leaves few of them alive.
    """
    for attempt in client.get(f"/tasks/{run.task}/attempts"):
        if attempt["attempt"] == run.attempt and attempt["outcome"] == "lost":
            ended = datetime.fromisoformat(attempt["ended_at"]).timestamp()
            return ended - run.at / 1000 + BACKOFF_S
    raise Broken(f"attempt {run.attempt} of {run.task} was interrupted, and its history does not say so")
