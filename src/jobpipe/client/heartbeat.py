"""Extends the leases that a worker holds, from a thread with a connection of its own: a handler that blocks the event
loop must not lose them.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from jobpipe.client.blocking import BlockingConnection
from jobpipe.client.errors import bad_answer, error_of
from jobpipe.client.leases import Held, Leases
from jobpipe.client.outage import Outage, pause
from jobpipe.core.errors import JobpipeError
from jobpipe.runtime.clock import Clock
from jobpipe.wire.working import ExtendBody

logger = logging.getLogger(__name__)

BEATS: Final = 3
"""Heartbeats in the time of one lease."""

MOST_LEASES: Final = 1000
LEAST_S: Final = 0.1
"""The shortest timeout, and the shortest pause after a failure."""


class _Answer(Struct):
    extended: bool
    cancel_requested: bool | None = None


_answers: Final = msgspec.json.Decoder(list[_Answer])


class Heartbeat:
    """Extends all of `leases` by `lease_s`, a few times per lease.

    `tell_cancel` is called at each heartbeat while a cancel is wanted and its run not told, `tell_stop` once for a
    lease that is gone or may be; both in the heartbeat's thread. `beat` does one round, the thread only repeats it.
    """

    def __init__(
        self,
        connection: BlockingConnection,
        worker_id: str,
        lease_s: float,
        leases: Leases,
        *,
        tell_cancel: Callable[[Held], None],
        tell_stop: Callable[[Held], None],
        outage: Outage,
        clock: Clock,
        random: Callable[[], float],
    ) -> None:
        self._connection = connection
        self._worker_id = worker_id
        self._lease_s = lease_s
        self._leases = leases
        self._tell_cancel = tell_cancel
        self._tell_stop = tell_stop
        self._outage = outage
        self._clock = clock
        self._random = random
        self._wake = threading.Event()
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="jobpipe-heartbeat", daemon=True)

    def start(self) -> None:
        """Begin. Called once."""
        self._thread.start()

    def beat_now(self) -> None:
        """Have the next heartbeat at once."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread, also in the middle of a call; wait a second for it at most. Safe twice and before start."""
        self._stopped = True
        self._wake.set()
        self._connection.close()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def beat(self) -> float:
        """Extend all leases once; seconds until the next heartbeat is due."""
        held = self._leases.living()
        if not held:
            return self._interval()
        error = self._extend_all(held)
        self._stop_uncertain(held)
        if error is None:
            self._outage.succeeded("extend")
            return self._interval()
        failures = self._outage.failed("extend", error)
        wait = pause(failures, self._random, error)
        return max(LEAST_S, min(self._interval(), wait, self._certain_for(held)))

    def _run(self) -> None:
        seconds = self._interval()
        while not self._stopped:
            if self._wake.wait(seconds):
                self._wake.clear()
            if self._stopped:
                return
            try:
                seconds = self.beat()
            except Exception:  # a heartbeat that ends would cost this worker every lease
                logger.exception("a heartbeat failed")

    def _interval(self) -> float:
        return self._lease_s / BEATS * (1 - self._random() / 5)

    def _certain_for(self, held: Sequence[Held]) -> float:
        """Seconds until the first of these leases becomes uncertain."""
        ends = [one.certain_until(self._lease_s) for one in held if not one.stopped]
        return min(ends, default=float("inf")) - self._clock.monotonic()

    def _extend_all(self, held: Sequence[Held]) -> JobpipeError | None:
        try:
            for first in range(0, len(held), MOST_LEASES):
                self._extend(held[first : first + MOST_LEASES])
        except JobpipeError as error:
            return error
        return None

    def _extend(self, held: Sequence[Held]) -> None:
        request = ExtendBody(self._worker_id, [one.ref for one in held], self._lease_s)
        # A server that hangs must not keep this thread from stopping runs in time.
        timeout = max(LEAST_S, min(self._lease_s / 4, self._certain_for(held)))
        sent = self._clock.monotonic()
        answer = self._connection.post("/extend", msgspec.json.encode(request), timeout)
        if answer.status != 200:
            raise error_of(answer.status, answer.body, answer.retry_after)
        try:
            answers = _answers.decode(answer.body)
        except ValueError:
            raise bad_answer(answer.status, answer.body) from None
        if len(answers) != len(held):
            raise bad_answer(answer.status, answer.body)
        for one, extended in zip(held, answers, strict=True):
            self._take(one, extended, sent)

    def _take(self, one: Held, answer: _Answer, sent: float) -> None:
        if not answer.extended:
            one.gone = True
            self._stop_run(one, "the server says that its lease is lost")
            return
        one.confirmed = sent
        if answer.cancel_requested and not one.told:
            one.cancelling = True
            self._tell_cancel(one)

    def _stop_uncertain(self, held: Sequence[Held]) -> None:
        now = self._clock.monotonic()
        for one in held:
            if not one.gone and now >= one.certain_until(self._lease_s):
                self._stop_run(one, f"no heartbeat got through for {now - one.confirmed:.1f} s")

    def _stop_run(self, one: Held, reason: str) -> None:
        # A run whose outcome is handed in has ended: its lease may be over because that outcome was just stored.
        if not one.stopped and not one.offered:
            one.stopped = True
            logger.info("task %s is stopped: %s", one.ref.id, reason)
            self._tell_stop(one)
