"""Real `jobpipe` processes: started as people start them, ended by signals, always by their own pid.

Waiting is asking again until something is so, with a deadline after which the proof counts as broken.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from prove.client import Client, connected
from prove.ports import free_port
from prove.proof import Broken

ROOT = Path(__file__).resolve().parents[1]
APP = "prove.handlers:app"
BOUND_S = 60.0


def until(what: str, is_so: Callable[[], Any], seconds: float = BOUND_S, pause_s: float = 0.01) -> Any:
    """What `is_so` gives, once that is true. Raises Broken after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        if time.monotonic() > deadline:
            raise Broken(f"not within {seconds:g} s: {what}")
        time.sleep(pause_s)
    return answer


class Program:
    """One `jobpipe` command, its log in a file. `wrapper` is a command that runs it, such as strace."""

    def __init__(self, folder: Path, name: str, *args: str, wrapper: Sequence[str] = ()) -> None:
        self.folder = folder
        self.log = folder / f"{name}.log"
        self.runs = folder / "runs"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, sys.executable, "-m", "jobpipe", *args],
                cwd=folder, env=_environment(self.runs), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = BOUND_S) -> int:
        """End it as an operator does; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def children(self) -> list[psutil.Process]:
        """Its worker processes."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children()
        return []

    def rss_mb(self) -> float:
        """The memory that it holds now, in millions of bytes."""
        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def tail(self) -> str:
        """The end of its log, for messages."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])


class Server(Program):
    """`jobpipe serve` over a store in `folder`, or another one, on a port that it keeps over restarts."""

    def __init__(
        self,
        folder: Path,
        *args: str,
        app: str | None = APP,
        port: int | None = None,
        wrapper: Sequence[str] = (),
        store: str | None = None,
        name: str = "server",
    ) -> None:
        self.args, self.app, self.port = args, app, port or free_port()
        self.store, self.name = store or f"sqlite:///{folder / 'jobpipe.db'}", name
        self.began = time.monotonic()
        serve = ["serve", *filter(None, [app]), "--port", str(self.port), "--store", self.store, *args]
        super().__init__(folder, name, *serve, wrapper=wrapper)

    def up(self, seconds: float = BOUND_S) -> Server:
        """Once it answers."""
        until("the server answers", self._answers, seconds)
        return self

    def again(self) -> Server:
        """The same server, started after its end."""
        return Server(self.folder, *self.args, app=self.app, port=self.port, store=self.store, name=self.name)

    def connected(self) -> contextlib.AbstractContextManager[Client]:
        """A connection for a while."""
        return connected(self.port)

    def get(self, path: str) -> Any:
        """What a GET over a connection of its own gives."""
        with self.connected() as client:
            return client.get(path)

    def counts(self) -> dict[str, int]:
        """How many tasks there are, by status."""
        counts: dict[str, int] = self.get("/stats")["counts"]
        return counts

    def _answers(self) -> bool:
        if not self.alive():
            raise Broken(f"the server ended with {self.process.returncode}:\n{self.tail()}")
        try:
            with contextlib.closing(Client(self.port, 5)) as client:
                return client.ask("GET", "/healthz").status == 200
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def ended(program: Program) -> Iterator[None]:
    """See that a program does not outlive the block, however that ends."""
    try:
        yield
    finally:
        if program.alive():
            program.kill()


@contextlib.contextmanager
def serving(folder: Path, *args: str, app: str | None = APP) -> Iterator[Server]:
    """A server for a while, stopped at the end. Raises Broken when its exit code is not 0."""
    server = Server(folder, *args, app=app)
    with ended(server):
        yield server.up()
        if (code := server.stop()) != 0:
            raise Broken(f"the server ended with {code}:\n{server.tail()}")


def worker(folder: Path, name: str, port: int, *args: str) -> Program:
    """`jobpipe worker` for a server on this machine."""
    return Program(folder, name, "worker", APP, "--server", f"http://127.0.0.1:{port}", *args)


def _environment(runs: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JOBPIPE_") and name not in ("WORKERS", "QUEUE_SIZE")
    }
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "JOURNAL": str(runs)}
