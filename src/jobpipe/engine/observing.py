"""Who watches the queue: metrics, the history of the charts, the stream of live changes.

An observer is told after the commit, once per batch, on the queue's loop. It must be quick and must not raise: the
tasks it hears of are done with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jobpipe.core.lifecycle import Transition
from jobpipe.core.task import Claim, Task


class Observer(Protocol):
    """What an observer is told."""

    def accepted(self, tasks: Sequence[Task]) -> None:
        """These were enqueued."""
        ...

    def claimed(self, claims: Sequence[Claim]) -> None:
        """These were handed to a worker."""
        ...

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """These runs came to their end: the task as it was claimed, and what was written."""
        ...

    def steered(self, tasks: Sequence[Task]) -> None:
        """These were cancelled (running ones: marked) or queued again by hand; as they are now."""
        ...

    def deleted(self, tasks: Sequence[Task]) -> None:
        """These finished tasks were forgotten by hand; as they were."""
        ...
