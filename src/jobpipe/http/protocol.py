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
from jobpipe.http.connection import BETWEEN, BODY, HEAD, Connection
from jobpipe.http.cycle import Cycle
from jobpipe.http.problems import BadHttp, HeadersTooLarge
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
    """One connection. HEAD_LIMIT is bytes: from the first of the request line to the empty line, both whole."""

    HEAD_LIMIT: ClassVar[int] = 16 * 1024

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parser = self._new_parser()
        self._head = b""
        """What was read of the head; what came in one read behind another request is not in it."""
        self._codings = b""
        self._refusal: JobpipeError | None = None
        self._foreign: str | None = None
        self._upgrading = False

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
        last = not self.pipeline
        if not last:
            self._running = self.pipeline[-1][0]
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if last and self._last_words is not None:
            self._say(self._last_words)
        elif self._unfed and not self.pipeline:
            self.loop.call_soon(self._feed_rest)

    # --- receiving ----------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self.pipeline or self._unfed:
            self._put_aside(data)
            return
        self._unset_keepalive_if_required()
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
        self._unset_keepalive_if_required()
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

    def _feed(self, data: bytes) -> None:
        if self._arriving != BODY:
            self._head += data
        self._parse(data)
        if self._arriving == BETWEEN:
            self._head = b""
        elif (
            len(self._head) > self.HEAD_LIMIT
            and self._arriving == HEAD
            and not self._deaf
            and self._head_too_large()
        ):
            self._refuse(HeadersTooLarge(f"a request's head has at most {self.HEAD_LIMIT} bytes"))

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
        self._arriving = HEAD
        self._codings = b""
        super().on_message_begin()

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
        self._begin_cycle()
        self._arriving = BODY

    def _begin_cycle(self) -> None:
        """uvicorn's own `on_headers_complete`, with our Cycle and nothing for websockets."""
        scope, version = self.scope, self.parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        scope["method"] = self._foreign or self.parser.get_method().decode("ascii")
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
            keep_alive=version != "1.0" and self._foreign is None and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if self._client_ended:
            self.cycle.client_closed()
        if waiting:
            self.pipeline.appendleft((self.cycle, self.app))
        else:
            self._running = self.cycle
            self._start_asgi_task(self.cycle, self.app)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.body += body
            if len(cycle.body) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
            cycle.message_event.set()

    def on_message_complete(self) -> None:
        self._arriving = BETWEEN
        self._head = b""
        if self._upgrading:
            return
        self.cycle.more_body = False
        if not self.cycle.response_complete:
            self.cycle.message_event.set()
        if self._foreign is not None:
            self._foreign = None
            self._hear_no_more()  # who speaks another dialect gets this one answer
