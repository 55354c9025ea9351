"""An incident, played on a server of its own: `python docs/demo.py --incident`. Open the address that it prints.

Each act says what the dashboard shows from then on, and waits until the server says the same. Where the programs of
PostgreSQL are found, a second server stands on one that goes away and comes back.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = str(Path(__file__).parent.parent)
BOUND_S = 60.0
LEASE_S = 5


class Shop:
    """A server of the demo at an address that stays over its restarts."""

    def __init__(self, store: str) -> None:
        self._store = store
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, again too."""
        given = ("--port", str(self._port), "--workers", "4", "--queue-size", "100", "--log-level", "ERROR")
        command = [sys.executable, "-m", "jobpipe", "serve", "docs.demo:app", *given]
        self._server = subprocess.Popen(
            [*command, "--store", self._store], cwd=HERE, env={**os.environ, "PYTHONPATH": HERE}
        )
        _until("the server answers", lambda: self.ask("/readyz") is not None)

    def kill(self) -> None:
        """As a power cut does."""
        if self._server is not None:
            self._server.send_signal(signal.SIGKILL)
            self._server.wait()

    def ask(self, path: str, body: Any = None) -> Any:
        """The answer to a request; None when there is none."""
        data = None if body is None else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=10) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            return None


def play(pause: float) -> None:
    """The whole incident, with `pause` seconds to look around after each act."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(f"sqlite:///{folder}/jobpipe.db")
        with contextlib.ExitStack() as ends:
            ends.callback(shop.kill)
            for title, shows, act in [*_acts(shop), *_acts_of_postgres(ends)]:
                act()
                print(f"{time.monotonic() - began:5.1f} s  {title}: {shows}", flush=True)
                time.sleep(pause)


def _acts(shop: Shop) -> list[tuple[str, str, Callable[[], None]]]:
    return [
        (f"A server at {shop.url}", "live, and no incident", shop.start),
        (
            "A handler breaks",
            "Overview: mail.send fails; Handlers: its share; Errors: one group",
            lambda: _break(shop),
        ),
        ("A queue fills up", "Overview: parcels refuses; In: refused a second", lambda: _fill(shop)),
        (
            "A host vanishes",
            "Overview and Workers: 1 process lost, its 6 slots in no total",
            lambda: _vanish(shop),
        ),
        ("The server is gone", "every page: server away, grey, buttons shut", shop.kill),
        ("The server is back", "every page: live again by itself, nothing is lost", lambda: _back(shop)),
    ]


def _acts_of_postgres(ends: contextlib.ExitStack) -> list[tuple[str, str, Callable[[], None]]]:
    sys.path.insert(0, HERE)
    try:
        from prove import cluster

        lacking = cluster.missing()
    except ImportError as error:
        lacking = str(error)
    if lacking is not None:
        print(f"without the acts of PostgreSQL: {lacking}", flush=True)
        return []
    folder = cluster.new_folder()
    ends.callback(shutil.rmtree, folder, ignore_errors=True)
    database = cluster.Cluster(folder)
    database.make()
    database.start()
    ends.callback(database.stop, "immediate")
    shop = Shop(database.url())
    ends.callback(shop.kill)
    return [
        (f"A server on PostgreSQL at {shop.url}", "live", shop.start),
        (
            "PostgreSQL goes",
            "every page: store down, grey since when, buttons shut",
            lambda: _away(shop, database),
        ),
        ("PostgreSQL comes back", "every page: live again by itself", lambda: _healed(shop, database)),
    ]


def _away(shop: Shop, database: Any) -> None:
    database.stop("immediate")
    _until("it is missed", lambda: shop.ask("/stats") is None)


def _healed(shop: Shop, database: Any) -> None:
    database.start()
    _until("it is there again", lambda: shop.ask("/stats") is not None)


def _break(shop: Shop) -> None:
    mails = [
        {"handler": "mail.send", "max_retries": 0, "payload": {"to": "full", "subject": "x"}}
        for _ in range(30)
    ]
    shop.ask("/enqueue", mails)
    _until("they failed", lambda: (shop.ask("/stats") or {"counts": {"failed": 0}})["counts"]["failed"] >= 30)


def _fill(shop: Shop) -> None:
    parcels = [{"handler": "mail.send", "queue": "parcels", "delay": 86400} for _ in range(150)]
    shop.ask("/enqueue", parcels)
    _until("it refuses", lambda: shop.ask("/stats")["rates"].get("refused_per_s", 0) > 0)


def _vanish(shop: Shop) -> None:
    wish = {
        "worker_id": "far:1",
        "host": "far",
        "queues": ["elsewhere"],
        "lease": LEASE_S,
        "total": 6,
        "release": 3,
    }
    shop.ask("/lease", wish)
    _until("it is missed", lambda: any(worker["state"] == "lost" for worker in shop.ask("/workers")))


def _back(shop: Shop) -> None:
    shop.start()
    _until("all is there", lambda: shop.ask("/stats")["counts"]["queued"] == 100)


def _until(what: str, holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"demo: error: not within {BOUND_S:.0f} s: {what}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
