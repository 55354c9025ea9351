"""Schedules of a store beside those of the model: said, paused, forgotten, and their tasks made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from msgspec import Struct

from jobpipe.core.errors import JobpipeError
from jobpipe.core.firing import Schedule, Template
from jobpipe.core.schedule_edits import Edited, NoSchedule, Said, delete, pause, put
from jobpipe.core.schedules import CatchUp, Overlap, Timing
from jobpipe.storage.contract import Storage
from prove.model import Model
from prove.timetable import Rule, Timetable

NAMES = ("s0", "s1", "s2")
EVERY = (30, 3_600)
TASKS: tuple[dict[str, Any], ...] = (
    {"handler": "h", "queue": "q0"},
    {"handler": "h", "queue": "q1", "priority": 1, "payload": b"[1]"},
    {"handler": "h", "queue": "q2", "uniqueness": '{"key":"k","until":"end","on_conflict":"return"}'},
)

Check = Callable[[bool, str, object, object], None]
Same = Callable[[str, Sequence[Any], Sequence[Any]], None]


class Wish(Struct, frozen=True):
    """What is said of a schedule; `task` is one of TASKS, `paused` None keeps it."""

    name: str
    every: int = 30
    task: int = 0
    skips: bool = False
    makes_up: bool = True
    paused: bool | None = None


class Timely:
    """Steps of a world that are about schedules; `now` is the store's time, `wall` its caller's."""

    def __init__(self, model: Model, check: Check, same: Same) -> None:
        self.table = Timetable(model)
        self._check, self._same = check, same
        self.came = 0

    async def put(self, store: Storage, wish: Wish, now: int, wall: int) -> None:
        """Make one or change it."""
        task = TASKS[wish.task]
        rule = Rule(wish.name, wish.every, task, wish.skips, wish.makes_up, False, now)
        self.table.put(rule, paused=wish.paused, now=now)
        timing = Timing(
            every=wish.every, overlap=Overlap.SKIP if wish.skips else Overlap.ALLOW,
            catch_up=CatchUp.LATEST if wish.makes_up else CatchUp.NONE,
        )  # fmt: skip
        said = Said(wish.name, timing, Template(b"{}", **task), wish.paused)
        answer = await store.edit_schedules([wish.name], put(said, "ann"), wall)
        self._check(isinstance(answer, Edited), "put", answer, rule)
        await self.look(store)

    async def pause(self, store: Storage, name: str, paused: bool, now: int, wall: int) -> None:
        """Pause one, or let it go on."""
        there = self.table.pause(name, paused=paused, now=now)
        self._edited(there, await store.edit_schedules([name], pause(name, None, paused=paused), wall))

    async def delete(self, store: Storage, name: str, wall: int) -> None:
        """Forget one."""
        self._edited(self.table.delete(name), await store.edit_schedules([name], delete(name), wall))

    def _edited(self, there: bool, answer: Edited | JobpipeError) -> None:
        self._check(isinstance(answer, Edited if there else NoSchedule), "edit", answer, there)

    async def fire(self, store: Storage, limit: int, now: int, wall: int) -> None:
        """Make what is due."""
        missed, due = self._missed(), len(self.table.due(now))
        expected = self.table.fire(now, limit)
        self.came += len(expected)
        fired = await store.fire(wall, limit)
        self._same("fire", fired.answers, expected)
        told = (fired.missed, fired.more, fired.busy)
        wanted = (self._missed() - missed, due >= limit, False)
        self._check(told == wanted, "fired", told, wanted)
        await self.look(store)

    def _missed(self) -> int:
        return sum(rule.missed for rule in self.table.rules.values())

    async def look(self, store: Storage) -> None:
        """Compare all schedules."""
        found = [_says(schedule) for schedule in await store.schedules()]
        wanted = [rule.says() for _, rule in sorted(self.table.rules.items())]
        self._check(found == wanted, "schedules", found, wanted)

    async def look_ahead(self, store: Storage, now: int, wall: int) -> None:
        """Compare when there is something to do."""
        times = [at for rule in self.table.rules.values() if (at := rule.looks_at()) is not None]
        wanted = max(0, min(times) - now) if times else None
        found = await store.next_firing(wall)
        self._check(found == wanted, "next_firing", found, wanted)


def _says(schedule: Schedule) -> tuple[object, ...]:
    error = None if schedule.last_error is None else schedule.last_error.split(":")[0]
    rest = None if schedule.refused is None else (schedule.refused, schedule.tries, schedule.retry_at)
    return (
        schedule.name, schedule.timing.every, schedule.paused, schedule.position, schedule.last_at,
        schedule.last_task, error, schedule.missed, rest,
    )  # fmt: skip
