"""What the machine gives at this moment: HTTP without storage, and SQLite without anything above it.

Machines differ, and one machine differs from hour to hour; the ratio of a figure to its limit differs least.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import apsw

from bench import load, servers
from bench.client import BenchError, request
from bench.sizes import Sizes

BODY = b'{"handler":"noop","payload":{"user":1,"email":"ada@example.org"}}'
ENQUEUE = request("POST", "/enqueue", BODY)
CONNECTIONS = 64

_TABLE = """
CREATE TABLE tasks (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, handler TEXT NOT NULL, queue TEXT NOT NULL,
    payload BLOB NOT NULL, status INTEGER NOT NULL, run_at INTEGER NOT NULL, created_at INTEGER NOT NULL
) STRICT
"""
_INSERT = "INSERT INTO tasks VALUES (?, ?, 'noop', 'default', ?, 0, 1800000000000, 1800000000000)"


class Limit(NamedTuple):
    """A limit as it is shown; `short` is its name beside a ratio."""

    title: str
    unit: str
    short: str = ""


LIMITS = {
    "http_1": Limit("bare HTTP, 1 connection", "/s", "HTTP/1"),
    "http_64": Limit("bare HTTP, 64 connections", "/s", "HTTP/64"),
    "protocol_64": Limit("bare protocol without ASGI, 64 connections", "/s", "protocol/64"),
    "http_cpu": Limit("  processor time a request", "us", "HTTP"),
    "generator": Limit("  the load generator's own part of a core", "%"),
    "http_start": Limit("  start to first 200", "s", "HTTP"),
    "http_rss": Limit("  memory when idle", "MB", "HTTP"),
    "sqlite_1": Limit("bare SQLite, 1 row a commit", "/s", "SQLite/1"),
    "sqlite_64": Limit("bare SQLite, 64 rows a commit", "/s", "SQLite/64"),
    "sqlite_1000": Limit("bare SQLite, 1,000 rows a commit", "/s", "SQLite/1000"),
    "answer_commit": Limit("one bare answer and one bare commit", "ms", "HTTP+SQLite"),
    "idle_commit": Limit("  the same when idle before", "ms", "idle HTTP+SQLite"),
}


def measure(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Every limit, by name."""
    found = _http(folder, sizes)
    found["sqlite_1"] = _rows_per_s(folder, sizes.commits_1, 1)
    found["sqlite_64"] = _rows_per_s(folder, sizes.commits_64, 64)
    found["sqlite_1000"] = _rows_per_s(folder, sizes.commits_1000, 1000)
    found["answer_commit"] += 1000 / found["sqlite_1"]
    found["idle_commit"] += 1000 / found["sqlite_1"]
    return found


def _http(folder: Path, sizes: Sizes) -> dict[str, float]:
    with servers.bare(folder) as server:
        rss = server.rss_mb()
        one = load.post(load.Post(server.port, ENQUEUE, sizes.http_1, warmup=50))
        rare = load.post(load.Post(server.port, ENQUEUE, sizes.pickups, warmup=50, paused=True))
        before = server.cpu_s()
        many = load.post(load.Post(server.port, ENQUEUE, sizes.http_64, CONNECTIONS, warmup=500))
        cpu_s = server.cpu_s() - before
    with servers.bare(folder, "--protocol") as server:
        whole = load.post(load.Post(server.port, ENQUEUE, sizes.http_64, CONNECTIONS, warmup=500))
    return {
        "protocol_64": sizes.http_64 / whole.seconds,
        "http_1": sizes.http_1 / one.seconds,
        "http_64": sizes.http_64 / many.seconds,
        "http_cpu": cpu_s / (sizes.http_64 + 500) * 1e6,
        "generator": many.busy * 100,
        "answer_commit": one.p50,
        "idle_commit": rare.p50,
        "http_start": server.started_s,
        "http_rss": rss,
    }


def _rows_per_s(folder: Path, commits: int, rows: int) -> float:
    payload = b'{"user":1,"email":"ada@example.org"}'
    batches = [
        [
            (commit * rows + row, f"019a9f1e-6f3c-7c5e-8d4b-{commit * rows + row:012x}", payload)
            for row in range(rows)
        ]
        for commit in range(commits)
    ]
    with _durable(folder / f"bare-{rows}.db") as database:
        began = time.perf_counter()
        for batch in batches:
            database.execute("BEGIN IMMEDIATE")
            database.executemany(_INSERT, batch)
            database.execute("COMMIT")
        return commits * rows / (time.perf_counter() - began)


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[apsw.Connection]:
    """A database as the server opens its own: a write-ahead log, and a sync at every commit."""
    database = apsw.Connection(str(path))
    try:
        if database.execute("PRAGMA journal_mode = WAL").get != "wal":
            raise BenchError(f"no write-ahead log is possible at {path}")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA wal_autocheckpoint = 2000")
        database.execute(_TABLE)
        yield database
    finally:
        database.close()
