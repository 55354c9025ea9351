"""A connection's ends: deadlines, refusals, and closing without losing an answer. What comes in is `protocol`'s part.

Timers run only while a request is arriving in more than one piece, or an answer waits to be read. A client that ends
its side gets the answers to what it sent whole; a connection that the server ends early is closed in both directions
only after its answer could be read.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from jobpipe.core.errors import JobpipeError
from jobpipe.http.cycle import STATUS_LINE, Cycle
from jobpipe.http.fastcycle import FastCycle
from jobpipe.http.meter import NO_ROUTE, Meter
from jobpipe.http.problems import TooSlow, problem_answer

BETWEEN, HEAD, BODY = 0, 1, 2
"""What is arriving: nothing that has begun, a request's head, or its body."""


Exchange = Cycle | FastCycle
"""A request and its answer, whichever lane they take."""


class Connection(HttpToolsProtocol):
    """uvicorn's protocol with an end that is decided here. The class attributes are seconds."""

    HEAD_DEADLINE_S: ClassVar[float] = 10.0
    BODY_DEADLINE_S: ClassVar[float] = 30.0
    UNREAD_S: ClassVar[float] = 60.0
    """How long a client may take nothing of an answer that waits for it: the server holds what it does not read."""
    LINGER_S: ClassVar[float] = 2.0

    cycle: Exchange  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter: Meter | None = getattr(self.app, "meter", None)
        self._arriving = BETWEEN
        self._running: Exchange | None = None
        """The request that is worked on, or was last; `cycle` is the one that came last."""
        self._idle_since = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of = BETWEEN
        self._patience: asyncio.TimerHandle | None = None
        self._unfed = b""
        self._last_words: JobpipeError | None = None
        self._deaf = False
        self._lingering = False
        self._client_ended = False
        self._lost: asyncio.Future[None] | None = None

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _due(self) -> list[Exchange]:
        """The requests that wait for their answers or for the end of them, the oldest first."""
        running = self._running
        begun = [] if running is None or running.response_complete else [running]
        return [*begun, *(waiting for waiting, _ in reversed(self.pipeline))]

    # --- the ends -----------------------------------------------------------------------------------------------

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends nothing more; whether the connection stays for the answers that are due."""
        self._client_ended = True
        if self._lingering:
            return False
        due = self._due()
        for cycle in due:
            cycle.client_closed()
        if self._deaf or self._unfed:
            return bool(due or self._unfed)
        return self._take_no_more()

    def shutdown(self) -> None:
        """The server stops: close, after the answers to what has arrived whole."""
        if self._lingering or self.transport.is_closing() or self._last_words is not None:
            return
        self._unfed = b""
        if self._take_no_more():
            self._deaf = True
        else:
            self.transport.close()

    def lost(self) -> asyncio.Future[None]:
        """Done when the connection is closed in both directions."""
        if self._lost is None:
            self._lost = self.loop.create_future()
        return self._lost

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._wait_no_more()
        self._deaf = True
        self._unfed = b""
        for cycle in self._due():  # uvicorn tells the newest alone
            cycle.client_gone()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    def _take_no_more(self) -> bool:
        """Drop the request that has not arrived whole, and close after the last answer; whether any is due."""
        due = self._due()
        if self._arriving == BODY and due and due[-1] is self.cycle:
            if len(due) == 1:
                return False
            self.pipeline.popleft()
            due.pop()
        self._arriving = BETWEEN
        self._disarm()
        if due:
            due[-1].keep_alive = False
        return bool(due)

    # --- deadlines ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the deadline run that fits what is arriving, and none when nothing is."""
        if self._deaf:
            return
        if self._arriving == BETWEEN and self._busy:
            self._disarm()
        elif self._deadline is None or self._deadline_of != self._arriving:
            self._disarm()
            self._arm()

    def _arm(self) -> None:
        seconds = self.BODY_DEADLINE_S if self._arriving == BODY else self.HEAD_DEADLINE_S
        self._deadline_of = self._arriving
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.flow.read_paused or self._unfed:  # it was not the client who stopped
            self._arm()
        elif self._arriving == BETWEEN:
            self.transport.close()
        else:
            self._refuse(TooSlow("the head or the body did not arrive in time"))

    def _rest(self) -> None:
        """Nothing is under way: close when that stays so for long."""
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def timeout_keep_alive_handler(self) -> None:
        # One timer for many requests: setting it anew for each would cost more than parsing one.
        self.timeout_keep_alive_task = None
        if self._arriving != BETWEEN or self._busy or self.transport.is_closing():
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        elif self.transport.get_write_buffer_size():
            self.transport.abort()  # closing would wait until the last answer is read
        else:
            self.transport.close()

    # --- answers that are not read ------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        self._wait_no_more()
        super().resume_writing()

    def _wait_for_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._patience = self.loop.call_later(self.UNREAD_S, self._judge_reader, unread)

    def _judge_reader(self, unread: int) -> None:
        """Go on waiting for a slow client, and cut off one that took nothing."""
        if self.transport.get_write_buffer_size() < unread:
            self._wait_for_reader()
        else:
            self.transport.abort()

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # --- refusing -----------------------------------------------------------------------------------------------

    def _refuse(self, error: JobpipeError) -> None:
        """Read no more of this connection; answer with the error, after the answers that are still due."""
        self._hear_no_more()
        if self._arriving != BODY:
            if self._busy:
                self._last_words = error
            else:
                self._say(error)
        elif self.pipeline:
            self.pipeline.popleft()  # the broken request itself: it never began
            self._last_words = error
        elif self.cycle.response_complete:
            self._linger()
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self.cycle.client_gone()
            self._say(error)

    def _say(self, error: JobpipeError) -> None:
        if self.transport.is_closing():
            return
        status, headers, body = problem_answer(error, close=True)
        if self.meter is not None:
            self.meter.answered("-", NO_ROUTE, status)
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        """End our side, and close when the client has ended its own, or after a moment."""
        self._hear_no_more()
        self._unset_keepalive_if_required()
        self._lingering = True
        self._unfed = b""
        self.pipeline.clear()
        if self.transport.is_closing():
            return
        if self._client_ended:
            self.transport.close()
            return
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(self.LINGER_S, self.transport.close)

    def _hear_no_more(self) -> None:
        """Whatever still comes is read and thrown away: unread, it would make the kernel reset the connection."""
        self._deaf = True
        self._disarm()
