"""Which queues are measured: what each needs, how it is set, and what is durable when its enqueue returns."""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """A queue. `packages` go into an environment of its own; `tasks` is how many one measurement takes."""

    name: str
    program: str
    service: str
    packages: tuple[str, ...]
    durable: str
    settings: str
    tasks: int = 5_000
    batches: bool = False


_REDIS = "in Redis' memory; on disk within a second when its append-only file is on (here off, as it comes)"
_POSTGRES = "committed to PostgreSQL"

PEERS = (
    Peer(
        "BullMQ", "with_bullmq.mjs", "redis", ("bullmq@6.7.0", "ioredis@6.0.0"), _REDIS,
        "64 adds at a time; bulk of 1,000; worker concurrency 64; finished jobs removed", 20_000, True,
    ),
    Peer(
        "PgQueuer", "with_pgqueuer.py", "postgres", ("pgqueuer[asyncpg]==1.6.0", "uvloop==0.23.0"), _POSTGRES,
        "64 enqueues at a time over a pool of 10; lists of 1,000; claims of 256; uvloop", 10_000, True,
    ),
    Peer(
        "Sidekiq", "with_sidekiq.rb", "redis", (), _REDIS,
        "one client, one thread; bulk of 1,000; worker of 10 threads", 20_000, True,
    ),
    Peer(
        "Huey", "with_huey.py", "redis", ("huey==3.5.4", "redis==8.1.0", "hiredis==3.5.0"), _REDIS,
        "results off; consumer of 4 threads", 10_000,
    ),
    Peer(
        "Dramatiq", "with_dramatiq.py", "redis", ("dramatiq[redis]==2.2.1", "hiredis==3.5.0"), _REDIS,
        "its own middleware; worker of 8 threads",
    ),
    Peer(
        "Taskiq", "with_taskiq.py", "redis", ("taskiq==0.13.0", "taskiq-redis==1.2.4"), _REDIS,
        "list broker without acknowledgements (its fastest); 64 sends at a time; 64 tasks at a time",
    ),
    Peer(
        "SAQ", "with_saq.py", "redis",
        ("saq[redis]==0.26.4", "typing-extensions", "hiredis==3.5.0", "uvloop==0.23.0"), _REDIS,
        "64 enqueues at a time; concurrency 64; uvloop",
    ),
    Peer(
        "arq", "with_arq.py", "redis", ("arq==0.28.0", "hiredis==3.5.0"), _REDIS,
        "64 enqueues at a time; 64 jobs at a time; no results kept; asks every 10 ms",
    ),
    Peer(
        "taskito", "with_taskito.py", "folder", ("taskito==0.22.0",), "in its SQLite (WAL, synchronous NORMAL: "
        "a power cut may lose the newest)",
        "claims of 64, push dispatch, 4 threads; enqueue_many of 1,000", 5_000, True,
    ),
    Peer(
        "Celery", "with_celery.py", "redis", ("celery[redis]==5.7.0", "hiredis==3.5.0"), _REDIS,
        "results off; one reused producer; 4 threads; prefetch 64; no gossip, mingle, heartbeat", 3_000,
    ),
    Peer(
        "Procrastinate", "with_procrastinate.py", "postgres",
        ("procrastinate[psycopg]==3.10.0", "psycopg-binary==3.3.9"), _POSTGRES,
        "64 defers at a time over a pool of 10; batches of 1,000; concurrency 64; finished deleted", 2_000, True,
    ),
    Peer(
        "RQ", "with_rq.py", "redis", ("rq==3.0.0", "hiredis==3.5.0"), _REDIS,
        "results dropped; enqueue_many of 1,000; the worker that does not fork (SimpleWorker)", 3_000, True,
    ),
)  # fmt: skip
