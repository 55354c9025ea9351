"""Whether tasks may enter: ids are taken once, queues are bounded, and so are their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from msgspec import Struct

from jobpipe.core.errors import JobpipeError, QueueFull, TooManyKeys, TooManyQueues
from jobpipe.core.once import Once
from jobpipe.core.rules import MAX_KEYS
from jobpipe.core.task import NewTask, Task
from jobpipe.core.unique import Answer


class Limits(Struct, frozen=True):
    """Queued tasks a queue, and queue names that hold tasks, at most; `own` is what rules say of single queues."""

    capacity: int
    max_queues: int
    own: Mapping[str, int] = {}

    def of(self, queue: str) -> int:
        """The capacity of a queue."""
        return self.own.get(queue, self.capacity)


class Counted(Protocol):
    """What is there already."""

    def queued(self, queue: str) -> int:
        """How many tasks of `queue` wait, future ones included."""
        ...

    @property
    def queues(self) -> Mapping[str, int]:
        """All queue names that hold tasks of any status."""
        ...

    @property
    def bounds_keys(self) -> bool:
        """Whether there is a queue whose rules tell keys apart."""
        ...

    def key_room(self, queue: str, key: str | None) -> int | None:
        """How many more keys may have waiting tasks in a queue; None where this one may in any case."""
        ...


def fit_surely(tasks: Sequence[NewTask], limits: Limits, counts: Counted) -> bool:
    """Whether all would be accepted if no id were taken: no bound is reached, no id comes twice, and none has a unique
    key, which another one may have. (What was sent before has an id that is taken.)
    """
    wanted = Counter([new.queue for new in tasks])
    names = sum(queue not in counts.queues for queue in wanted)
    return (
        all(counts.queued(queue) + n <= limits.of(queue) for queue, n in wanted.items())
        and len(counts.queues) + names <= limits.max_queues
        and len({new.id for new in tasks}) == len(tasks)
        and not [new for new in tasks if new.uniqueness]
        and (not counts.bounds_keys or _keys_fit(tasks, counts))
    )


def _keys_fit(tasks: Sequence[NewTask], counts: Counted) -> bool:
    rooms = [counts.key_room(queue, key) for queue, key in {(new.queue, new.key) for new in tasks}]
    return all(room is None or room >= len(rooms) for room in rooms)


def judge(
    tasks: Sequence[NewTask], once: Once, limits: Limits, counts: Counted, accept: Callable[[NewTask], Task]
) -> list[Answer]:
    """The answer to each, decided in order: what it meets, why it is refused, or the task that `accept` makes of it."""
    room: dict[str, int] = {}
    keys: dict[str, set[str | None]] = {}
    answers: list[Answer] = []
    for new in tasks:
        answer: Answer | None = once.answer(new) or _no_name(new.queue, room, limits, counts)
        answer = answer or _no_key(new, keys, counts) or _no_room(new.queue, room, limits)
        if answer is None:
            if counts.bounds_keys:
                keys.setdefault(new.queue, set()).add(new.key)
            room[new.queue] -= 1
            answer = accept(new)
            once.accept(answer)
        answers.append(answer)
    return answers


def _no_key(new: NewTask, keys: Mapping[str, set[str | None]], counts: Counted) -> JobpipeError | None:
    """`keys` are those of the same call that were accepted."""
    room = counts.key_room(new.queue, new.key) if counts.bounds_keys else None
    begun = keys.get(new.queue, ())
    if room is None or new.key in begun or room > len(begun):
        return None
    return TooManyKeys(f"{MAX_KEYS} keys of queue '{new.queue}' have waiting tasks already")


def _no_name(queue: str, room: dict[str, int], limits: Limits, counts: Counted) -> JobpipeError | None:
    if queue not in room:
        new_names = sum(name not in counts.queues for name in room)
        if queue not in counts.queues and len(counts.queues) + new_names >= limits.max_queues:
            return TooManyQueues(f"{limits.max_queues} queues hold tasks already")
        room[queue] = limits.of(queue) - counts.queued(queue)
    return None


def _no_room(queue: str, room: Mapping[str, int], limits: Limits) -> JobpipeError | None:
    if room[queue] <= 0:
        return QueueFull(f"queue '{queue}' holds {limits.of(queue)} waiting tasks")
    return None
