"""What llhttp does not read by itself: methods that it does not know, and requests that ask for another protocol.

Both are parsed again in other words: framed, judged and answered like any other request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_SPOKEN = frozenset({
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT",
})  # fmt: skip
"""Whatever is wrong with a request of these, it is not the method."""

# RFC 9110 (5.6.2). A match begins where a token does, else a search over many tokens would take quadratic time.
_TOKEN = rb"(?<![!#$%&'*+.^_`|~0-9A-Za-z-])[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_LINE = re.compile(rb"(%b) [!-~]+ HTTP/1\.[01]\r\n" % _TOKEN)
_BEGUN = re.compile(rb"%b(?: (?:[!-~]+(?: [HTP/1.0]{0,8}\r?)?)?)?\Z" % _TOKEN)


class Foreign(NamedTuple):
    """Where in what was received a request begins, and its method, None while its first line is incomplete."""

    begin: int
    method: bytes | None


def foreign_method(received: bytes, *, behind: bool) -> Foreign | None:
    """The request in `received` that llhttp stumbled over because of its method; None when that was not why.

    With `behind`, other requests stand before it, and nobody knows where they end: then it is the first that fits. A
    line in somebody's body may be taken for it, which does no harm, as such a request is only ever refused.
    """
    if behind:
        lines = (match for match in _LINE.finditer(received) if match[1] not in _SPOKEN)
        line, begun = next(lines, None), _BEGUN.search(received)
    else:
        start = len(received) - len(received.lstrip(b"\r\n"))
        line, begun = _LINE.match(received, start), _BEGUN.match(received, start)
    if line is not None:
        return None if line[1] in _SPOKEN else Foreign(line.start(), line[1])
    return None if begun is None else Foreign(begun.start(), None)


def without_upgrade(method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The head again, asking for no other protocol, which a server may ignore (RFC 9110, 7.8).

    `Connection` stays as it is: without `Upgrade`, only its `close` and `keep-alive` mean something.
    """
    lines = [b"%b %b HTTP/%b\r\n" % (method, url, version.encode())]
    lines += [b"%b: %b\r\n" % header for header in headers if header[0] != b"upgrade"]
    return b"".join([*lines, b"\r\n"])
