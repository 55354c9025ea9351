"""What can happen to a database under many servers, made to happen under load; then the books must still be right.

Kills of a server and of the postmaster, ended backends, connections cut inside a commit on either side of it,
somebody's open transaction, a locked table.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import asyncpg

from prove.checker import books
from prove.cluster import Cluster, elsewhere, running
from prove.fleet import Fleet, Pulse, fleet
from prove.journal import Journal
from prove.load import Load
from prove.postgres import sound
from prove.proof import Figure, Trial, none
from prove.servers import until
from prove.wirecut import Cut, Proxy

PROMISED_S = 5.0
"""From the database's return to claims of every worker."""
BACKENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobpipe'"
COMMITS = {
    "insert": "INSERT INTO jobpipe.ids",
    "claim": "FOR UPDATE SKIP LOCKED) k",
    "settle": "to_status, to_delay",
    "transaction": "COMMIT",
}
"""By which words the proxy knows a commit."""


class Loads:
    """Clients at every server, until closed."""

    def __init__(self, trial: Trial, whole: Fleet, journal: Journal) -> None:
        self._loads = [
            Load(server.port, journal, trial.source(f"load-{n}"), _named(n), clients=2, batch=5, pause_s=0.1)
            for n, server in enumerate(whole.servers)
        ]
        self._stack = contextlib.ExitStack()
        for load in self._loads:
            self._stack.enter_context(load)

    @property
    def odd(self) -> list[tuple[int, str]]:
        """Answers that no client should get."""
        return [odd for load in self._loads for odd in load.odd]

    def close(self) -> None:
        """End it; safe when called twice."""
        self._stack.close()


class Stage(NamedTuple):
    """All that faults are made with, and by which they are judged."""

    trial: Trial
    source: random.Random
    cluster: Cluster
    proxy: Proxy
    fleet: Fleet
    pulse: Pulse
    journal: Journal
    loads: Loads


def make(source: random.Random, id_: str) -> dict[str, Any]:
    """Short tasks, some of which fail at first."""
    handler = source.choice(["work", "work", "thread", "flaky"])
    payload = {} if handler == "flaky" else {"seconds": source.choice([0, 0, 0.02, 0.2])}
    return {"id": id_, "handler": handler, "payload": payload, "priority": source.randint(-1, 1)}


def _named(number: int) -> Callable[[random.Random, str], dict[str, Any]]:
    return lambda source, id_: make(source, f"s{number}-{id_}")


def faults(trial: Trial) -> Sequence[Figure]:
    """All faults one after the other while clients post at every server; compare with what clients were told."""
    with staged(trial) as stage:
        figures = [figure for fault in FAULTS for figure in fault(stage)]
        return [*judged(stage), *figures]


@contextlib.contextmanager
def staged(trial: Trial) -> Iterator[Stage]:
    """Three servers and three workers under load, over a proxy before a PostgreSQL."""
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(running())
        proxy = stack.enter_context(Proxy(cluster.port))
        whole = stack.enter_context(fleet(trial.folder, cluster.url(port=proxy.port) + "?sslmode=disable"))
        journal = Journal(trial.folder / "acknowledged")
        loads = stack.enter_context(contextlib.closing(Loads(trial, whole, journal)))
        stage = Stage(trial, trial.source(), cluster, proxy, whole, Pulse(whole), journal, loads)
        until("all workers work", stage.pulse.all_work())
        yield stage


def judged(stage: Stage) -> list[Figure]:
    """End the load, let everything come to its end, and compare."""
    stage.loads.close()
    stage.fleet.all_ended(300)
    found = books(stage.journal.ids, stage.fleet.tasks(), stage.fleet.begun())
    return [
        Figure("acknowledged", len(stage.journal.ids)),
        *found.figures(),
        none("answers that no client should get", len(stage.loads.odd)),
        *sound(stage.cluster, stage.fleet),
    ]


def _flow(stage: Stage) -> float:
    """Seconds until every worker has begun another run."""
    began = time.monotonic()
    until("claims flow again", stage.pulse.all_work(), 60)
    return time.monotonic() - began


def _recovered(name: str, count: int, times: Sequence[float]) -> list[Figure]:
    return [
        Figure(name, count),
        Figure("  until every worker works again, longest", max(times), "s", at_most=PROMISED_S),
    ]


