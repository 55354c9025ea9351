"""Stores with millions of tasks, made in seconds: rows written straight into a file that a server has created."""

from __future__ import annotations

import time
from pathlib import Path

import apsw

from bench import servers

PAYLOAD = b'{"user":1,"email":"ada@example.org"}'
QUEUED, DONE = 0, 2
CHUNK = 500_000

_ROWS = """
WITH RECURSIVE n(i) AS (SELECT ?1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
INSERT INTO tasks (seq, id, handler, queue, payload, priority, status, attempts, failures, lost, max_retries, run_at,
                   created_at, started_at, finished_at)
SELECT i, printf('019a9f1e-6f3c-7c5e-8d4b-%012x', i), 'noop', 'default', ?3, 0, ?4, ?4 = 2, 0, 0, 3, ?5 + i / 1000,
       ?5 + i / 1000, CASE WHEN ?4 = 2 THEN ?5 + i / 1000 END, CASE WHEN ?4 = 2 THEN ?5 + i / 1000 + 1 END
  FROM n
"""


def fill(folder: Path, *, waiting: int = 0, finished: int = 0) -> None:
    """A store in `folder` with so many tasks that wait and so many done before them, an hour ago."""
    with servers.jobpipe(folder):
        pass  # it creates the file with its own schema
    now = round(time.time() * 1000) - 3_600_000
    database = apsw.Connection(str(folder / "jobpipe.db"))
    try:
        database.execute("PRAGMA synchronous = OFF")
        _add(database, 1, finished, DONE, now)
        _add(database, finished + 1, waiting, QUEUED, now)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        database.close()


def _add(database: apsw.Connection, first: int, n: int, status: int, now: int) -> None:
    for start in range(first, first + n, CHUNK):
        last = min(start + CHUNK, first + n) - 1
        database.execute(_ROWS, (start, last, PAYLOAD, status, now))
    if n:
        row = ("default", status, 0, n)
        database.execute(
            "INSERT OR REPLACE INTO counts (queue, status, priority, n) VALUES (?, ?, ?, ?)", row
        )
