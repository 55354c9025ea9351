"""What the runs of one worker have in common, whoever begins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from msgspec import Struct

from jobpipe.runtime.clock import Clock
from jobpipe.work.app import App
from jobpipe.work.deadlines import Deadlines
from jobpipe.work.middleware import Middleware
from jobpipe.work.threads import Threads


class Programs(Protocol):
    """Who knows what handlers start."""

    def end(self, task_id: str) -> object:
        """End what the run of this task started: it is past its timeout."""
        ...

    def forget(self, task_id: str) -> object:
        """The run of this task ended in another way."""
        ...


class NoPrograms:
    """Nobody knows what handlers start."""

    def end(self, task_id: str) -> None: ...

    def forget(self, task_id: str) -> None: ...


class Environment(Struct, frozen=True):
    """An app, and what its runs may take.

    A result over `max_result` bytes fails its task. An async handler that is stopped has `cleanup` seconds to end.
    `ends_with_threads`: a thread that nothing stops ends with its process soon, so its run is not settled before.
    `random` gives floats in [0, 1) for the delays of handlers' retry policies; `spans` stand around all middleware.
    """

    app: App[Any]
    clock: Clock
    random: Callable[[], float]
    max_result: int
    cleanup: float
    programs: Programs
    ends_with_threads: bool
    spans: Sequence[Middleware]
    threads: Threads
    deadlines: Deadlines

    @property
    def around(self) -> Sequence[Middleware]:
        """What stands around each run, the outermost first."""
        return [*self.spans, *self.app.around] if self.spans else self.app.around
