"""Random requests: valid ones with bytes changed, lost and doubled, odd values in every field, and plain noise."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

from prove.bad_input import get, post
from prove.proof import Figure, Trial, none
from prove.raw import Closed, Raw
from prove.servers import serving

PLANNED = {503, 507}
"""A full queue, a stopping server, a storage that is away: answers that the contract has."""
RSS_SLACK_MB = 20.0
WARM_UP = 2_000
FIELDS = (
    "id",
    "payload",
    "max_retries",
    "handler",
    "queue",
    "priority",
    "run_at",
    "delay",
    "timeout",
    "status",
    "nope",
)
PATHS = (
    "/enqueue", "/tasks", "/tasks/x", "/tasks/retry", "/tasks/cancel", "/lease", "/settle", "/extend", "/stats",
    "/queues", "/events?x", "/metrics", "/errors", "/series?since=x", "/workers", "/task?id=%00", "/", "/static/x",
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 10**20, 1.5, "", "x", "x" * 300, "\u0000", "\ud7ff", [], {}, [[]], {"a": [1]},
    "2030-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00",
)  # fmt: skip


def fuzz(trial: Trial) -> Sequence[Figure]:
    """So many requests, each on a connection that may have been used before."""
    requests = trial.sized(4_000, 30_000, 100_000)
    source = trial.source()
    answers: Counter[int] = Counter()
    unplanned: list[bytes] = []
    with serving(trial.folder, "--queue-size", "200", "--retention", "1", "--log-level", "WARNING") as server:
        server_pid = server.process.pid
        before = 0.0
        for number in range(requests):
            if number == min(WARM_UP, requests // 2):
                before = server.rss_mb()
            data = random_request(source)
            status = _ask(server.port, data)
            answers[status] += 1
            if status >= 500 and status not in PLANNED:
                unplanned.append(data)
        growth = server.rss_mb() - before
        alive = server.alive() and server.process.pid == server_pid
        healthy = server.get("/livez").get("status") == "ok"
    for data in unplanned[:5]:
        print(data[:500])
    return [
        Figure("random requests", requests),
        Figure("  answered 2xx", sum(n for status, n in answers.items() if 200 <= status < 300)),
        Figure("  answered 4xx", sum(n for status, n in answers.items() if 400 <= status < 500)),
        Figure("  answered 503", answers[503]),
        Figure("  cut off or not understood as requests", answers[0]),
        none("unplanned 5xx", len(unplanned)),
        Figure("memory grew by", max(0.0, growth), "MB", at_most=RSS_SLACK_MB),
        none("servers harmed", not (alive and healthy)),
    ]


def _ask(port: int, data: bytes) -> int:
    """The status; 0 when no answer came, for the data may be half a request."""
    try:
        with Raw(port, 5) as connection:
            connection.send(data)
            connection.socket.shutdown(1)  # what is missing does not come
            return connection.answer("HEAD" if data.startswith(b"HEAD") else "GET").status
    except (Closed, OSError, ValueError, IndexError):
        return 0


def random_request(source: random.Random) -> bytes:
    """One request, more or less."""
    kind = source.random()
    if kind < 0.1:
        return source.randbytes(source.randint(1, 2000))
    data = _valid(source)
    return data if kind < 0.5 else _mutated(data, source)


def _valid(source: random.Random) -> bytes:
    path = source.choice(PATHS)
    method = source.choice(["GET", "POST", "POST", "POST", "DELETE", "HEAD", "OPTIONS"])
    if method != "POST":
        return get(path, method=method)
    return post(
        _body(path, source),
        path,
        source.choice(["", "", "Content-Type: application/x-ndjson\r\n", "Expect: 100-continue\r\n"]),
    )


def _body(path: str, source: random.Random) -> bytes:
    pick = source.choice
    task = {name: pick(ODD) for name in source.sample(FIELDS, source.randint(0, 4))}
    bodies: dict[str, Any] = {
        "/enqueue": pick([task, [task, {}], task, [task] * 3]),
        "/lease": {"worker_id": pick(["w", *ODD]), pick(["max", "lease", "queues", "x"]): pick(ODD)},
        "/settle": [
            {
                "id": pick(ODD),
                "lease_id": pick(ODD),
                "outcome": pick(["done", "failed", *ODD]),
                "error": pick(ODD),
            }
        ],
        "/extend": {
            "worker_id": "w",
            "leases": pick([[{"id": "x", "lease_id": pick(ODD)}], *ODD]),
            "lease": pick(ODD),
        },
    }
    found = bodies.get(path, {pick(["ids", "all", "status", "dry_run", "queue"]): pick(ODD)})
    return json.dumps(found, ensure_ascii=pick([True, False])).encode("utf-8", "surrogatepass")


def _mutated(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.randint(1, 6)):
        at = source.randrange(len(changed) or 1)
        kind = source.randrange(5)
        if kind == 0 and changed:
            changed[at] = source.randrange(256)
        elif kind == 1:
            del changed[at : at + source.randint(1, 20)]
        elif kind == 2:
            changed[at:at] = changed[at : at + source.randint(1, 50)]
        elif kind == 3:
            changed[at:at] = source.randbytes(source.randint(1, 8))
        else:
            changed[at:at] = source.choice([b"\r\n", b"\x00", b"\xff", b"{", b"[[", b"%", b"\\ud800"])
    return bytes(changed) or b"\n"
