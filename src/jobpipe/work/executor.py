"""Makes one Outcome of one Claim: what a worker's runs have in common, and where each run starts.

The rules of a run stand in `jobpipe.work.run`, those of values in `jobpipe.work.outcomes`. Which claims run, and how
many at a time, is the pool's to say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim, Task
from jobpipe.runtime import randomness, tracing
from jobpipe.runtime.clock import Clock, SystemClock
from jobpipe.work import simulate as simulate_
from jobpipe.work.app import App
from jobpipe.work.deadlines import Deadlines
from jobpipe.work.handler import Handler
from jobpipe.work.middleware import Middleware
from jobpipe.work.run import Observer, Run
from jobpipe.work.spans import traced
from jobpipe.work.threads import Threads

TIMEOUT_S = 3600.0
MAX_RESULT = 1 << 20
CLEANUP_S = 1.0


class Executor:
    """Runs the handlers of `app`, and the built-in `simulate` unless the app has one of its own.

    `timeout` (seconds, `inf` for none) holds for tasks and handlers without their own. A result over `max_result`
    bytes fails its task. An async handler that is stopped has `cleanup` seconds to end before it is settled
    without. `random` gives floats in [0, 1) for the delays of handlers' retry policies.
    """

    def __init__(
        self,
        app: App,
        *,
        timeout: float = TIMEOUT_S,
        max_result: int = MAX_RESULT,
        cleanup: float = CLEANUP_S,
        simulate: Handler[..., Any] | None = None,
        clock: Clock | None = None,
        random: Callable[[], float] = randomness.random,
    ) -> None:
        self.clock = clock or SystemClock()
        self.random = random
        self.max_result = max_result
        self.cleanup = cleanup
        self.threads = Threads()
        self.ends_with_threads = False
        """Whether a thread that nothing stops ends with its process soon: then its run is not settled before."""
        self.end_programs: Callable[[str], object] = _nothing
        """Ends what the run of this task started, once it is past its timeout; `forget_programs` is for other ends."""
        self.forget_programs: Callable[[str], object] = _nothing
        self.deadlines = Deadlines()
        self.leaving = False
        """Whether the worker stops: a run that cannot enqueue any more is given back then."""
        self.app = app
        self._spans = [traced] if tracing.on() else []
        self._timeout = timeout
        self._simulate = simulate or simulate_.simulate_handler(random=random)

    @property
    def around(self) -> Sequence[Middleware]:
        """What stands around each run, the outermost first."""
        return [*self._spans, *self.app.around] if self._spans else self.app.around

    def prepare(self, claim: Claim, observer: Observer) -> Run:
        """A run of `claim` that has not begun; `observer` is told of its outcome and its end, on the event loop."""
        return Run(claim, self, observer)

    async def run(self, claim: Claim) -> Outcome:
        """Run one claim to its outcome. Cancelling this call stops the handler as a release does."""
        waiter = _Waiter()
        run = self.prepare(claim, waiter)
        run.begin()
        try:
            return await waiter.outcome
        except asyncio.CancelledError:
            run.release()
            raise

    def find(self, name: str) -> Handler[..., Any] | None:
        """The handler that runs tasks naming `name`; None when this worker has none."""
        handler = self.app.get(name)
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
        self.threads.close()
        self.deadlines.close()


def _nothing(_: str) -> None:
    """Nobody knows what handlers start."""


class _Waiter:
    """An observer that keeps the outcome for one who waits."""

    def __init__(self) -> None:
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_outcome(self, run: Run, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def on_end(self, run: Run) -> None:
        pass

    def on_overstay(self, run: Run) -> bool:
        return False
