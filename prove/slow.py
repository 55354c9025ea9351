"""Slow senders are cut at their deadlines while others go on unharmed, and a thousand idle connections hurt nobody."""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Sequence

from prove.client import Client
from prove.proof import Figure, Trial, none
from prove.raw import Closed, Raw
from prove.servers import serving

HEAD_S, BODY_S = 10.0, 30.0
SLACK_S = 2.0
DRIP_S = 0.5
IDLE = 1_000
HEAD = b"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"


def slow(trial: Trial) -> Sequence[Figure]:
    """Senders that drip a byte at a time, of the head or of the body, beside idle connections and an honest client."""
    senders = trial.sized(20, 50, 200)
    with (
        serving(trial.folder, "--no-pool", "--queue-size", "1000000") as server,
        contextlib.ExitStack() as stack,
    ):
        idle = [stack.enter_context(Raw(server.port)) for _ in range(IDLE)]
        waiting = sum(_answers(connection) for connection in idle)
        heads = [stack.enter_context(_connected(server.port, HEAD + b"X: ")) for _ in range(senders)]
        bodies = [stack.enter_context(_connected(server.port, HEAD + b"\r\n{")) for _ in range(senders)]
        client = Client(server.port, 10)
        times = _drip([*heads, *bodies], client)
        answered = sum(_answers(connection) for connection in idle[:100])
        size = server.rss_mb()
    cut = times.cut
    heads_cut = [cut.get(connection, 99.0) for connection in heads]
    bodies_cut = [cut.get(connection, 99.0) for connection in bodies]
    return [
        Figure("idle connections, after a request each", waiting, at_least=IDLE),
        Figure("slow senders of heads, and as many of bodies", senders),
        Figure("heads cut after, longest", max(heads_cut), "s", at_most=HEAD_S + SLACK_S),
        Figure("  shortest", min(heads_cut), "s", at_least=HEAD_S - SLACK_S),
        Figure("bodies cut after, longest", max(bodies_cut), "s", at_most=BODY_S + SLACK_S),
        Figure("  shortest", min(bodies_cut), "s", at_least=BODY_S - SLACK_S),
        Figure("requests of an honest client meanwhile", times.asked),
        none("  not answered 202", times.refused),
        Figure("  slowest answer", times.slowest * 1000, "ms", at_most=1000),
        none("connections idle for less than a minute that were cut", 100 - answered),
        Figure("memory with all of them", size, "MB"),
    ]


class _Times:
    """When each connection was cut, in seconds since the beginning; what the honest client saw."""

    def __init__(self) -> None:
        self.cut: dict[socket.socket, float] = {}
        self.asked = self.refused = 0
        self.slowest = 0.0


def _drip(connections: Sequence[socket.socket], client: Client) -> _Times:
    times, began = _Times(), time.monotonic()
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() - began < BODY_S + 2 * SLACK_S:
            _be_honest(client, times)
            for key, _ in selector.select(DRIP_S):
                if isinstance(key.fileobj, socket.socket) and _is_cut(key.fileobj):
                    times.cut[key.fileobj] = time.monotonic() - began
                    selector.unregister(key.fileobj)
            for key in list(selector.get_map().values()):
                with contextlib.suppress(OSError):
                    key.fileobj.send(b"x")  # type: ignore[union-attr]
    return times


def _be_honest(client: Client, times: _Times) -> None:
    for _ in range(10):
        before = time.monotonic()
        times.refused += client.ask("POST", "/enqueue", {}).status != 202
        times.slowest = max(times.slowest, time.monotonic() - before)
        times.asked += 1


def _connected(port: int, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 10)
    connection.sendall(data)
    return connection


def _is_cut(connection: socket.socket) -> bool:
    """Read what there is; an answer before the end is not the end."""
    try:
        return not connection.recv(1 << 16)
    except ConnectionError:
        return True


def _answers(connection: Raw) -> bool:
    """Whether a connection is good for one more request."""
    try:
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        return connection.answer().status == 200
    except (Closed, OSError):
        return False
