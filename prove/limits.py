"""Limits over three servers on one PostgreSQL, whatever dies and whatever is sent twice: never more run than allowed,
as many as allowed afterwards, no window with more starts than the rate, no key that starves."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from http.client import HTTPException
from typing import Any

from prove.cluster import Cluster, running
from prove.fleet import Fleet, fleet
from prove.proof import Figure, Trial, none
from prove.servers import until
from prove.unruly import Unruly
from prove.watched import Judged, Move, crowded_windows, longest_gap, moves, watch

QUEUE = "mail"
MOST, MOST_OF_KEY, MOST_OF_VIP = 6, 2, 4
RULES = {"concurrency": MOST, "key_concurrency": MOST_OF_KEY, "fair": True}
KEYS = ("vip", *(f"k{n}" for n in range(10)))
TASK_S = 1.5
"""Of those that show how many may run once all is over."""
RATE = {"limit": 50, "period": 0.1, "burst": 5}
TENANTS = 50
RATED = ("--queue-size", "1000000", "--retention", "inf", "--workers", "16", "--lease", "5")


def limits(trial: Trial) -> Sequence[Figure]:
    """Concurrency, then a rate with keys that take turns."""
    return [*_concurrency(trial), *_rate(trial)]


# --- concurrency ---


def _concurrency(trial: Trial) -> list[Figure]:
    tasks, rounds = trial.sized(600, 4_000, 15_000), trial.sized(8, 40, 150)
    with running(track_commit_timestamp="on") as cluster, fleet(trial.folder, cluster.url()) as whole:
        watch(cluster)
        faults = Faults(trial.source("faults"), cluster, whole)
        faults.patch("", RULES)
        faults.patch("/keys/vip", {"concurrency": MOST_OF_VIP})
        with Unruly(trial.source("unruly"), [server.port for server in whole.servers], QUEUE) as unruly:
            for number in range(rounds):
                _enqueue(faults, number, tasks // rounds)
                faults.one()
        faults.settle_down()
        whole.all_ended(600)
        reached, of_key = _places(faults)
        whole.all_ended()
        judged = Judged().judge(moves(cluster))
        fallen = whole.fallen()
    left = sum(abs(n) for n in judged.running.values())
    return [
        Figure("starts under limits", judged.starts),
        Figure("  of them that filled the queue's limit", judged.full, at_least=1),
        Figure("changes of limits and pauses meanwhile", judged.changes),
        *(Figure(what, faults.done[what]) for what in sorted(faults.done)),
        *(Figure(what, unruly.done[what]) for what in sorted(unruly.done)),
        none("settles of held leases whose two answers differ", unruly.differing),
        none("stale settles accepted", unruly.accepted),
        none("moments with more running than allowed", judged.too_many),
        none("starts while paused", judged.paused),
        none("runs left in the count", left),
        none("places of the queue lost for good", MOST - reached),
        none("places of a key lost for good", MOST_OF_KEY - of_key),
        none("servers crashed under limits", fallen),
    ]


class Faults:
    """What befalls the servers, their workers and the database, and what people change meanwhile."""

    def __init__(self, source: random.Random, cluster: Cluster, whole: Fleet) -> None:
        self._source, self._cluster, self.whole = source, cluster, whole
        self.done: Counter[str] = Counter()
        self._made = 0

    def one(self) -> None:
        """One of them, after a while."""
        time.sleep(self._source.uniform(0.1, 0.6))
        kinds: dict[str, tuple[int, Callable[[], None]]] = {
            "kills of a server": (2, self.server), "kills of a worker": (2, self._worker),
            "stops of a worker": (2, self._stop), "kills of PostgreSQL": (1, self._database),
            "limits changed": (4, self._limit), "pauses": (1, self._pause), "bulk cancels": (2, self._cancel),
            "bulk retries": (1, self._retry),
        }  # fmt: skip
        (what,) = self._source.choices(list(kinds), [weight for weight, _ in kinds.values()])
        kinds[what][1]()
        self.done[what] += 1

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Until some server answers well."""
        found: list[Any] = []

        def answered() -> bool:
            server = self._source.choice(self.whole.servers)
            try:
                with server.connected() as client:
                    answer = client.ask(method, path, body)
            except (OSError, HTTPException):
                return False
            found.append(answer.json())
            return answer.status < 400

        until(f"{method} {path} is answered", answered, 60, pause_s=0.05)
        return found[-1]

    def patch(self, path: str, rules: dict[str, Any]) -> None:
        """Say something of the queue, or of a key of it."""
        self.ask("PATCH", f"/queues/{QUEUE}{path}", rules)

    def settle_down(self) -> None:
        """Rules as they were; whoever should be there is."""
        self.patch("", RULES | {"paused": None})
        for n, server in enumerate(self.whole.servers):
            if not server.alive():
                self.whole.restart(n)

    def server(self) -> None:
        """A kill of one, which comes back."""
        n = self._source.randrange(len(self.whole.servers))
        self.whole.servers[n].kill()
        time.sleep(self._source.uniform(0.0, 0.5))
        self.whole.restart(n)

    def _worker(self) -> None:
        n = self._source.randrange(len(self.whole.workers))
        self.whole.workers[n].kill()
        self._replace(n)

    def _stop(self) -> None:
        n = self._source.randrange(len(self.whole.workers))
        self.whole.workers[n].stop()
        self._replace(n)

    def _replace(self, n: int) -> None:
        self._made += 1
        self.whole.workers[n] = self.whole.work_for(
            self.whole.servers[n], f"again-{self._made}", "--shutdown-grace", "0.02"
        )

    def _database(self) -> None:
        self._cluster.kill()
        self._cluster.start_again()

    def _limit(self) -> None:
        pick = self._source.choice
        self.patch("", {"concurrency": pick([1, 2, 4, 6, 9]), "key_concurrency": pick([1, 2, 3])})

    def _pause(self) -> None:
        self.patch("", {"paused": True})
        time.sleep(self._source.uniform(0.0, 0.3))
        self.patch("", {"paused": None})

    def _cancel(self) -> None:
        self.ask(
            "POST", "/tasks/cancel", {"queue": QUEUE, "handler": self._source.choice(["flaky", "thread"])}
        )

    def _retry(self) -> None:
        self.ask("POST", "/tasks/retry", {"queue": QUEUE, "status": "cancelled"})


