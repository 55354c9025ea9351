"""Finds out when the event loop hangs in a handler: the one thing that the loop's own timers cannot end.

A thread looks now and then for a run that is past its timeout and clean-up and still has no outcome. The loop would
have ended it; if the loop does not even answer, it hangs, and `on_hang` is called with whose fault it is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

from jobpipe.runtime.clock import Clock
from jobpipe.work.run import Run

LOOK_S = 0.25
ANSWER_S = 1.0
"""How long the loop may take to answer: a busy one is slow, and only a hanging one does not answer at all."""


class Watchdog:
    """Watches `loop` for the runs that `runs` gives. `cleanup` is what a handler has after its timeout.

    `on_hang(runs, guilty)` is called in the watchdog's thread, once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        runs: Callable[[], Sequence[Run]],
        cleanup: float,
        on_hang: Callable[[Sequence[Run], Sequence[Run]], None],
        clock: Clock,
    ) -> None:
        self._loop = loop
        self._runs = runs
        self._cleanup = cleanup
        self._on_hang = on_hang
        self._clock = clock
        self._awake = threading.Event()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="jobpipe-watchdog", daemon=True).start()

    def notice(self) -> None:
        """Runs have begun; costs next to nothing while it is awake."""
        if not self._awake.is_set():
            self._awake.set()

    def _watch(self) -> None:
        pause = threading.Event()
        while True:
            runs = self._open_runs()
            if not runs:
                # Cleared before the second look: a run that begins in between sets it again.
                self._awake.clear()
                if not self._open_runs():
                    self._awake.wait()
                continue
            if self._overdue(runs) and not self._answers():
                runs = self._open_runs()
                return self._on_hang(runs, self._guilty(runs))
            pause.wait(LOOK_S)

    def _open_runs(self) -> list[Run]:
        return [run for run in self._runs() if run.started is not None and not run.reported]

    def _overdue(self, runs: Sequence[Run]) -> list[Run]:
        limit = self._clock.monotonic() - self._cleanup
        return [run for run in runs if run.deadline < limit]

    def _answers(self) -> bool:
        answered = threading.Event()
        try:
            self._loop.call_soon_threadsafe(answered.set)
        except RuntimeError:  # closed: the process is about to end
            return True
        return answered.wait(ANSWER_S)

    def _guilty(self, runs: Sequence[Run]) -> list[Run]:
        """The run in which the loop hangs; all that are overdue where that is not seen (an asyncio.Task of its own).

        Not simply the overdue ones: a run may be past its timeout only because another did not let it run.
        """
        return [run for run in runs if run.blocks(self._loop)] or self._overdue(runs)
