"""Changing a task that waits: what may be said, and the task that comes of it."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from jobpipe.core.errors import AlreadyFinished, Invalid, JobpipeError, NotWaiting
from jobpipe.core.task import Status, Task


class Revision(Struct, frozen=True):
    """What is to change of a queued task, each UNSET where nothing is said. `run_at` None means now (ms)."""

    payload: bytes | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    run_at: int | UnsetType | None = UNSET
    max_retries: int | UnsetType = UNSET
    timeout: float | UnsetType | None = UNSET
    expires_at: int | UnsetType | None = UNSET


def moved_by(revision: Revision, ms: int) -> Revision:
    """The same on a clock that is `ms` ahead of the one that its times are of."""
    moved = {
        name: at + ms for name in ("run_at", "expires_at") if isinstance(at := getattr(revision, name), int)
    }
    return replace(revision, **moved)


def revised(task: Task, revision: Revision, now: int) -> Task | JobpipeError:
    """The task as it will be; NotWaiting, AlreadyFinished, or Invalid for one that would expire before it is due."""
    if task.finished:
        return AlreadyFinished(f"task '{task.id}' is {task.status}")
    if task.status is not Status.QUEUED:
        return NotWaiting(f"task '{task.id}' is {task.status}")
    said = {
        name: value for name in Revision.__struct_fields__ if (value := getattr(revision, name)) is not UNSET
    }
    if "run_at" in said:
        said["run_at"] = max(now, said["run_at"] or now)
    changed = replace(task, **said)
    if changed.expires_at is not None and changed.expires_at < changed.run_at:
        field = "run_at" if "run_at" in said else "expires"
        return Invalid("it would expire before it is due", field=field)
    return changed
