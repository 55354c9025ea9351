"""Servers as connections need to know them: where to connect to, what stands in each request, who stands for whom."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from jobpipe.client.address import Address
from jobpipe.client.exchange import Request, Wire
from jobpipe.core.errors import Invalid

if TYPE_CHECKING:
    import ssl


class Proxy(Struct, frozen=True):
    """An HTTP proxy, and what lets us through."""

    host: str
    port: int
    authorization: str | None


def parse_proxy(url: str) -> Proxy:
    """The proxy at `http://[user:password@]host:port`. Raises Invalid."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose words may hold a piece of a password
        raise Invalid("the proxy is no URL: http://[user:password@]host:port", field="proxy") from None
    if parts.scheme != "http" or not parts.hostname:
        raise Invalid("a proxy is http://[user:password@]host:port", field="proxy")
    words = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        words = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(parts.hostname, port or 80, words)


class Destination:
    """A server as a connection needs to know it: where to connect to, and what stands in every request."""

    def __init__(self, address: Address, headers: Mapping[str, str], proxy: Proxy | None = None) -> None:
        self.address = address
        self.proxy = None if address.socket is not None else proxy
        fixed = {"host": address.authority, **headers}
        prefix = address.prefix
        if self.proxy is not None and not address.tls:  # RFC 9112, 3.2.2: a proxy is told the whole URL
            prefix = address.url
            if self.proxy.authorization is not None:
                fixed["proxy-authorization"] = self.proxy.authorization
        self._prefix = prefix.encode("ascii")
        self._head = header_lines(fixed)

    def __str__(self) -> str:
        return str(self.address)

    @property
    def place(self) -> tuple[str, int]:
        """The host and port to connect to."""
        via = self.proxy or self.address
        return via.host, via.port

    def wire(self) -> Wire:
        """The state of a new connection."""
        if not self.address.tls:
            return Wire()
        return Wire(self._tls, self.address.host, self._tunnel() if self.proxy else b"")

    def _tunnel(self) -> bytes:
        place = f"{self.address.host}:{self.address.port}"
        headers = {"host": place}
        if self.proxy is not None and self.proxy.authorization is not None:
            headers["proxy-authorization"] = self.proxy.authorization
        return b"CONNECT %b HTTP/1.1\r\n%b\r\n" % (place.encode("ascii"), header_lines(headers))

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """What certificates are judged by. Made once, and late: loading them takes 50 ms and more."""
        import ssl

        return ssl.create_default_context()

    def written(self, request: Request) -> bytes:
        """The bytes of a request."""
        body = request.body
        start = b"%b %b%b HTTP/1.1\r\n%b%b" % (
            request.method.encode(), self._prefix, request.path.encode("ascii"), self._head,
            header_lines(request.headers) if request.headers else b"",
        )  # fmt: skip
        if body is None:
            return start + b"\r\n"
        return b"%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (start, len(body), body)


class Destinations:
    """Servers that stand for one another: the current one is used until it fails, then the next."""

    def __init__(self, all_: Sequence[Destination]) -> None:
        self._all = tuple(all_)
        self._at = 0

    def __len__(self) -> int:
        return len(self._all)

    def __str__(self) -> str:
        return ", ".join(map(str, self._all))

    @property
    def current(self) -> Destination:
        """The one to use."""
        return self._all[self._at]

    def failed(self, one: Destination) -> None:
        """Go on to the next, unless somebody did already."""
        if one is self._all[self._at]:
            self._at = (self._at + 1) % len(self._all)


def destinations(addresses: Sequence[Address], headers: Mapping[str, str] | None = None) -> Destinations:
    """Servers to be tried in turn, without a proxy."""
    return Destinations([Destination(address, headers or {}) for address in addresses])


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")
