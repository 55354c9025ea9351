"""uvicorn's HTTP/1.1 protocol with limits, so that no client can hold more than its share.

A request's head has a bound in bytes, a pipeline one in requests, and what is malformed is answered with problem
details. How long a request may take to arrive, and how a connection ends, is `connection`'s part.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from urllib.parse import unquote

import httptools
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from jobpipe.core.errors import Invalid, JobpipeError
from jobpipe.http.answers import JSON, Reply
from jobpipe.http.connection import BETWEEN, BODY, HEAD, Connection, Exchange
from jobpipe.http.cycle import Cycle
from jobpipe.http.fastcycle import FastCycle, Hot
from jobpipe.http.fastlane import FastLane
from jobpipe.http.problems import CLOSE, BadHttp, HeadersTooLarge
from jobpipe.http.request_line import foreign_method, without_upgrade

_SLICE = 8 * 1024
"""So much is parsed at a time: it bounds how many requests one read can put into the pipeline."""


class _Flow(FlowControl):
    """Once paused, reading stays so while requests wait in the pipeline, whoever would like to go on."""

    def __init__(self, transport: asyncio.Transport, protocol: JobpipeProtocol) -> None:
        super().__init__(transport)
        self._protocol = protocol

    def resume_reading(self) -> None:
        if self.read_paused and not self._protocol.backlogged:
            super().resume_reading()


class JobpipeProtocol(Connection):
    """One connection. HEAD_LIMIT is bytes: from the first of the request line to the empty line, both whole.

    As much may come of what is around a chunked body, without a byte of it: sizes, extensions, and trailers, which the
    parser would gather in quadratic time.
    """

    HEAD_LIMIT: ClassVar[int] = 16 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = self._new_parser()
        self._head = b""
        """What was read of the head; what came in one read behind another request is not in it."""
        self._around = 0
        """Bytes that were read since the latest one of a body, while it is arriving."""
        self._codings = b""
        self._refusal: JobpipeError | None = None
        self._foreign: str | None = None
        self._upgrading = False
        self._lane: FastLane | None = getattr(self.app, "lane", None)
        self._begun = 0
        """Requests that began in what is being parsed."""
        self._held: FastCycle | None = None
        """Begins when the client has read what was answered before."""

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as uvicorn: it is ignored, not malformed
        return parser

    @property
    def backlogged(self) -> bool:
        """Whether something received already waits for its turn."""
        return bool(self.pipeline or self._unfed)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self)
        self._watch()

    def on_response_complete(self) -> None:
        """An answer is out: go on with what waits, or say what was held back for the end."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._running, app = self.pipeline.pop()  # type: ignore[assignment]
            self._start_asgi_task(self._running, app)  # type: ignore[arg-type]
        elif self._last_words is not None:
            self._say(self._last_words)
            return
        else:
            self._rest()
        if self._unfed and not self.pipeline:
            self.loop.call_soon(self._feed_rest)

    def _start_asgi_task(self, cycle: Exchange, app: Any) -> None:  # type: ignore[override]
        if isinstance(cycle, Cycle):
            super()._start_asgi_task(cycle, app)
        elif cycle.more_body:
            self.flow.resume_reading()
        else:
            self.loop.call_soon(cycle.begin)

    def hold(self, cycle: FastCycle) -> bool:
        """Whether the cycle has to wait until the client reads: a task is not leased to one that may never do so."""
        if self.flow.write_paused:
            self._held = cycle
        return self.flow.write_paused

    def answer(self, cycle: FastCycle, reply: Reply) -> None:
        """Write the answer of a request of the fast lane."""
        cycle.response_complete = True
        if cycle.disconnected or self.transport.is_closing() or self._lane is None:
            return
        if self.meter is not None:
            self.meter.answered(cycle.hot.method, cycle.hot.route, reply.status, cycle.began)
        close = not cycle.keep_alive or (reply.headers is not JSON and CLOSE in reply.headers)
        self.transport.write(self._lane.written(reply, close=close))
        if close:
            self.transport.close()
        self.on_response_complete()

    def resume_writing(self) -> None:
        super().resume_writing()
        held, self._held = self._held, None
        if held is not None:
            held.begin()

    # --- receiving ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.pipeline or self._unfed:
            self._put_aside(data)
            return
        if self._lane is not None and self._arriving == BETWEEN and self._begin_known(data):
            return
        if len(data) <= _SLICE:
            self._feed(data)
        else:
            self._feed_slices(data)
        if self._arriving != BETWEEN or self._deadline is not None or not self._busy:
            self._watch()

    def _feed_rest(self) -> None:
        """The pipeline is worked off: parse what was put aside, and read on when that was all."""
        rest, self._unfed = self._unfed, b""
        if self._deaf:
            return
        self._feed_slices(rest)
        if self._client_ended:
            if not (self._deaf or self._unfed or self._take_no_more()):
                self.transport.close()
            return
        self._watch()
        if not self._busy or len(self.cycle.body) <= HIGH_WATER_LIMIT:
            self.flow.resume_reading()

    def _feed_slices(self, data: bytes) -> None:
        for begin in range(0, len(data), _SLICE):
            if self._deaf:
                return
            if self.pipeline:
                self._put_aside(data[begin:])
                return
            self._feed(data[begin : begin + _SLICE])

    def _put_aside(self, data: bytes) -> None:
        """Parse it when the pipeline is worked off. Reading stops only when it is much: who does not read sees no end,
        and a lease would be given to a connection that has closed."""
        self._unfed += data
        if len(self._unfed) > HIGH_WATER_LIMIT:
            self.flow.pause_reading()

    def _begin_known(self, data: bytes) -> bool:
        """Whether `data` is one whole request for the fast lane with a head that was parsed before."""
        end = data.find(b"\r\n\r\n") + 4
        lane = self._lane
        hot = None if lane is None else lane.recall(data[:end])
        if lane is None or hot is None or end + hot.length != len(data):
            return False
        if self._busy or self.flow.write_paused or not lane.admits(hot):
            return False
        if self._deadline is not None:
            self._disarm()
        cycle = self.cycle = self._running = FastCycle(self, hot, keep_alive=True)
        cycle.begin_with(data[end:])
        return True

    def _remember(self, data: bytes) -> None:
        """Know the head again that was all of `data` but the body: then the parser need not read it a second time."""
        cycle = self.cycle
        if isinstance(cycle, FastCycle) and cycle.keep_alive and self._lane is not None:
            size = len(data) - cycle.hot.length
            if data.find(b"\r\n\r\n") + 4 == size:
                self._lane.remember(data[:size], cycle.hot)

    def _feed(self, data: bytes) -> None:
        if self._arriving != BODY:
            self._head += data
        else:
            self._around += len(data)
        fresh, self._begun = self._arriving == BETWEEN, 0
        self._parse(data)
        if self._arriving == BETWEEN:
            self._head = b""
            if fresh and self._begun == 1 and not self._deaf:
                self._remember(data)
        elif (
            len(self._head) > self.HEAD_LIMIT
            and self._arriving == HEAD
            and not self._deaf
            and self._head_too_large()
        ):
            self._refuse(HeadersTooLarge(f"a request's head has at most {self.HEAD_LIMIT} bytes"))
        elif self._around > self.HEAD_LIMIT and self._arriving == BODY and not self._deaf:
            self._refuse(HeadersTooLarge(f"around a body come at most {self.HEAD_LIMIT} bytes"))

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            if self._refusal is not None:
                self._refuse(self._refusal)
            elif not (self._deaf or self._read_as_foreign(data)):
                self._refuse(BadHttp(str(error)))

    def _head_too_large(self) -> bool:
        """Whether the head is over the limit, as far as it has arrived.

        One that began behind another request in the same read is counted by its parts, each header without blanks.
        """
        head = self._head.lstrip(b"\r\n")
        size = (head.find(b"\r\n\r\n") + 4) if b"\r\n\r\n" in head else len(head)
        parts = sum(len(name) + len(value) + 3 for name, value in self.headers)
        line = len(self.parser.get_method()) + len(self.url) + len(b"  HTTP/1.1\r\n")
        return max(size, parts + line + 2) > self.HEAD_LIMIT

    def _read_as_foreign(self, data: bytes) -> bool:
        """Whether llhttp only does not know the method: then, with the line there, the request is read as a GET."""
        if self._arriving != HEAD or self.headers or self._foreign is not None:
            return False
        received = self._head or data
        found = foreign_method(received, behind=not self._head)
        if found is None:
            return False
        self._head = received[found.begin :]
        if found.method is not None:
            self._foreign = found.method.decode("ascii")
            self.parser = self._new_parser()
            self._parse(b"GET" + self._head[len(found.method) :])
        return True

    def _decline_upgrade(self, rest: bytes) -> None:
        """httptools takes the body of an upgrade for the other protocol: the head is parsed anew in front of it."""
        self._upgrading = False
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(BadHttp("this is no proxy"))
            return
        head = without_upgrade(method, self.url, self.parser.get_http_version(), self.headers)
        self.parser = self._new_parser()
        self._parse(head + rest)

    # --- called by the parser -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun += 1
        self._arriving = HEAD
        self._codings = b""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._arriving != HEAD:  # the trailers of a chunked body are nobody's headers
            return
        name = name.lower()
        if name == b"expect":
            self.expect_100_continue = value.lower() == b"100-continue"
        elif name == b"transfer-encoding":
            self._codings += b"," + value
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if len(self._head) > self.HEAD_LIMIT - _SLICE and self._head_too_large():
            self._refusal = HeadersTooLarge(f"a request's head has at most {self.HEAD_LIMIT} bytes")
        elif self._codings and self._codings.lower().strip(b", \t") != b"chunked":
            self._refusal = Invalid("Transfer-Encoding other than chunked is not supported")
        if self._refusal is not None:
            raise self._refusal
        if self.parser.should_upgrade():
            self._upgrading = True
            return
        version = self.parser.get_http_version()
        keep_alive = version != "1.0" and self._foreign is None and self.parser.should_keep_alive()
        hot = self._hot(version)
        cycle = self._cycle(version, keep_alive) if hot is None else FastCycle(self, hot, keep_alive)
        self._arriving = BODY
        self._around = 0
        waiting, self.cycle = self._busy, cycle
        if self._client_ended:
            cycle.client_closed()
        if waiting:
            self.pipeline.appendleft((cycle, self.app))  # type: ignore[arg-type]
        else:
            self._running = cycle
            self._start_asgi_task(cycle, self.app)

    def _hot(self, version: str) -> Hot | None:
        """The request as the fast lane takes it, None when it is not for it."""
        unusual = self._foreign or self._codings or self.expect_100_continue or version != "1.1"
        if self._lane is None or unusual:
            return None
        return self._lane.read(self.parser.get_method(), self.url, self.headers)

    def _scope(self, version: str) -> Any:
        """What uvicorn tells an application, without what is for websockets."""
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        return {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": self.headers,
            "state": self.app_state.copy(),
            "method": self._foreign or self.parser.get_method().decode("ascii"),
            "path": self.root_path + (unquote(path) if "%" in path else path),
            "raw_path": self.root_path.encode("ascii") + url.path,
            "query_string": url.query or b"",
        }

    def _cycle(self, version: str, keep_alive: bool) -> Cycle:
        """A request for the application."""
        return Cycle(
            linger=self._linger,
            scope=self._scope(version),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )

    def on_body(self, body: bytes) -> None:
        cycle, self._around = self.cycle, 0
        if isinstance(cycle, FastCycle):
            cycle.received.append(body)
        elif not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._arriving = BETWEEN
        self._head = b""
        if self._upgrading:
            return
        cycle = self.cycle
        cycle.more_body = False
        if isinstance(cycle, FastCycle):
            if cycle is self._running:
                cycle.begin()
        elif not cycle.response_complete:
            cycle.message_event.set()
        if self._foreign is not None:
            self._foreign = None
            self._hear_no_more()  # who speaks another dialect gets this one answer
