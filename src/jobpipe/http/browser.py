"""Who may ask, judged by the head of the request before anything else is done with it.

With API keys the key is judged (`keys`), which no page of another site can know. Without them the danger is a browser:
a page of another site that posts to this server, or a name of an attacker that resolves to its address (DNS rebinding).
Both are told by headers that a page cannot forge.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from jobpipe.core.errors import Forbidden, Invalid, JobpipeError
from jobpipe.http.answers import Scope
from jobpipe.http.keys import Keyring
from jobpipe.http.problems import WrongHost
from jobpipe.http.routing import raw_path

HEAD = "jobpipe.head"
"""Key of the scope: the headers that the routes look at, by name."""

IDEMPOTENCY_KEY = b"idempotency-key"

_WANTED = frozenset({
    b"host",
    b"authorization",
    b"origin",
    b"sec-fetch-site",
    b"sec-fetch-mode",
    b"content-type",
    b"content-length",
    b"content-encoding",
    b"last-event-id",
    b"traceparent",
    b"x-jobpipe-local",
    IDEMPOTENCY_KEY,
})  # fmt: skip
_FOREIGN = (b"cross-site", b"same-site")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:/?#@,\s]+)(?::([0-9]{1,5})?)?")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]+")
_PORTS = {"http": 80, "https": 443}
_REMEMBERED = 1000


class Guard:
    """The rules of one server. `allowed_hosts` are lower-case names, without ports; without `keys` none is needed."""

    def __init__(self, allowed_hosts: frozenset[str], keys: Keyring | None = None) -> None:
        self._allowed = allowed_hosts
        self._keys = keys
        self._hosts: dict[bytes, bool] = {}

    def judge(self, scope: Scope) -> JobpipeError | None:
        """Why the request is refused, None when it is not; puts the wanted headers into the scope."""
        head = scope[HEAD] = pick(scope["headers"])
        return self.refusal(scope["method"], raw_path(scope), head, scope["http_version"])

    def refusal(
        self, method: str, path: bytes, head: dict[bytes, bytes], version: str = "1.1"
    ) -> JobpipeError | None:
        """The same for a request by its parts: the raw path below the app's root, and the headers that `pick` gives."""
        host = head.get(b"host")
        if host is None:
            if version != "1.0":
                return Invalid("the Host header is missing")
        elif b"," in host:
            return Invalid("more than one Host header")
        if self._keys is not None:
            return self._keys.refusal(method, path, head.get(b"authorization"))
        if host is not None and not self._serves(host):
            return WrongHost(_UNSERVED)
        site, origin = head.get(b"sec-fetch-site"), head.get(b"origin")
        if site is None and origin is None:
            return None
        if site not in _FOREIGN and (origin is None or _same_origin(origin, host)):
            return None
        return None if _is_visit(method, path, head) else Forbidden("requests from other sites are refused")

    def _serves(self, host: bytes) -> bool:
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= _REMEMBERED:
                self._hosts.clear()
            known = self._hosts[host] = self._judge_host(host)
        return known

    def _judge_host(self, host: bytes) -> bool:
        parsed = _split_host(host, None)
        if parsed is None:
            return False
        name = parsed[0]
        return name in self._allowed or _PLAIN_NAME.fullmatch(name) is not None or _is_address(name)


_UNSERVED = "the Host is neither an IP address, nor a name without dots, nor among the allowed hosts"


def pick(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The wanted headers; one that came twice is joined by a comma, as RFC 9110 (5.3) reads it."""
    head: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _WANTED:
            head[name] = head[name] + b", " + value if name in head else value
    return head


def _is_visit(method: str, path: bytes, head: dict[bytes, bytes]) -> bool:
    """Somebody followed a link to the front page."""
    return path == b"/" and method == "GET" and head.get(b"sec-fetch-mode") == b"navigate"


def _same_origin(origin: bytes, host: bytes | None) -> bool:
    scheme, separator, place = origin.decode("latin-1").lower().partition("://")
    port = _PORTS.get(scheme)
    if not separator or port is None or host is None:
        return False
    # A proxy may have ended TLS: whether the Host's missing port is 80 or 443, the browser's own scheme tells.
    theirs = _split_host(place.encode("latin-1"), port)
    return theirs is not None and theirs == _split_host(host, port)


def _split_host(host: bytes, default: int | None) -> tuple[str, int | None] | None:
    """Name (lower-case, IPv6 in brackets) and port, None when it is no host at all."""
    match = _HOST.fullmatch(host.decode("latin-1").lower())
    if match is None:
        return None
    port = int(match[2]) if match[2] else default
    return None if port is not None and port > 65535 else (match[1], port)


def _is_address(name: str) -> bool:
    try:
        return (IPv6Address(name[1:-1]) if name.startswith("[") else IPv4Address(name)) is not None
    except AddressValueError:
        return False
