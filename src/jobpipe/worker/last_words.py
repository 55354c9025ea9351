"""One settle over a connection of its own that blocks: for a process whose event loop will never run again."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterable, Mapping

from jobpipe.client.address import Address
from jobpipe.client.claims import settle_body
from jobpipe.core.lifecycle import Outcome
from jobpipe.core.task import Claim

ANSWER_S = 5.0


def tell(address: Address, headers: Mapping[str, str], outcomes: Iterable[tuple[Claim, Outcome]]) -> None:
    """Deliver the outcomes, once. Raises OSError or HTTPException; then the leases are left to run out."""
    body = b"[%b]" % b",".join([settle_body(claim, outcome) for claim, outcome in outcomes])
    connection = _connection(address)
    try:
        connection.request("POST", address.prefix + "/settle", body, dict(headers))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"the server answered {answer.status}")
    finally:
        connection.close()


def _connection(address: Address) -> http.client.HTTPConnection:
    if address.socket is not None:
        return _UnixConnection(address.socket)
    kind = http.client.HTTPSConnection if address.tls else http.client.HTTPConnection
    return kind(address.host, address.port, timeout=ANSWER_S)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self._path)