def _enqueue(faults: Faults, number: int, count: int) -> None:
    source = random.Random(number)
    tasks = []
    for n in range(count):
        handler, payload = source.choice(
            [("work", {"seconds": 0.02}), ("work", {"seconds": 0.3}), ("thread", {"seconds": 0.05}),
             ("flaky", {"failures": 1}), ("gives_back", {"in_": 0.05}), ("gives_back", {"in_": 0.2, "hold": True})]
        )  # fmt: skip
        task = {
            "id": f"f{number}-{n}",
            "handler": handler,
            "payload": payload,
            "queue": QUEUE,
            "priority": n % 2,
        }
        tasks.append(task | ({"key": source.choice(KEYS)} if n % 12 else {}))
    faults.ask("POST", "/enqueue", tasks)


def _places(faults: Faults) -> tuple[int, int]:
    """How many run in the end, of the queue and of one key."""
    spread = [{"key": f"p{n}"} for n in range(MOST + 4)]
    reached = _most_running(faults, "all", spread, MOST)
    return reached, _most_running(faults, "one", [{"key": "p0"}] * (MOST_OF_KEY + 2), MOST_OF_KEY)


def _most_running(faults: Faults, name: str, tasks: Sequence[dict[str, str]], wanted: int) -> int:
    made = [
        {"id": f"{name}-{n}", "handler": "work", "payload": {"seconds": TASK_S}, "queue": QUEUE} | task
        for n, task in enumerate(tasks)
    ]
    faults.ask("POST", "/enqueue", made)
    most, deadline = 0, time.monotonic() + 30
    while most < wanted and time.monotonic() < deadline:
        running_now = faults.ask("GET", f"/tasks?queue={QUEUE}&status=running&id_prefix={name}-")
        most = max(most, len(running_now))
        time.sleep(0.02)
    faults.whole.all_ended()
    return most


# --- rates and turns ---


def _rate(trial: Trial) -> list[Figure]:
    wanted = trial.sized(3_000, 20_000, 100_000)
    folder = trial.folder / "rate"
    folder.mkdir()
    with (
        running(track_commit_timestamp="on") as cluster,
        fleet(folder, cluster.url(), workers=0, pool=True, flags=RATED) as whole,
    ):
        watch(cluster)
        faults = Faults(trial.source("rate"), cluster, whole)
        faults.ask("PATCH", "/queues/rated", {"rate": RATE, "fair": True, "paused": True})
        for at in range(0, wanted, 5_000):
            faults.ask("POST", "/enqueue", [_tenants(n) for n in range(at, min(at + 5_000, wanted))])
        faults.ask("POST", "/queues/rated/resume")
        began, kills = time.monotonic(), 0
        while (left := _left(whole)) > 0:
            time.sleep(3.0)
            if left > wanted // 5:
                faults.server()
                kills += 1
        seconds = time.monotonic() - began
        noted = [move for move in moves(cluster) if move.step == 1]
    return _judged_rate(noted, wanted, kills, seconds)


def _judged_rate(noted: list[Move], wanted: int, kills: int, seconds: float) -> list[Figure]:
    at = [move.at for move in noted if move.at is not None]
    limit, burst = int(RATE["limit"]), int(RATE["burst"])
    per_s = limit / RATE["period"]
    fair = longest_gap([move.key for move in noted[: wanted // 4]])
    return [
        Figure("starts under a rate", len(at), at_least=wanted),
        Figure("kills of a server meanwhile", kills),
        Figure("share of the rate that was used", len(at) / seconds / per_s),
        none(
            f"windows of {RATE['period']:g} s with more than {limit} + {burst} - 1",
            crowded_windows(at, limit, round(RATE["period"] * 1000), burst),
        ),
        Figure("keys that take turns", TENANTS),
        Figure("starts of others between two of a key, most", fair, at_most=2 * TENANTS),
    ]


def _tenants(n: int) -> dict[str, Any]:
    """Every second task is the first tenant's."""
    key = "t0" if n % 2 else f"t{n // 2 % TENANTS}"
    return {"handler": "quiet", "queue": "rated", "key": key, "max_retries": 9}


def _left(whole: Fleet) -> int:
    counts = whole.counts()
    return counts["queued"] + counts["running"] if counts else 1
