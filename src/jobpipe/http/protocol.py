"""uvicorn's HTTP/1.1 protocol with limits and deadlines, so that no client can hold more than its share.

A request's head and body must arrive within their deadlines, a head has a bound in bytes, a pipeline has a bound in
requests, and what is malformed is answered with problem details. Timers run only while a request is arriving in more
than one piece. A connection that ends early is closed in both directions only after its answer could be read.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from jobpipe.core.errors import JobpipeError
from jobpipe.http.cycle import Cycle
from jobpipe.http.problems import BadHttp, HeadersTooLarge, TooSlow, problem_answer

_BETWEEN, _HEAD, _BODY = 0, 1, 2
_SLICE = 8 * 1024
"""So much is parsed at a time: it bounds how many requests one read can put into the pipeline."""

_UPGRADE_HEADERS = frozenset({b"upgrade", b"connection", b"http2-settings"})


class _Flow(FlowControl):
    """Reading stays paused while requests wait in the pipeline, whoever would like to go on."""

    def __init__(self, transport: asyncio.Transport, protocol: JobpipeProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self.read_paused and not self._protocol.backlogged:
            super().resume_reading()


class JobpipeProtocol(HttpToolsProtocol):
    """One connection. The class attributes are the limits: bytes and seconds."""

    HEAD_LIMIT: ClassVar[int] = 16 * 1024
    HEAD_DEADLINE_S: ClassVar[float] = 10.0
    BODY_DEADLINE_S: ClassVar[float] = 30.0
    LINGER_S: ClassVar[float] = 2.0

    cycle: Cycle

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arriving = _BETWEEN
        self._head_bytes = 0
        self._deadline: asyncio.TimerHandle | None = None
        self._deadline_of = _BETWEEN
        self._unfed = b""
        self._refusal: JobpipeError | None = None
        self._last_words: JobpipeError | None = None
        self._upgrading = False
        self._deaf = False

    @property
    def backlogged(self) -> bool:
        """Whether something received already waits for its turn."""
        return bool(self.pipeline or self._unfed)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    # --- the connection -----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._deaf = True
        self._unfed = b""
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that sends nothing more still gets the answers to what it sent whole."""
        if self._deaf or self._arriving != _BETWEEN or not self._busy:
            return False
        self.cycle.keep_alive = False
        for cycle in (self.cycle, *(waiting for waiting, _ in self.pipeline)):
            cycle.client_closed()  # type: ignore[attr-defined]
        return True

    def on_response_complete(self) -> None:
        """An answer is out: go on with what waits, or say what was held back for the end."""
        last = not self.pipeline
        super().on_response_complete()
        if last and not self.transport.is_closing():
            if self._last_words is not None:
                self._say(self._last_words)
            elif self._unfed:
                self.loop.call_soon(self._feed_rest)
        elif self._unfed and not self.pipeline:
            self.loop.call_soon(self._feed_rest)

    # --- receiving ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._unfed:
            self._unfed += data  # reading is paused, but what was under way still arrives
            return
        self._unset_keepalive_if_required()
        if len(data) <= _SLICE:
            self._feed(data)
        else:
            self._feed_slices(data)
        if self._arriving != _BETWEEN or self._deadline is not None or not self._busy:
            self._watch()

    def _feed_rest(self) -> None:
        """The pipeline is worked off: parse what was put aside, and read on when that was all."""
        rest, self._unfed = self._unfed, b""
        if self._deaf:
            return
        self._unset_keepalive_if_required()
        self._feed_slices(rest)
        self._watch()
        if not self._busy or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _feed_slices(self, data: bytes) -> None:
        for begin in range(0, len(data), _SLICE):
            if self._deaf:
                return
            if self.pipeline:
                self._unfed = data[begin:]
                self.flow.pause_reading()
                return
            self._feed(data[begin : begin + _SLICE])

    def _feed(self, data: bytes) -> None:
        if self._arriving != _BODY:
            self._head_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse(self._refusal or BadHttp(str(error)))
        else:
            if self._arriving == _HEAD and self._head_bytes > self.HEAD_LIMIT:
                self._refuse(self._head_too_large())

    def on_message_begin(self) -> None:
        self._arriving = _HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving == _HEAD:  # the trailers of a chunked body are nobody's headers
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # The count includes what followed in the same read, or lacks what came before it: near the limit, be exact.
        if self._head_bytes > self.HEAD_LIMIT - _SLICE and self._head_size() > self.HEAD_LIMIT:
            self._refusal = self._head_too_large()
            raise self._refusal
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        self._begin_cycle()
        self._arriving = _BODY

    def _begin_cycle(self) -> None:
        """uvicorn's own `on_headers_complete`, with our Cycle and nothing for websockets."""
        scope, version = self.scope, self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + url.path
        scope["query_string"] = url.query or b""
        waiting = self._busy
        self.cycle = Cycle(
            linger=self._linger,
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if waiting:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._arriving = _BETWEEN
        self._head_bytes = 0
        if not self._upgrading:
            self.cycle.more_body = False
            if not self.cycle.response_complete:
                self.cycle.message_event.set()

    def _head_size(self) -> int:
        return len(self.url) + 20 + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _head_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"a request's head has at most {self.HEAD_LIMIT} bytes")

    def _decline_upgrade(self, rest: bytes) -> None:
        """Read the request again as one that asks for no other protocol: an upgrade may be ignored (RFC 9110, 7.8).

        httptools takes the body of an upgrade for the other protocol, so the head is parsed anew in front of it.
        """
        self._upgrading = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(BadHttp("this is no proxy"))
            return
        head = [b"%b %b HTTP/1.1\r\n" % (method, self.url)]
        head += [b"%b: %b\r\n" % header for header in self.headers if header[0] not in _UPGRADE_HEADERS]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"".join([*head, b"\r\n", rest]))

    # --- deadlines ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the deadline run that fits what is arriving, and none when nothing is."""
        if self._deaf:
            return
        if self._arriving == _BETWEEN and self._busy:
            self._disarm()
        elif self._deadline is None or self._deadline_of != self._arriving:
            self._disarm()
            self._arm()

    def _arm(self) -> None:
        seconds = self.BODY_DEADLINE_S if self._arriving == _BODY else self.HEAD_DEADLINE_S
        self._deadline_of = self._arriving
        self._deadline = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if self.flow.read_paused:  # it was not the client who stopped
            self._arm()
        elif self._arriving == _BETWEEN:
            self.transport.close()
        else:
            self._refuse(TooSlow("the head or the body did not arrive in time"))

    # --- refusing -----------------------------------------------------------------------------------------------

    def _refuse(self, error: JobpipeError) -> None:
        """Read no more of this connection; answer with the error, after the answers that are still due."""
        self._deaf = True
        self._disarm()
        if self._arriving != _BODY:
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
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._say(error)

    def _say(self, error: JobpipeError) -> None:
        if self.transport.is_closing():
            return
        status, headers, body = problem_answer(error, close=True)
        lines = [b"%b: %b\r\n" % header for header in (*self.server_state.default_headers, *headers)]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self._linger()

    def _linger(self) -> None:
        """End our side, and close when the client has ended its own, or after a moment."""
        self._deaf = True
        self._disarm()
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self._unfed = b""
        self.pipeline.clear()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._deadline = self.loop.call_later(self.LINGER_S, self.transport.close)
