"""When tasks of schedules are made: by an alarm, at the next time of all schedules, and after a change.

Nothing polls; the clock is looked at once a minute, for it may have jumped.
"""

from __future__ import annotations

from typing import Protocol

from jobpipe.engine.maintenance import Alarm
from jobpipe.engine.queue import TaskQueue
from jobpipe.runtime.clock import Clock
from jobpipe.storage.contract import Peers, Shared

BUSY_S = 0.25
"""Another server makes what is due, or changes a schedule."""
LOOK_S = 60.0
HEARD_S = 3.0
"""Another server did something: it may have changed a schedule, and may die before it makes the next task."""


class _Store(Peers, Shared, Protocol):
    """What is asked of a store here."""


def firing_alarm(queue: TaskQueue, storage: _Store, clock: Clock) -> Alarm:
    """The alarm that makes the tasks of the schedules of `queue`, to be started."""

    async def run_once(now: int) -> float | None:
        if queue.draining:
            return None
        fired = await queue.schedules.fire()
        if fired.busy:
            return BUSY_S
        if fired.more:
            return 0.0
        seconds = await queue.schedules.next_firing()
        return None if seconds is None else min(seconds, LOOK_S)

    alarm = Alarm("schedules", run_once, clock)
    queue.schedules.on_change = lambda: alarm.ring_within(0.0)
    storage.listen(lambda data: alarm.ring_within(HEARD_S) if data is None else None)
    return alarm
