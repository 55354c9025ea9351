"""Where a server is: `http://host:port`, `https://host`, either with a path before the routes, or `unix:/path/to.sock`.

Parsed once, and used by every way of connecting that this package has.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from msgspec import Struct

from jobpipe.core.errors import Invalid
from jobpipe.core.masking import masked

DEFAULT_URL: Final = "http://127.0.0.1:8080"
_BETWEEN: Final = re.compile(r",(?=\s*(?:https?://|unix:))")
"""A comma alone may belong to a path."""

_PORTS: Final = {"http": 80, "https": 443}


class Address(Struct, frozen=True):
    """A parsed address. `socket` is the path of a Unix socket; `prefix` stands before every route's path."""

    host: str
    port: int
    tls: bool = False
    socket: str | None = None
    prefix: str = ""

    @property
    def url(self) -> str:
        """The base URL of requests; over a Unix socket the host is a name only."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.prefix}"

    @property
    def authority(self) -> str:
        """What the Host header says (RFC 9110, 7.2)."""
        if self.socket is not None:
            return self.host
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"

    @property
    def local(self) -> bool:
        """Whether the server is on this machine for certain."""
        if self.socket is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else self.url


def parse_address(url: str) -> Address:
    """The address that `url` says. Raises Invalid."""
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        # unix:///run/x.sock, as other tools write it, is the same path
        path = "/" + path.lstrip("/") if path.startswith("//") else path
        if not path:
            raise Invalid("unix: needs the path of a socket", field="url")
        return Address("localhost", 0, socket=path)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # whose words may hold a piece of a password
        raise Invalid(f"{masked(url)!r} is no URL", field="url") from None
    if parts.scheme not in _PORTS or not parts.hostname or parts.query or parts.fragment:
        raise Invalid(f"{masked(url)!r} is neither http://host:port nor unix:/path/to.sock", field="url")
    if parts.username is not None or parts.password is not None:
        raise Invalid("a key belongs into `key`, not into the URL", field="url")
    return Address(
        host=parts.hostname,
        port=port or _PORTS[parts.scheme],
        tls=parts.scheme == "https",
        prefix=parts.path.rstrip("/"),
    )


def parse_addresses(text: str) -> list[Address]:
    """One address, or several with commas between. Raises Invalid."""
    return [parse_address(url.strip()) for url in _BETWEEN.split(text)]


def resolve(
    url: str | None,
    key: str | None,
    environ: Mapping[str, str] = os.environ,
    urls: Sequence[str] | None = None,
) -> tuple[list[Address], str | None]:
    """The addresses and key to use: as given, else from JOBPIPE_URL and JOBPIPE_KEY, else the default address.

    The key of the environment goes with the URL of the environment: never to an address that the code names itself.
    """
    if url is not None and urls is not None:
        raise Invalid("either url or urls", field="urls")
    if urls is not None:
        if isinstance(urls, str) or not urls:
            raise Invalid("urls is a list of one URL or more", field="urls")
        return [parse_address(one) for one in urls], key
    if url is not None:
        return parse_addresses(url), key
    found = parse_addresses(environ.get("JOBPIPE_URL") or DEFAULT_URL)
    return found, key or environ.get("JOBPIPE_KEY") or None


def authorization(key: str | None) -> dict[str, str]:
    """The header that carries the key, if there is one. Raises Invalid for a key that no header can carry."""
    if key is None:
        return {}
    if not key.isascii() or not key.isprintable():
        raise Invalid("a key is printable ASCII", field="key")
    return {"authorization": f"Bearer {key}"}
