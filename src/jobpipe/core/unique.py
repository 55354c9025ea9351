"""Unique keys: at most one living task of a handler has one. How long it lives, and what a second task is told.

A key is judged when a task is accepted and when one is retried by hand; backoff, release and rescue are never refused.
Stores keep the keys that live; what frees them is decided here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, Required, TypedDict

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from jobpipe.core.errors import JobpipeError, NotUnique
from jobpipe.core.task import NewTask, Status, Task


class UniqueRules(TypedDict, total=False):
    """A unique key with its rules as a sender writes them; a bare string is the key alone. See Unique."""

    key: Required[str]
    until: Literal["end", "start"] | float
    on_conflict: Literal["return", "reject", "replace"]
    within: float


class OnConflict(StrEnum):
    """What a second task is told: the living one; that it is refused; or the living one takes its payload and time."""

    RETURN = "return"
    REJECT = "reject"
    REPLACE = "replace"


class Unique(Struct, frozen=True, omit_defaults=True):
    """A unique key and its rules. It lives `until` the task's end, its first claim ("start"), or for so many seconds
    after the acceptance, ended or not. `within` (seconds) is for how long after it `replace` may put the task off.
    """

    key: str
    until: Literal["end", "start"] | float = "end"
    on_conflict: OnConflict = OnConflict.RETURN
    within: float | None = None

    def lives_until(self, accepted_at: int) -> int | None:
        """When its seconds are over (ms); None for one that lives by the task's status."""
        return accepted_at + round(self.until * 1000) if isinstance(self.until, float) else None


class Found(StrEnum):
    """Why a task in the answer is not a new one."""

    DEDUPLICATED = "deduplicated"
    REPLACED = "replaced"
    REPLAYED = "replayed"


class Known(Struct, frozen=True):
    """The answer to a task that was not accepted anew: the one that stands for it, as it is now."""

    task: Task
    found: Found

    @property
    def replaced(self) -> bool:
        """Whether the task was changed."""
        return self.found is Found.REPLACED


Answer = Task | Known | JobpipeError
"""What becomes of a task that is to be accepted: it, the one that stands for it, or why not."""
Named = tuple[str, str]
"""A unique key: its handler, and itself."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Unique, strict=False).decode


def text_of(unique: Unique) -> str:
    """As a task keeps it: JSON, with every rule that is in force."""
    within = {} if unique.within is None else {"within": unique.within}
    return _encode(
        {"key": unique.key, "until": unique.until, "on_conflict": unique.on_conflict, **within}
    ).decode()


def returning(uniqueness: str) -> str:
    """The same key and rules, but that a second task is told of the living one instead of being refused."""
    unique = _decode(uniqueness)
    reject = unique.on_conflict is OnConflict.REJECT
    return text_of(replace(unique, on_conflict=OnConflict.RETURN)) if reject else uniqueness


def unique_of(task: Task | NewTask) -> Unique | None:
    """The task's unique key with its rules."""
    return None if task.uniqueness is None else _decode(task.uniqueness)


def name_of(task: Task | NewTask) -> Named | None:
    """What the task's unique key is called; None when it has none."""
    unique = unique_of(task)
    return None if unique is None else (task.handler, unique.key)


def may_replace(new: NewTask) -> bool:
    """Whether it changes the living task instead of being answered with it."""
    unique = unique_of(new)
    return unique is not None and unique.on_conflict is OnConflict.REPLACE


def claim_frees(task: Task) -> bool:
    """Whether the first claim of the task frees its key."""
    unique = unique_of(task)
    return unique is not None and unique.until == "start"


def retry_takes(task: Task, now: int) -> bool:
    """Whether a retry by hand needs the key again: not when its seconds have passed."""
    unique = unique_of(task)
    if unique is None:
        return False
    until = unique.lives_until(task.created_at)
    return until is None or until > now


def lives(task: Task, now: int) -> bool:
    """Whether a task that comes from another store brings its key along."""
    unique = unique_of(task)
    if unique is None or unique.lives_until(task.created_at) is not None:
        return retry_takes(task, now)
    return not task.finished and (unique.until == "end" or task.attempts == 0)


def meet(new: NewTask, living: Task, now: int) -> Known | JobpipeError:
    """The answer to `new`, whose unique key `living` has. With `REPLACED` its task is what is to be stored."""
    unique = unique_of(new)
    if unique is None or unique.on_conflict is OnConflict.REJECT:
        return NotUnique(f"task '{living.id}' has the unique key ({living.status})")
    if unique.on_conflict is OnConflict.RETURN or living.status is not Status.QUEUED:
        return Known(living, Found.DEDUPLICATED)
    run_at = now if new.run_at is None or new.run_at < now else new.run_at
    if unique.within is not None:
        run_at = min(run_at, living.created_at + round(unique.within * 1000))
    changed = replace(
        living, payload=new.payload, priority=new.priority, run_at=run_at, expires_at=new.expires_at
    )
    return Known(changed, Found.REPLACED)
