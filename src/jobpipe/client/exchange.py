"""HTTP/1.1 as every connection of this package speaks it (RFC 9112), with TLS and proxies. No I/O here.

A conversation is a generator: it yields bytes to be sent, or None to be given what is received next (b"" at the end).
A connection of either colour carries it out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import httptools
from msgspec import Struct

if TYPE_CHECKING:
    import ssl

T = TypeVar("T")
Conversation: TypeAlias = Generator[bytes | None, bytes, T]

MAX_PROXY_HEAD: Final = 65536
MOST_AROUND: Final = 64 * 1024
"""Bytes of heads, trailers and the like that a server may send without one of a body."""


class Request(Struct, frozen=True):
    """What to send; `body` is JSON. `wait` is how many seconds the server may take on purpose, on top of the timeout.

    `repeatable` says that a second time does no harm, whatever became of the first.
    """

    method: str
    path: str
    body: bytes | None = None
    wait: float = 0.0
    repeatable: bool = False
    headers: Mapping[str, str] = {}


class Answer(Struct, frozen=True):
    """What came back; the names of headers in lower case.

    `resent`: the request went out twice, and may have been carried out the first time.
    """

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = {}
    resent: bool = False

    @property
    def retry_after(self) -> int:
        """Retry-After (RFC 9110, 10.2.3) in whole seconds; 0 without one, and for its other form, a date."""
        text = self.headers.get("retry-after", "")
        return int(text) if len(text) < 10 and text.isascii() and text.isdigit() else 0


class Wire:
    """The state of one connection above its socket: TLS, and the parser of answers."""

    def __init__(self, tls: ssl.SSLContext | None = None, host: str = "", tunnel: bytes = b"") -> None:
        """`tls` judges the certificate of `host`; `tunnel` is what asks a proxy for a way to it, where there is one."""
        self._context, self._host, self._tunnel = tls, host, tunnel
        self._parser = _Parser()
        self._tls: _Tls | None = None
        self.served = False
        """Whether it has carried an answer."""

    @property
    def answering(self) -> bool:
        """Whether anything of the answer under way has come."""
        return self._parser.started

    @property
    def reusable(self) -> bool:
        """Whether another request may follow the last answer."""
        return self._parser.reusable

    def open(self) -> Conversation[None]:
        """All that comes before the first request. Raises OSError."""
        if self._context is None:
            return
        if self._tunnel:
            yield from _through(self._tunnel)
        self._tls = _Tls(self._context, self._host)
        yield from self._tls.handshake()

    def exchange(self, request: bytes, written: Callable[[], None] | None = None) -> Conversation[Answer]:
        """A request, and its answer. Raises OSError, also for what is no HTTP."""
        yield from self.ask(request, written)
        while self._parser.answer is None:
            self._parser.feed((yield from self._receive()))
        self.served = True
        return self._parser.answer

    def ask(self, request: bytes, written: Callable[[], None] | None = None) -> Conversation[int]:
        """A request, and the status of its answer, whose body `pieces` gives."""
        parser = self._parser
        parser.begin()
        try:
            yield request if self._tls is None else self._tls.encrypt(request)
        except TimeoutError:
            raise
        except OSError:
            # Who refuses a long request may have answered before its end and closed: the answer is worth more.
            parser.feed((yield from self._receive()))
        if written is not None:
            written()
        while not parser.status:
            parser.feed((yield from self._receive()))
        return parser.status

    def pieces(self) -> Conversation[bytes]:
        """More of the body of an answer that has no end; b"" after its end."""
        while not self._parser.body and self._parser.answer is None:
            self._parser.feed((yield from self._receive()))
        return self._parser.take()

    def is_quiet(self, data: bytes) -> bool:
        """Whether what came between two requests belongs to the connection, not to an answer that nobody asked for."""
        return bool(data) and self._tls is not None and self._tls.decrypt(data) == b""

    def _receive(self) -> Conversation[bytes]:
        while True:
            data = yield None
            if not data or self._tls is None:
                return data
            if plain := self._tls.decrypt(data):
                return plain


class _Parser:
    """Answers, one after the other, out of pieces."""

    def __init__(self) -> None:
        self._http = httptools.HttpResponseParser(self)
        self.answer: Answer | None = None
        self.reusable = True
        self.begin()

    def begin(self) -> None:
        """A request goes out."""
        self.answer = None
        self.started = False
        self._around = 0
        self.status = 0
        self.body: list[bytes] = []
        self._headers: dict[str, str] = {}

    def feed(self, data: bytes) -> None:
        """Take what came next, b"" for the end. Raises OSError for what is no answer."""
        if not data:
            self._end()
            return
        self.started = True
        self._around += len(data)
        try:
            self._http.feed_data(data)
        except httptools.HttpParserError as error:
            raise ConnectionError(f"not HTTP: {error}") from None
        if self._around > MOST_AROUND:
            raise ConnectionError("the head of the answer does not end")

    def _end(self) -> None:
        """The end of the connection is the end of a body of no said length (RFC 9112, 6.3), else it is too early."""
        if not self.status or "content-length" in self._headers or "transfer-encoding" in self._headers:
            raise ConnectionError("the connection ended before the answer")
        self.reusable = False
        self.answer = Answer(self.status, self.take(), self._headers)

    def take(self) -> bytes:
        """What has come of the body, once."""
        body, self.body = b"".join(self.body), []
        return body

    # --- called by the parser ---

    def on_message_begin(self) -> None:
        if self.answer is not None:
            self.reusable = False  # nobody asked: what comes next would be taken for another's answer

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._http.get_status_code()
        if status < 200:  # an interim answer (RFC 9110, 15.2): the real one follows
            self._headers = {}
        elif self.answer is None:
            self.status = status

    def on_body(self, body: bytes) -> None:
        self._around = 0
        self.body.append(body)

    def on_message_complete(self) -> None:
        self._around = 0
        if self.status and self.answer is None:
            self.reusable = self._http.should_keep_alive()
            self.answer = Answer(self.status, self.take(), self._headers)


class _Tls:
    """TLS over a connection that others read and write."""

    def __init__(self, context: ssl.SSLContext, host: str) -> None:
        import ssl

        self._came, self._goes = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._came, self._goes, server_hostname=host)
        self._want_read = ssl.SSLWantReadError
        self._ended = ssl.SSLZeroReturnError

    def handshake(self) -> Conversation[None]:
        while True:
            try:
                self._object.do_handshake()
            except self._want_read:
                if goes := self._goes.read():
                    yield goes
                data = yield None
                if not data:
                    raise ConnectionError("the connection ended before TLS stood") from None
                self._came.write(data)
            else:
                yield self._goes.read()
                return

    def encrypt(self, data: bytes) -> bytes:
        left = memoryview(data)
        while left:
            left = left[self._object.write(left) :]
        return self._goes.read()

    def decrypt(self, data: bytes) -> bytes:
        """What `data` brings to light; often nothing, where it is TLS's own. Raises OSError at the end."""
        self._came.write(data)
        plain = []
        try:
            while piece := self._object.read(1 << 18):
                plain.append(piece)
        except self._want_read:
            pass
        except self._ended:
            if not plain:
                raise ConnectionError("the connection ended before the answer") from None
        return b"".join(plain)


def _through(tunnel: bytes) -> Conversation[None]:
    """A way through a proxy, for TLS (RFC 9110, 9.3.6)."""
    yield tunnel
    head = b""
    while b"\r\n\r\n" not in head and len(head) < MAX_PROXY_HEAD:
        data = yield None
        if not data:
            raise ConnectionError("the proxy ended the connection")
        head += data
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ConnectionError(f"the proxy answered {head[:100].decode(errors='replace').splitlines()[0]!r}")
