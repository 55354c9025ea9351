"""Bare readers of `GET /events`: they read, throw away, and count only that something came."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

from bench.client import TIMEOUT_S, BenchError

ASK = b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@contextlib.contextmanager
def reading(port: int, readers: int) -> Iterator[None]:
    """So many read for as long as this lasts. Raises BenchError when one of them got nothing."""
    got = [0] * readers
    sockets = [socket.create_connection(("127.0.0.1", port), TIMEOUT_S) for _ in range(readers)]
    threads = [threading.Thread(target=_read, args=(got, i, sockets[i]), daemon=True) for i in range(readers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for connection in sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        for connection in sockets:
            connection.close()
    if 0 in got:
        raise BenchError("a reader of live changes got none")


def _read(got: list[int], i: int, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.sendall(ASK)
        while data := connection.recv(1 << 18):
            got[i] += data.count(b"event: delta")
