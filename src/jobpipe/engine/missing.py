"""Says in the log that tasks wait for handlers which no worker that took them has: a handler's name once a minute."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from jobpipe.core.lifecycle import UNKNOWN_HANDLER, Transition
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import Clock

log = logging.getLogger("jobpipe.tasks")

AGAIN_S = 60
MOST_NAMES = 1000
"""So many are remembered: names come from outside."""


class MissingHandlers:
    """An observer of the queue; tasks wait `handler_wait` seconds."""

    def __init__(self, clock: Clock, handler_wait: float) -> None:
        self._clock = clock
        self._wait = handler_wait
        self._said: dict[str, float] = {}

    def settled(self, ends: Sequence[tuple[Task, Transition]]) -> None:
        """See Observer."""
        for task, to in ends:
            if to.error is not None and to.error.type == UNKNOWN_HANDLER and to.status is Status.QUEUED:
                self._say(task)

    def _say(self, task: Task) -> None:
        now = self._clock.monotonic()
        if now < self._said.get(task.handler, now):
            return
        if len(self._said) >= MOST_NAMES:
            self._said.clear()
        self._said[task.handler] = now + AGAIN_S
        log.warning(
            "task %s: no worker that took it has the handler '%s'; such tasks wait for one, at most %g s each",
            task.id, task.handler, self._wait, extra={"task_id": task.id},
        )  # fmt: skip

    def accepted(self, tasks: Sequence[Task]) -> None:
        """See Observer."""

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See Observer."""

    def steered(self, tasks: Sequence[Task]) -> None:
        """See Observer."""

    def deleted(self, tasks: Sequence[Task]) -> None:
        """See Observer."""
