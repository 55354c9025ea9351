"""How much of everything is done in one round: enough to measure, or just enough to show that it runs."""

from __future__ import annotations

from typing import NamedTuple


class Sizes(NamedTuple):
    """Counts of requests, tasks and commits; `idle_s` in seconds."""

    single: int = 3_000
    parallel: int = 30_000
    batches: int = 200
    done: int = 20_000
    drain: int = 60_000
    pickups: int = 200
    idle_s: float = 5.0
    http_1: int = 5_000
    http_64: int = 50_000
    commits_1: int = 3_000
    commits_64: int = 1_000
    commits_1000: int = 100


QUICK = Sizes(
    single=100,
    parallel=1_000,
    batches=8,
    done=500,
    drain=10_000,
    pickups=20,
    idle_s=1.0,
    http_1=200,
    http_64=2_000,
    commits_1=100,
    commits_64=30,
    commits_1000=4,
)
FULL = Sizes()
