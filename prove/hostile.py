"""One hostile connection beside an honest client, and what a request costs as it grows; over both ways in."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence

import psutil

from prove.bad_input import get, post
from prove.client import Client
from prove.proof import Broken, Figure, Trial, none
from prove.raw import Closed, Raw
from prove.servers import Server, serving

MIB = 1024 * 1024
SLOWEST_MS = 500.0
TRIES = 3
"""Somebody else on the machine may hold up a request once; an attack that does it does it each time."""
RATIO = 3.0
TICK_S = 0.01
"""So finely the system tells a process's time."""
ENOUGH_S = 0.05
"""What takes the server less time than this of a processor may be timed wrongly, and harms nobody."""
PACE_S = 0.01
SIZES = (3 * MIB // 2, 3 * MIB)
"""Both above 1 MiB: up to there a settle may end in another refusal, and both are read whole."""
CHUNKED = b"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
ROUTES = ("/enqueue", "/lease", "/settle", "/extend", "/tasks/cancel")
FLAGS = ("--queue-size", "1000000", "--max-body", "4MiB")

Attack = Callable[[], Iterator[bytes]]
Connect = Callable[[], socket.socket]


def _body(size: int) -> bytes:
    """What costs quadratic time where a pattern that assumes valid JSON runs over it."""
    return b"[" * 3000 + b'"' + b'\\"' * (size // 2)


def _forever(head: bytes, unit: bytes) -> Attack:
    return lambda: iter((head, *([unit * (MIB // len(unit))] * 16)))


def _trickle() -> Iterator[bytes]:
    yield b"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nX: "
    for _ in range(5000):
        yield b"x"
        time.sleep(0.0005)


ATTACKS: dict[str, Attack] = {
    "trailers without end": _forever(CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"a"),
    "many trailers": _forever(CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: a\r\n"),
    "an extension of a chunk without end": _forever(CHUNKED + b"2;", b"a"),
    "chunks of one byte": _forever(CHUNKED, b"1\r\n \r\n"),
    "a header without end": _forever(b"GET / HTTP/1.1\r\nX: ", b"a"),
    "headers without end": _forever(b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
    "a head, byte by byte": _trickle,
    "a deep body": lambda: iter([post(b"[" * MIB)]),
    "a long body of quotes": lambda: iter([post(_body(MIB))]),
    "a long body to settle": lambda: iter([post(_body(4 * MIB), "/settle")]),
    "a batch of bad tasks": lambda: iter([post(b"[" + b'{"x":1},' * 9_999 + b"{}]")]),
    "a pipeline of 20,000": lambda: iter([get("/healthz") * 20_000]),
    "a pipeline of bad requests": lambda: iter([post(b"{") * 10_000]),
    "a refused body": _forever(post(b"", "/nowhere").replace(b"h: 0", b"h: 99999999"), b"x"),
    "a body for another host": _forever(
        b"POST /enqueue HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 99999999\r\n\r\n", b"x"
    ),
    "a body that is too large": _forever(
        b"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\n\r\n", b"x"
    ),
}


def hostile(trial: Trial) -> Sequence[Figure]:
    """Each attack again and again on one connection at a time, while an honest client asks and enqueues."""
    seconds = trial.sized(1, 3, 10)
    slowest: dict[str, float] = {}
    refused = asked = again = 0
    with serving(trial.folder, *FLAGS, "--processes", "1") as server:
        for way, connect in _ways(server):
            for what, attack in ATTACKS.items():
                for number in range(TRIES):
                    honest = _Honest(server)
                    with _attacking(connect, attack):
                        honest.go_on(seconds)
                    refused, asked, again = (
                        refused + honest.refused,
                        asked + honest.asked,
                        again + bool(number),
                    )
                    if honest.slowest_s * 1000 <= SLOWEST_MS:
                        break
                slowest[f"{what}, {way}"] = honest.slowest_s
        figures = list(_growth(server, trial.sized(2, 3, 5)))
        healthy = server.get("/readyz").get("status") == "ok"
    worst = max(slowest, key=lambda what: slowest[what])
    for what, took in sorted(slowest.items(), key=lambda one: -one[1]):
        print(f"{took * 1000:7.1f} ms  {what}")
    return [
        Figure("attacks, over TCP and the socket of the server's own workers", len(slowest)),
        Figure("  tried again, since the machine may have been busy", again),
        Figure("requests of an honest client meanwhile", asked),
        none("  not answered 200 or 202", refused),
        Figure(f"  slowest ({worst})", slowest[worst] * 1000, "ms", at_most=SLOWEST_MS),
        *figures,
        none("servers harmed", not healthy),
    ]


class _Honest:
    """An honest client: one request after the other, none of which may wait for the attacker."""

    def __init__(self, server: Server) -> None:
        self._client = Client(server.port, 60)
        self.slowest_s = 0.0
        self.refused = self.asked = 0

    def go_on(self, seconds: float) -> None:
        """Ask and enqueue in turns."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for method, path, body in (("GET", "/healthz", None), ("POST", "/enqueue", {"delay": 3600})):
                before = time.monotonic()
                self.refused += self._client.ask(method, path, body).status not in (200, 202)
                self.slowest_s = max(self.slowest_s, time.monotonic() - before)
                self.asked += 1
            time.sleep(PACE_S)
        self._client.close()


@contextlib.contextmanager
def _attacking(connect: Connect, attack: Attack) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=_attack, args=(connect, attack, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _attack(connect: Connect, attack: Attack, over: threading.Event) -> None:
    """Send it, read what comes, and begin again when that ends or the server closes."""
    while not over.is_set():
        with contextlib.suppress(OSError), contextlib.closing(connect()) as connection:
            connection.settimeout(1)
            reader = threading.Thread(target=_read, args=(connection,))
            reader.start()
            try:
                for data in attack():
                    connection.sendall(data)
                    if over.is_set():
                        break
                connection.shutdown(socket.SHUT_WR)
            finally:
                reader.join()


def _read(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


def _ways(server: Server) -> Iterator[tuple[str, Connect]]:
    yield "TCP", lambda: socket.create_connection(("127.0.0.1", server.port), 10)
    path = _socket_of(server.process.pid)
    if path is not None:
        yield "the workers' socket", lambda: _over_unix(path)


def _socket_of(pid: int) -> str | None:
    """Where the server's own workers come in (Linux): a socket that the server holds open, its file removed."""
    folder = f"/proc/{pid}/fd"
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        with contextlib.suppress(OSError):
            if os.readlink(f"{folder}/{name}").endswith("/s (deleted)"):
                return f"{folder}/{name}"
    return None


def _over_unix(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    connection.connect(path)
    return connection


def _growth(server: Server, rounds: int) -> Iterator[Figure]:
    """Each shape of a request, and twice as much of it: the best of some rounds, in turns, by the server's own time."""
    shapes = {
        "[": lambda n: b"[" * n,
        '[ x 3000, ", then \\"': _body,
        "many objects": lambda n: b"[" + b'{"a":1},' * (n // 8) + b"1]",
        "keys": lambda n: b"{" + b'"a":1,' * (n // 6) + b'"b":1}',
        "digits": lambda n: b'{"payload":' + b"9" * n + b"}",
        "escapes": lambda n: b'{"payload":"' + b"\\u00e4" * (n // 6) + b'"}',
        "blanks": lambda n: b" " * n + b"{",
    }
    worst, which = 0.0, "none took long enough to tell"
    longest, what_took = 0.0, ""
    for path in ROUTES:
        for what, make in shapes.items():
            small, large = _timed(server, path, make, rounds)
            if large > longest:
                longest, what_took = large, f"{path} {what}"
            if large > ENOUGH_S and (ratio := (large - TICK_S) / (small + TICK_S)) > worst:
                worst, which = ratio, f"{path} {what}"
    yield Figure("shapes of requests, 1.5 MiB and doubled", len(shapes) * len(ROUTES))
    yield Figure(
        f"  most of a processor's time for one ({what_took})", longest * 1000, "ms", at_most=SLOWEST_MS
    )
    yield Figure(f"  most that twice the bytes cost ({which})", worst, "times", at_most=RATIO)


def _timed(server: Server, path: str, make: Callable[[int], bytes], rounds: int) -> tuple[float, float]:
    sizes = [post(make(size), path) for size in SIZES]
    best = [
        min(times)
        for times in zip(*([_once(server, data) for data in sizes] for _ in range(rounds)), strict=True)
    ]
    return best[0], best[1]


def _once(server: Server, data: bytes) -> float:
    """The processor's seconds that the server took for one request: what others do on this machine does not count."""
    process = psutil.Process(server.process.pid)
    before = sum(process.cpu_times()[:2])
    try:
        with Raw(server.port) as connection:
            connection.send(data)
            connection.answer()
    except (Closed, OSError) as error:
        raise Broken(f"no answer to {data[:40]!r}: {error}") from None
    return float(sum(process.cpu_times()[:2]) - before)
