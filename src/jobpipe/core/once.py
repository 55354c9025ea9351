"""What the items of a batch meet, in their order: tasks that have their ids or unique keys already, whether stored or
accepted before in the same batch. The answer says what each is; a store writes it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from jobpipe.core.errors import IdempotencyMismatch, JobpipeError, TaskExists
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Found, Known, Named, meet, name_of


class Taken(Struct, frozen=True):
    """Who has an id: the task's status, and the digest of the request that it came with."""

    status: Status
    digest: str | None = None


def exists(id: str, taken: Taken) -> TaskExists:
    """The answer to a task whose id is taken."""
    return TaskExists(f"a task with id '{id}' exists ({taken.status})", field="id")


class Once:
    """Judges the items of one batch. `living` are the tasks that have one of their unique keys, `replayed` those that
    came of the same request before.
    """

    def __init__(
        self, taken: Mapping[str, Taken], living: Mapping[Named, Task], replayed: Mapping[str, Task], now: int
    ) -> None:
        self._taken = dict(taken)
        self._living = dict(living)
        self._replayed = dict(replayed)
        self._now = now
        self.accepted: dict[int, Task] = {}
        """By seq, in order, as they are to be stored."""
        self.replaced: dict[int, tuple[Task, Task]] = {}
        """Stored tasks by seq: as they were, and as they are to be."""

    def answer(self, new: NewTask) -> Known | JobpipeError | None:
        """What `new` meets; None when nothing is against accepting it but the bounds."""
        taken = self._taken.get(new.id)
        if taken is not None:
            return self._known(new, taken)
        name = name_of(new)
        living = None if name is None else self._living.get(name)
        if living is None or name is None:
            return None
        answer = meet(new, living, self._now)
        if isinstance(answer, Known) and answer.found is Found.REPLACED:
            self._living[name] = answer.task
            self._replace(living, answer.task)
        return answer

    def accept(self, task: Task) -> None:
        """The item was accepted: those after it meet this task."""
        self.accepted[task.seq] = task
        self._taken[task.id] = Taken(task.status, task.digest)
        name = name_of(task)
        if name is not None:
            self._living[name] = task

    def _known(self, new: NewTask, taken: Taken) -> Known | JobpipeError:
        if new.digest is None or taken.digest is None:
            return exists(new.id, taken)
        if new.digest != taken.digest:
            return IdempotencyMismatch(f"task '{new.id}' came of another request")
        return Known(self._replayed.get(new.id) or self._accepted_as(new.id), Found.REPLAYED)

    def _accepted_as(self, id: str) -> Task:
        return next(task for task in self.accepted.values() if task.id == id)

    def _replace(self, old: Task, new: Task) -> None:
        if new.seq in self.accepted:
            self.accepted[new.seq] = new
        else:
            self.replaced[new.seq] = (self.replaced.get(new.seq, (old, old))[0], new)
            if new.id in self._replayed:
                self._replayed[new.id] = new
