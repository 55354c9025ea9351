"""Heartbeats: prolonging leases, but no run's past its timeout plus one lease."""

from __future__ import annotations

from collections.abc import Sequence

from jobpipe.core.errors import LeaseLost
from jobpipe.core.task import Status
from jobpipe.engine.running import Running
from jobpipe.engine.values import Heartbeat
from jobpipe.storage.base import Extended, Extension
from jobpipe.storage.contract import TaskLife


class Heartbeats:
    """What the queue does with a heartbeat."""

    def __init__(self, storage: TaskLife, running: Running) -> None:
        self._storage = storage
        self._running = running

    async def extend(self, beats: Sequence[Heartbeat]) -> list[Extended | LeaseLost]:
        """Prolong leases; a run that has used up its time is LeaseLost, as one whose claim holds no more."""
        await self._adopt(beats)
        extensions = [self._extension(beat) for beat in beats]
        answers = iter(await self._storage.extend([asked for asked in extensions if asked is not None]))
        return [
            self._extended(beat, _overran(beat) if asked is None else next(answers))
            for beat, asked in zip(beats, extensions, strict=True)
        ]

    async def _adopt(self, beats: Sequence[Heartbeat]) -> None:
        """Learn of runs that were handed out before a restart, so that their timeouts hold again."""
        unknown = [beat for beat in beats if self._running.task(beat.id, beat.lease_id) is None]
        if unknown:
            tasks = await self._storage.get([beat.id for beat in unknown])
            found = zip(unknown, tasks, strict=True)
            self._running.adopt(
                {beat.lease_id: task for beat, task in found if task and task.status is Status.RUNNING}
            )

    def _extension(self, beat: Heartbeat) -> Extension | None:
        """What to ask of the storage; None when the run's time is over."""
        left = self._running.time_left(beat.id, beat.lease_id, beat.timeout)
        lease_s = beat.lease_s if left is None else min(beat.lease_s, left + beat.lease_s)
        return Extension(beat.id, beat.lease_id, lease_s) if lease_s > 0 else None

    def _extended(self, beat: Heartbeat, answer: Extended | LeaseLost) -> Extended | LeaseLost:
        if isinstance(answer, LeaseLost) and not self._running.overran(beat.id, beat.lease_id):
            self._running.end(beat.lease_id)
        return answer


def _overran(beat: Heartbeat) -> LeaseLost:
    return LeaseLost(f"task '{beat.id}' ran past its timeout")
