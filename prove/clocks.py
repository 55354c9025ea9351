"""Jumps of the wall clock, an hour and a day both ways: no lease ends early or late, no local claim ends at all."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.maintenance import Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from prove import cluster
from prove.places import Database, database
from prove.proof import Figure, Trial, none, skipped
from prove.stores import scratch

HOUR_S, DAY_S = 3600.0, 86400.0
JUMPS_S = (-DAY_S, -HOUR_S, HOUR_S, DAY_S)
LEASE_S = 30.0
Leases = dict[str, tuple[Claim, float]]
"""Claims by task, and when they end in seconds that no clock shows."""
STEPS = 60
TASKS = [f"t{n}" for n in range(40)]


class Server(NamedTuple):
    """A server without its doors, and the clock on its wall."""

    clock: ManualClock
    queue: TaskQueue
    rescuer: Rescuer


def clocks(trial: Trial) -> Sequence[Figure]:
    """Many runs on every engine: leases are judged beside a clock that nobody sets."""
    found: Counter[str] = Counter()
    for number in range(trial.sized(20, 200, 1_000)):
        with scratch() as folder:
            url = "memory:" if number % 2 else f"sqlite:///{folder / 'jobpipe.db'}"
            asyncio.run(_alone(url, trial.source(str(number)), found))
    missing = cluster.missing()
    if missing is None:
        _on_postgresql(trial, found)
    return [
        Figure("jumps of the wall clock", found["jumps"]),
        _on_database("jumps", found["jumps on PostgreSQL"], missing),
        Figure("leases watched", found["leases"]),
        _on_database("leases", found["leases on PostgreSQL"], missing),
        none("early expiries", found["early"]),
        none("leases that outlived their end", found["late"]),
        none("heartbeats refused while the lease held", found["refused"]),
        none("claims of the server's own pool that expired", found["local"]),
        none("runs timed out before their time", found["timed out"]),
        none("tasks at no end afterwards", found["stuck"]),
    ]


def _on_postgresql(trial: Trial, found: Counter[str]) -> None:
    """Servers by turns alone and in pairs, whose wall clocks jump each for itself; the database's goes on."""
    before = Counter(found)
    with database() as there:
        for number in range(trial.sized(4, 20, 100)):
            asyncio.run(_on(there, 1 + number % 2, trial.source(f"postgresql/{number}"), found))
    for what in ("jumps", "leases"):
        found[f"{what} on PostgreSQL"] = found[what] - before[what]


def _on_database(what: str, count: int, missing: str | None) -> Figure:
    name = f"  {what} on PostgreSQL"
    return Figure(name, count) if missing is None else skipped(name, missing)


async def _alone(url: str, source: random.Random, found: Counter[str]) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await _one([await _served(url, ManualClock(), stack)], source, found)


async def _on(there: Database, count: int, source: random.Random, found: Counter[str]) -> None:
    walls = [await there.empty(), *(ManualClock() for _ in range(1, count))]
    async with contextlib.AsyncExitStack() as stack:
        await _one([await _served(there.url, wall, stack) for wall in walls], source, found)


async def _served(url: str, clock: ManualClock, stack: contextlib.AsyncExitStack) -> Server:
    storage = open_storage(url, capacity=1_000, clock=clock)
    queue = TaskQueue(storage, clock=clock, default_timeout=10 * DAY_S)
    await queue.open()
    stack.push_async_callback(queue.close)
    return Server(clock, queue, Rescuer(queue, storage))


async def _one(servers: Sequence[Server], source: random.Random, found: Counter[str]) -> None:
    first = servers[0].queue
    await first.enqueue([NewTask(id_, "h") for id_ in TASKS])
    ends: Leases = {
        claim.task.id: (claim, LEASE_S) for claim in await first.claim("r", 20, lease_s=LEASE_S, local=False)
    }
    # Own claims live by signs that the server gives in the time of the machine: beside others it has none here.
    local = await first.claim("w", 10) if len(servers) == 1 else []
    found["leases"] += len(ends)
    true_s = 0.0
    for _ in range(STEPS):
        if source.random() < 0.5:
            source.choice(servers).clock.jump(source.choice(JUMPS_S))
            found["jumps"] += 1
        step = source.randrange(round(LEASE_S * 1000 / 5)) / 1000
        _advance(servers, step)
        true_s += step
        beating = [id_ for id_, (_, end) in ends.items() if source.random() < 0.3 and end > true_s + 0.0005]
        beats = [Heartbeat(id_, ends[id_][0].lease_id, LEASE_S) for id_ in beating]
        answers = await source.choice(servers).queue.extend(beats)
        for id_, answer in zip(beating, answers, strict=True):
            found["refused"] += isinstance(answer, JobpipeError)
            ends[id_] = (ends[id_][0], true_s + LEASE_S)
        await _rescue(servers)
        ends = _judge(await source.choice(servers).queue.get(list(ends)), ends, true_s, found)
    tasks = await first.get([claim.task.id for claim in local])
    found["local"] += sum(task is None or task.status is not Status.RUNNING for task in tasks)
    await _finish(servers, found)


def _judge(tasks: Sequence[Task | None], ends: Leases, true_s: float, found: Counter[str]) -> Leases:
    """Compare who runs with who should; the leases that go on."""
    left: Leases = {}
    for task in tasks:
        if task is None:
            continue
        _, end = ends[task.id]
        runs = task.status is Status.RUNNING
        found["early"] += not runs and end > true_s + 0.001
        found["late"] += runs and end < true_s - 0.001
        found["timed out"] += task.last_error is not None and task.last_error.type == "timed_out"
        if runs:
            left[task.id] = ends[task.id]
    return left


async def _finish(servers: Sequence[Server], found: Counter[str]) -> None:
    for worker in ("w", "r"):
        queue = servers[0].queue
        reports = [Report(id_, lease_id, Outcome(Kind.DONE)) for id_, lease_id in queue.claims_of(worker)]
        await queue.settle(reports)
    for _ in range(10):
        _advance(servers, 2 * DAY_S)  # what was put off by a clock set back comes due
        await _rescue(servers)
        for server in servers:
            claims = await server.queue.claim("last", 100)
            ended = [Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE)) for claim in claims]
            await server.queue.settle(ended)
    tasks = await servers[0].queue.get(TASKS)
    found["stuck"] += sum(task is None or not task.finished for task in tasks)


def _advance(servers: Sequence[Server], seconds: float) -> None:
    for server in servers:
        server.clock.advance(seconds)


async def _rescue(servers: Sequence[Server]) -> None:
    for server in servers:
        await server.rescuer.run_once(server.clock.now())
