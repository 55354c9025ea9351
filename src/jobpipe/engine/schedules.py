"""Schedules of a queue: what people and apps say of them, and making the tasks that are due.

Every server makes what is due (engine.firing says when); the store sees to it that each time is made once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from uuid import uuid4

from jobpipe.core.errors import JobpipeError
from jobpipe.core.firing import Schedule
from jobpipe.core.schedule_edits import Edit, Edited, NoSchedule, Said, declare, delete, pause, put, ran
from jobpipe.core.task import NewTask
from jobpipe.core.unique import Answer, Known
from jobpipe.engine.carrying import carried_out
from jobpipe.runtime.clock import Clock
from jobpipe.storage.schedules import Fired, ScheduleCounts
from jobpipe.storage.schedules import Schedules as Kept

SLICE = 100
"""Schedules whose tasks one commit makes."""


class Schedules:
    """The schedules of a store. `enqueue` accepts tasks, `accepted` is told of those that the store made."""

    def __init__(
        self,
        storage: Kept,
        clock: Clock,
        *,
        enqueue: Callable[[Sequence[NewTask]], Awaitable[list[Answer]]],
        accepted: Callable[[int, Sequence[NewTask], Sequence[Answer]], None],
    ) -> None:
        self._storage = storage
        self._clock = clock
        self._enqueue = enqueue
        self._accepted = accepted
        self.on_change: Callable[[], object] = _nothing
        """Called when there may be something to do earlier than was known."""
        self.missed = 0
        """Times that this server found missed, since its start."""
        self.refused = 0
        """Tasks of schedules that were refused on this server; they are tried again."""

    # --- what people and apps say ---

    async def all(self) -> list[Schedule]:
        """All of them, by name."""
        return await self._storage.schedules()

    async def get(self, name: str) -> Schedule:
        """The one of this name. Raises NoSchedule."""
        found = await self._storage.schedules([name])
        if not found:
            raise NoSchedule(f"no schedule is called '{name}'")
        return found[0]

    async def counts(self) -> ScheduleCounts:
        """How many there are."""
        return await self._storage.schedule_counts(self._clock.now())

    async def put(self, said: Said, by: str | None) -> tuple[Schedule, bool]:
        """Make or change one; whether it is new. Raises TooManySchedules."""
        edited = await self._edit([said.name], put(said, by))
        return edited.keep[0], edited.made == 1

    async def preview(self, said: Said, by: str | None) -> Schedule:
        """What `put` would make of it; nothing is kept."""
        found = {schedule.name: schedule for schedule in await self._storage.schedules([said.name])}
        edited = put(said, by)(found, self._clock.now())
        if isinstance(edited, JobpipeError):
            raise edited
        return edited.keep[0]

    async def pause(self, name: str, by: str | None, *, paused: bool) -> Schedule:
        """Pause it, or let it go on. Raises NoSchedule."""
        return (await self._edit([name], pause(name, by, paused=paused))).keep[0]

    async def delete(self, name: str) -> None:
        """Forget it; the tasks that it made stay. Raises NoSchedule."""
        await self._edit([name], delete(name))

    async def declare(self, app: str, release: int, said: Sequence[Said]) -> None:
        """Take the place of what the app declared before, unless by a higher release. Raises Invalid."""
        await self._edit(None, declare(app, release, said))

    async def run(self, name: str) -> Answer:
        """Make a task of it now, whatever is paused or overlaps. Raises NoSchedule."""
        schedule, now = await self.get(name), self._clock.now()
        new = schedule.template.task(f"{name}@run-{uuid4()}", name, now, now, now)
        (answer,) = await self._enqueue([new])
        if not isinstance(answer, JobpipeError):
            task = answer.task if isinstance(answer, Known) else answer
            await self._edit([name], ran(name, now, task.id))
        return answer

    async def _edit(self, names: Sequence[str] | None, edit: Edit) -> Edited:
        answer = await self._storage.edit_schedules(names, edit, self._clock.now())
        if isinstance(answer, JobpipeError):
            raise answer
        self.on_change()
        return answer

    # --- making tasks ---

    async def fire(self) -> Fired:
        """Make the tasks of schedules that are due."""
        now = self._clock.now()
        return await carried_out(self._storage.fire(now, SLICE), lambda fired: self._fired(now, fired))

    def _fired(self, now: int, fired: Fired) -> None:
        self.missed += fired.missed
        self.refused += fired.refused
        if fired.answers:
            self._accepted(now, fired.tasks, fired.answers)

    async def next_firing(self) -> float | None:
        """Seconds until there is something to do; None when there never is."""
        ms = await self._storage.next_firing(self._clock.now())
        return None if ms is None else ms / 1000


def _nothing() -> None:
    """Nobody makes tasks of schedules here."""
