"""What people and apps change of schedules. Each edit is a function of what is stored, which a store carries out in one
commit: of the schedules that it names, and the time by the store's own clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import Invalid, JobpipeError, NotFound, TooManySchedules
from jobpipe.core.firing import Schedule, Template
from jobpipe.core.schedules import Timing

MAX_SCHEDULES = 10_000
"""Schedules of a store."""


class NoSchedule(NotFound):
    """No schedule has this name."""

    sentence = "schedule not found"


class Edited(Struct, frozen=True):
    """Schedules as they are to be, and the names of those that are to go."""

    keep: tuple[Schedule, ...] = ()
    drop: tuple[str, ...] = ()
    made: int = 0
    """How many of `keep` are new."""
    says: bool = False
    """Whether it says what a schedule is: servers of an earlier version would not know of it."""


Found = Mapping[str, Schedule]
Edit = Callable[[Found, int], Edited | JobpipeError]
"""Of the schedules that were asked for, those that there are; and the time."""


class Said(Struct, frozen=True):
    """What a schedule is to be. `paused` None keeps what it is."""

    name: str
    timing: Timing
    template: Template
    paused: bool | None = None


def room_for(made: int, there: int) -> JobpipeError | None:
    """Why so many new schedules are refused where there are so many; None when there is room."""
    return (
        TooManySchedules(f"at most {MAX_SCHEDULES} schedules are kept")
        if there + made > MAX_SCHEDULES
        else None
    )


def put(said: Said, by: str | None) -> Edit:
    """People say what a schedule is."""

    def edit(found: Found, now: int) -> Edited:
        old = found.get(said.name)
        new = _as_said(old, said, now)
        return Edited(
            (replace(new, edited=True, changed_at=now, changed_by=by),), made=old is None, says=True
        )

    return edit


def _as_said(old: Schedule | None, said: Said, now: int) -> Schedule:
    """Changed, it begins anew at `now`, but never goes back."""
    paused = bool(said.paused) if said.paused is not None or old is None else old.paused
    if old is None:
        return Schedule(said.name, said.timing, said.template, paused, now)
    new = replace(old, timing=said.timing, template=said.template, paused=paused)
    return old if new == old else replace(new, position=max(old.position, now), refused=None, tries=0)


def pause(name: str, by: str | None, *, paused: bool) -> Edit:
    """People pause a schedule, or let it go on."""

    def edit(found: Found, now: int) -> Edited | JobpipeError:
        old = found.get(name)
        if old is None:
            return NoSchedule(f"no schedule is called '{name}'")
        if old.paused == paused:
            return Edited((old,))
        new = replace(old, paused=paused, position=max(old.position, now), refused=None, tries=0)
        return Edited((replace(new, changed_at=now, changed_by=by),))

    return edit


def delete(name: str) -> Edit:
    """People delete a schedule."""

    def edit(found: Found, now: int) -> Edited | JobpipeError:
        return Edited(drop=(name,)) if name in found else NoSchedule(f"no schedule is called '{name}'")

    return edit


def ran(name: str, at: int, task: str) -> Edit:
    """A task of it was made by hand."""

    def edit(found: Found, now: int) -> Edited:
        old = found.get(name)
        return (
            Edited() if old is None else Edited((replace(old, last_at=at, last_task=task, last_error=None),))
        )

    return edit


def declare(app: str, release: int, said: Sequence[Said]) -> Edit:
    """An app says what its schedules are: they take the place of those that it declared before, if its release is not
    lower. What people changed stays.
    """

    def edit(found: Found, now: int) -> Edited | JobpipeError:
        own = {name: schedule for name, schedule in found.items() if schedule.declared_by == app}
        if any(schedule.release > release for schedule in own.values()):
            return Edited()
        keep: list[Schedule] = []
        for one in said:
            old = found.get(one.name)
            if old is not None and old.declared_by not in (None, app):
                return Invalid(f"is declared by '{old.declared_by}'", field=f"schedules.{one.name}")
            keep.append(_declared(old, one, app, release, now))
        names = {one.name for one in said}
        gone = [schedule for name, schedule in own.items() if name not in names]
        keep += [replace(schedule, declared_by=None, release=0) for schedule in gone if schedule.edited]
        drop = tuple(schedule.name for schedule in gone if not schedule.edited)
        changed = tuple(schedule for schedule in keep if schedule != found.get(schedule.name))
        return Edited(changed, drop, sum(one.name not in found for one in said), says=bool(changed))

    return edit


def _declared(old: Schedule | None, said: Said, app: str, release: int, now: int) -> Schedule:
    edited = old is not None and old.edited
    new = old if old is not None and edited else _as_said(old, replace(said, paused=None), now)
    return replace(new, declared_by=app, release=release)


def moved(schedules: Sequence[Schedule]) -> Edit:
    """Schedules come from another store; those whose names are taken are left out."""

    def edit(found: Found, now: int) -> Edited:
        new = tuple(schedule for schedule in schedules if schedule.name not in found)
        return Edited(new, made=len(new))

    return edit
