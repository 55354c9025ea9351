"""What a worker's runs have in common, and where each run starts.

The rules of a run stand in `jobpipe.work.run`, those of values in `jobpipe.work.outcomes`. Which claims run, and how
many at a time, is the pool's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jobpipe.core.task import Claim, Task
from jobpipe.runtime import randomness, tracing
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.work import simulate as simulate_
from jobpipe.work.app import App
from jobpipe.work.deadlines import Deadlines
from jobpipe.work.environment import Environment, NoPrograms, Programs
from jobpipe.work.handler import Handler
from jobpipe.work.run import INFINITY, Observer, Run
from jobpipe.work.spans import traced
from jobpipe.work.threads import Threads

TIMEOUT_S = 3600.0
MAX_RESULT = 1 << 20
CLEANUP_S = 1.0


class Executor:
    """Runs the handlers of `app`, and the built-in `simulate` unless the app has one of its own.

    `timeout` (seconds, `inf` for none) holds for tasks and handlers without their own. The other settings are those of
    `Environment`.
    """

    def __init__(
        self,
        app: App,
        *,
        timeout: float = TIMEOUT_S,
        max_result: int = MAX_RESULT,
        cleanup: float = CLEANUP_S,
        simulate: Handler[..., Any] | None = None,
        programs: Programs | None = None,
        ends_with_threads: bool = False,
        clock: Clock | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self._environment = Environment(
            app=app,
            clock=clock or SystemClock(),
            random=random,
            max_result=max_result,
            cleanup=cleanup,
            programs=programs or NoPrograms(),
            ends_with_threads=ends_with_threads,
            spans=[traced] if tracing.on() else [],
            threads=Threads(),
            deadlines=Deadlines(),
        )
        self._timeout = timeout
        self._simulate = simulate or simulate_.simulate_handler(random=random)

    @property
    def cleanup(self) -> float:
        """Seconds that a handler which is stopped has to end."""
        return self._environment.cleanup

    def prepare(self, claim: Claim, observer: Observer) -> Run:
        """A run of `claim` that has not begun; `observer` is told of its outcome and its end, on the event loop."""
        handler = self.find(claim.task.handler)
        timeout = INFINITY if handler is None else self.timeout_of(claim.task, handler)
        return Run(claim, handler, timeout, self._environment, observer)

    def find(self, name: str) -> Handler[..., Any] | None:
        """The handler that runs tasks naming `name`; None when this worker has none."""
        handler = self._environment.app.get(name)
        if handler is None and name == simulate_.NAME:
            return self._simulate
        return handler

    def timeout_of(self, task: Task, handler: Handler[..., Any]) -> float:
        """Seconds that a run may take: the task's own word, else the handler's, else the server's."""
        if task.timeout is not None:
            return task.timeout
        return self._timeout if handler.timeout is None else handler.timeout

    def close(self) -> None:
        """End the idle threads; waits for nothing, and no run is timed out any more."""
        self._environment.threads.close()
        self._environment.deadlines.close()
