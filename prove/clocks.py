"""Jumps of the wall clock, an hour and a day both ways: no lease ends early or late, no local claim ends at all."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence

from jobpipe.clock import ManualClock
from jobpipe.core.errors import JobpipeError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.maintenance import Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.storage import open_storage
from prove.proof import Figure, Trial, none
from prove.stores import scratch

HOUR_S, DAY_S = 3600.0, 86400.0
JUMPS_S = (-DAY_S, -HOUR_S, HOUR_S, DAY_S)
LEASE_S = 30.0
Leases = dict[str, tuple[Claim, float]]
"""Claims by task, and when they end in seconds that no clock shows."""
STEPS = 60


def clocks(trial: Trial) -> Sequence[Figure]:
    """Many runs on memory and on files: leases are judged beside a clock that nobody sets."""
    found: Counter[str] = Counter()
    for number in range(trial.sized(20, 200, 1_000)):
        with scratch() as folder:
            url = "memory:" if number % 2 else f"sqlite:///{folder / 'jobpipe.db'}"
            asyncio.run(_one(url, trial.source(str(number)), found))
    return [
        Figure("jumps of the wall clock", found["jumps"]),
        Figure("leases watched", found["leases"]),
        none("early expiries", found["early"]),
        none("leases that outlived their end", found["late"]),
        none("heartbeats refused while the lease held", found["refused"]),
        none("claims of the server's own pool that expired", found["local"]),
        none("runs timed out before their time", found["timed out"]),
        none("tasks at no end afterwards", found["stuck"]),
    ]


async def _one(url: str, source: random.Random, found: Counter[str]) -> None:
    clock = ManualClock()
    storage = open_storage(url, capacity=1_000, clock=clock)
    queue = TaskQueue(storage, clock=clock, default_timeout=10 * DAY_S)
    await queue.open()
    rescuer = Rescuer(queue, storage)
    await queue.enqueue([NewTask(f"t{n}", "h") for n in range(40)])
    ends: Leases = {
        claim.task.id: (claim, LEASE_S) for claim in await queue.claim("r", 20, lease_s=LEASE_S, local=False)
    }
    local = await queue.claim("w", 10)
    found["leases"] += len(ends)
    true_s = 0.0
    for _ in range(STEPS):
        if source.random() < 0.5:
            clock.jump(source.choice(JUMPS_S))
            found["jumps"] += 1
        step = source.uniform(0, LEASE_S / 5)
        clock.advance(step)
        true_s += step
        beating = [id_ for id_, (_, end) in ends.items() if source.random() < 0.3 and end > true_s]
        answers = await queue.extend([Heartbeat(id_, ends[id_][0].lease_id, LEASE_S) for id_ in beating])
        for id_, answer in zip(beating, answers, strict=True):
            found["refused"] += isinstance(answer, JobpipeError)
            ends[id_] = (ends[id_][0], true_s + LEASE_S)
        await rescuer.run_once(clock.now())
        ends = _judge(await queue.get(list(ends)), ends, true_s, found)
    found["local"] += sum(
        t is None or t.status is not Status.RUNNING for t in await queue.get([c.task.id for c in local])
    )
    await _finish(queue, rescuer, clock, found)
    await queue.close()


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


async def _finish(queue: TaskQueue, rescuer: Rescuer, clock: ManualClock, found: Counter[str]) -> None:
    for worker in ("w", "r"):
        reports = [Report(id_, lease_id, Outcome(Kind.DONE)) for id_, lease_id in queue.claims_of(worker)]
        await queue.settle(reports)
    for _ in range(10):
        clock.advance(2 * DAY_S)  # what was put off by a clock set back comes due
        await rescuer.run_once(clock.now())
        claims = await queue.claim("last", 100)
        await queue.settle([Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE)) for claim in claims])
    counts = await queue.counts()
    found["stuck"] += counts[Status.QUEUED] + counts[Status.RUNNING]