def server_kills(stage: Stage) -> list[Figure]:
    times = []
    count = stage.trial.sized(2, 5, 30)
    for n in range(count):
        stage.fleet.servers[n % 3].kill()
        time.sleep(stage.source.uniform(0, 0.5))
        stage.fleet.restart(n % 3)
        times.append(_flow(stage))
    return _recovered("kills of a server", count, times)


def postmaster_kills(stage: Stage) -> list[Figure]:
    times = []
    count = stage.trial.sized(2, 10, 30)
    for _ in range(count):
        time.sleep(stage.source.uniform(0, 0.5))
        stage.cluster.kill()
        time.sleep(stage.source.uniform(0, 2))
        stage.cluster.start_again()
        times.append(_flow(stage))
    return _recovered("kills of the postmaster", count, times)


def ended_backends(stage: Stage) -> list[Figure]:
    times = []
    count = stage.trial.sized(2, 10, 60)
    for _ in range(count):
        began = time.monotonic()
        stage.cluster.run(BACKENDS)
        times.append(_flow(stage))
        time.sleep(max(0.0, began + 2 - time.monotonic()))
    return _recovered("times all backends ended", count, times)


def cut_commits(stage: Stage) -> list[Figure]:
    times = []
    each = stage.trial.sized(1, 5, 25)
    wanted = [(words, where) for words in list(COMMITS.values())[:3] for where in Cut for _ in range(each)]
    stage.source.shuffle(wanted)
    for words, where in wanted:
        stage.proxy.arm(words, where)
        until(f"a cut {where} {words}", lambda: not stage.proxy.armed, 30)
        times.append(_flow(stage))
    return _recovered("connections cut inside a commit", len(wanted), times)


def cut_cancels(stage: Stage) -> list[Figure]:
    """A cancel that is cut: asked again, it is either done or still to be done, and then its task is at its end."""
    wrong = 0
    each = stage.trial.sized(1, 3, 10)
    for n, where in enumerate(list(Cut) * each):
        id_ = f"steered-{n}"
        with stage.fleet.servers[n % 3].connected() as client:
            client.post("/enqueue", {"id": id_, "delay": 3600})
            stage.proxy.arm(COMMITS["transaction"], where)
            first = client.ask("POST", f"/tasks/{id_}/cancel").status
            stage.proxy.disarm()
            until("the server is ready", lambda: client.ask("GET", "/readyz").status == 200)
            second = client.ask("POST", f"/tasks/{id_}/cancel").status
            wrong += client.get(f"/tasks/{id_}")["status"] != "cancelled" or (first, second) not in (
                (503, 200), (503, 409), (200, 409),
            )  # fmt: skip
    return [Figure("cancels cut inside a commit", 2 * each), none("  that ended otherwise", wrong)]


@contextlib.contextmanager
def _somebody(cluster: Cluster, sql: str) -> Iterator[None]:
    """Another program's transaction, open for the block."""

    async def begin() -> asyncpg.Connection[asyncpg.Record]:
        connection = await asyncpg.connect(cluster.url())
        await connection.execute(f"BEGIN ISOLATION LEVEL REPEATABLE READ; {sql}")
        return connection

    connection = elsewhere(begin())
    try:
        yield
    finally:
        elsewhere(connection.close())


def open_transaction(stage: Stage) -> list[Figure]:
    seconds = stage.trial.sized(3, 10, 60)
    end = time.monotonic() + seconds
    times = []
    with _somebody(stage.cluster, "SELECT count(*) FROM jobpipe.tasks"):
        while time.monotonic() < end:
            times.append(_flow(stage))
    return _recovered("seconds of an open transaction", seconds, times)


def locked_table(stage: Stage) -> list[Figure]:
    seconds = stage.trial.sized(2, 5, 5)
    with _somebody(stage.cluster, "LOCK TABLE jobpipe.tasks"):
        time.sleep(seconds)
    return _recovered("seconds of a locked table", seconds, [_flow(stage)])


Fault = Callable[[Stage], list[Figure]]
FAULTS: tuple[Fault, ...] = (
    server_kills, postmaster_kills, ended_backends, cut_commits, open_transaction, locked_table, cut_cancels,
)  # fmt: skip
