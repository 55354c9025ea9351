"""Ending waiting tasks whose time to be claimed is over: by an alarm, at the moment of the next one."""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.task import Task
from jobpipe.engine.maintenance import Alarm
from jobpipe.engine.queue import TaskQueue
from jobpipe.runtime.clock import Clock
from jobpipe.storage.contract import Upkeep

SLICE = 500
PAUSE_S = 0.02
"""Between two slices, so that requests come between."""
NEWS_S = 0.5
"""What another server queued is looked at so soon: it may die before it expires."""
LOOK_S = 60.0
"""The wall clock is looked at so often while something may expire: it may jump forward."""


def expiry_alarm(queue: TaskQueue, storage: Upkeep, clock: Clock) -> Alarm:
    """The alarm that ends tasks of `queue`, to be started."""

    async def run_once(now: int) -> float | None:
        at = await storage.next_expiring()
        if at is None or at > now:
            return None if at is None else min((at - now) / 1000, LOOK_S)
        await queue.expire(SLICE)
        return PAUSE_S

    def expect(tasks: Sequence[Task], now: int) -> None:
        times = [task.expires_at for task in tasks if task.expires_at is not None]
        if times:
            alarm.ring_within(min(max(0, min(times) - now) / 1000, LOOK_S))

    alarm = Alarm("expiry", run_once, clock)
    queue.on_expiring = expect
    queue.on_news = lambda: alarm.ring_within(NEWS_S)
    return alarm
