"""SIGTERM under load: the server leaves in time, loses nothing, and a task that was interrupted pays no attempt."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from typing import Any

from prove.journal import Journal
from prove.kills import FLAGS
from prove.load import Load
from prove.proof import Figure, Trial, none
from prove.servers import Server, ended, until

GRACE_S = 1.0
LONG_S = 4 * GRACE_S
SLACK_S = 1.0


def stops(trial: Trial) -> Sequence[Figure]:
    """Stop and start again and again while clients post tasks shorter and longer than the grace."""
    source, journal = trial.source(), Journal(trial.folder / "acknowledged")
    count = trial.sized(3, 15, 50)
    took: list[float] = []
    codes: list[int] = []
    left_running = 0
    flags = (*FLAGS, "--shutdown-grace", str(GRACE_S), "--retry-base", "0")
    server = Server(trial.folder, *flags).up()
    with (
        ended(server),
        Load(server.port, journal, trial.source("load"), _make, clients=2, batch=5, pause_s=0.15) as load,
    ):
        for _ in range(count):
            time.sleep(source.uniform(0.3, 1.5))
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            codes.append(server.process.wait(60))
            took.append(time.monotonic() - began)
            server = server.again().up()
            left_running += _interrupted(server)
    with ended(server):
        until("all tasks are at an end", lambda: _unfinished(server) == 0, 300, pause_s=0.1)
        with server.connected() as client:
            tasks = list(client.tasks())
        server.stop()
    there = {task["id"] for task in tasks}
    return [
        Figure("SIGTERMs", count),
        Figure("acknowledged", len(journal.ids)),
        none("lost", len(journal.ids - there)),
        none("burnt attempts", sum(task["attempts"] != 1 for task in tasks)),
        none("ended other than done", sum(task["status"] != "done" for task in tasks)),
        none("exit codes other than 0", sum(code != 0 for code in codes)),
        Figure("from signal to exit, longest", max(took), "s", at_most=GRACE_S + SLACK_S),
        none("workers counted as lost by a stop", left_running),
        none("answers that no client should get", len(load.odd)),
    ]


def _make(source: random.Random, id_: str) -> dict[str, Any]:
    seconds = source.choice([0, 0.05, 0.3, LONG_S]) if source.random() < 0.4 else 0.01
    return {"id": id_, "handler": source.choice(["work", "thread"]), "payload": {"seconds": seconds}}


def _interrupted(server: Server) -> int:
    """Tasks with a lost worker: a stop that went well leaves none behind."""
    with server.connected() as client:
        return sum(task["lost"] > 0 for task in client.get("/tasks?status=queued&limit=1000"))


def _unfinished(server: Server) -> int:
    counts = server.counts()
    return counts["queued"] + counts["running"]
