"""Gathering changes by task: where each stands, not what it went through, and only so many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from jobpipe.core.change import Change, change_by, change_of
from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Claim, Task

T = TypeVar("T")


class Gathering:
    """An Observer that keeps the latest change of up to `most` tasks until taken; `changed` is to be overridden."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._changes: dict[str, Change] = {}
        self._dropped = 0

    def changed(self) -> None:
        """Something was gathered."""

    def take(self) -> tuple[list[Change], int]:
        """What was gathered since the last time, and how many changes more there were."""
        changes, dropped = list(self._changes.values()), self._dropped
        self.forget()
        return changes, dropped

    def forget(self) -> None:
        """Begin anew."""
        self._changes, self._dropped = {}, 0

    @property
    def gathered(self) -> bool:
        """Whether there is anything to take."""
        return bool(self._changes or self._dropped)

    def gather(self, changes: Iterable[Change], dropped: int = 0) -> None:
        """Changes that another server gathered."""
        self._dropped += dropped
        self._note(changes, lambda change: change.id, lambda change: change)

    def accepted(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        self._note(tasks, lambda task: task.id, change_of)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See Observer."""
        self._note(claims, lambda claim: claim.task.id, lambda claim: change_of(claim.task))

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        self._note(ends, lambda end: end[0].id, lambda end: change_by(*end))

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
        self._note(tasks, lambda task: task.id, change_of)

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer: what is gone is not told, only the counts."""
        for task in tasks:
            self._changes.pop(task.id, None)
        self.changed()

    def _note(self, items: Iterable[T], id_of: Callable[[T], str], change: Callable[[T], Change]) -> None:
        changes = self._changes
        for item in items:
            id = id_of(item)
            if len(changes) < self._most or id in changes:
                changes[id] = change(item)
            else:
                self._dropped += 1
        self.changed()
