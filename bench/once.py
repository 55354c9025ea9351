"""`python -m bench.once`: what an Idempotency-Key costs a request, and how punctual schedules are.

The header is another one in every request, which also the fast lane must read each time. Beside it, in turns, the same
request without it, and with another header that changes and means nothing.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from prove import cluster
from prove.client import connected

from bench import servers, wrk
from bench.load import percentile

BODY = b'{"payload":{"user":1,"email":"ada@example.org"}}'
HEADERS = (None, "X-Request-Id", "Idempotency-Key")
EACH_S = 10
"""The schedules come so often."""
MANY = 1_000


def header_cost(folder: Path, seconds: int, turns: int) -> Iterator[str]:
    """Enqueues a second with each header, the median of the turns, beside those without one."""
    found: dict[str | None, list[float]] = {header: [] for header in HEADERS}
    with servers.busy(folder, "--no-pool") as server:
        wrk.post(server.port, "/enqueue", BODY, 64, 1)
        for _ in range(turns):
            for header in HEADERS:
                done = wrk.post(server.port, "/enqueue", BODY, 64, seconds, header)
                found[header].append(done.requests / done.seconds)
    plain = statistics.median(found[None])
    for header, rates in found.items():
        rate = statistics.median(rates)
        yield f"| `POST /enqueue`, {header or 'the same head each time'} | {rate:,.0f}/s | {rate / plain:.2f} |"


def punctual(folder: Path, where: str, store: str | None, count: int, rounds: int) -> str:
    """By how much tasks of schedules are accepted later than their time."""
    flags = ("--no-pool", "--queue-size", "1000000")
    with (
        servers.jobpipe(folder, *flags, store=store) as server,
        connected(server.port) as client,
    ):
        every = EACH_S if count > 1 else 1
        for n in range(count):
            client.ask("PUT", f"/schedules/s{n}", {"every": every, "task": {"queue": f"q{count}"}})
        time.sleep(every * (rounds + 1))
        tasks = [task for task in client.tasks() if task["queue"] == f"q{count}"]
    late = sorted(_ms(task["created_at"]) - _ms(task["scheduled_for"]) for task in tasks)
    p50, p99 = percentile(late, 0.5), percentile(late, 0.99)
    what = f"{count:,} in the same second, {where}" if count > 1 else f"one each second, {where}"
    return f"| {what} | {len(late):,} | {p50:.0f} ms | {p99:.0f} ms | {late[-1]:.0f} ms |"


def _ms(time: str) -> float:
    return datetime.fromisoformat(time).timestamp() * 1000


def main() -> None:
    """Print Markdown tables."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.once", description="Idempotency-Key and schedules."
    )
    parser.add_argument("--seconds", type=int, default=4, help="of each turn (4)")
    parser.add_argument("--turns", type=int, default=5, help="with each header (5)")
    parser.add_argument("--rounds", type=int, default=2, help="times of a thousand schedules (2)")
    arguments = parser.parse_args()

    def folder() -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory(prefix="jobpipe-bench-")

    with folder() as place:
        print("| 64 connections, on disk before the answer | | beside none |\n|---|---|---|")
        for line in header_cost(Path(place), arguments.seconds, arguments.turns):
            print(line, flush=True)
    print("\n| schedules | tasks | late by, median | p99 | most |\n|---|---|---|---|---|")
    with cluster.running() as there:
        for count, rounds in ((1, 20), (MANY, arguments.rounds)):
            for where, store in (("SQLite", None), ("PostgreSQL", there.url())):
                with folder() as place:
                    print(punctual(Path(place), where, store, count, rounds), flush=True)


if __name__ == "__main__":
    main()
