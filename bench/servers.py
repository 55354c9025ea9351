"""Servers to measure: real processes, each in a folder of its own, ended by their own pid.

A server runs as people run it: its own command, the default log level, its log in a file. What the environment of the
caller says about Jobpipe is left out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from bench.client import BenchError, Connection, request, wait_until

ROOT = Path(__file__).resolve().parents[1]
START_S = 60.0
STOP_S = 15.0
QUEUE_SIZE = 100_000_000
WORKERS = 64


class Server:
    """A process that answers HTTP on `port`; `started_s` is how long its first 200 took."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, began: float) -> None:
        """`began` is when the process was started, on the monotonic clock."""
        self.port = port
        self._process = process
        self._log = log
        wait_until("the first answer of the server", self._answers, START_S)
        self.started_s = time.monotonic() - began

    def connection(self) -> Connection:
        """A new connection to it."""
        return Connection(self.port)

    @property
    def pid(self) -> int:
        """The server's own process."""
        return self._process.pid

    def rss_mb(self) -> float:
        """The memory that it holds now, in millions of bytes."""
        return psutil.Process(self._process.pid).memory_info().rss / 1e6

    def cpu_s(self) -> float:
        """Seconds of processor time that it used so far: to the nanosecond on Linux, to the tick elsewhere."""
        threads = list(Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"))
        if threads:
            return sum(int(file.read_text().split()[0]) for file in threads) / 1e9
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def stop(self, expected: int) -> None:
        """End it as an operator does. Raises BenchError when it does not end, or with another code."""
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"the server did not stop within {STOP_S:g} s{self._tail()}") from error
        if code != expected:
            raise BenchError(f"the server ended with {code}{self._tail()}")

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise BenchError(f"the server ended with {self._process.returncode}{self._tail()}")
        try:
            with contextlib.closing(self.connection()) as connection:
                connection.ask(request("GET", "/healthz"))
        except OSError:
            return False
        return True

    def _tail(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-12:]
        return "".join(f"\n  {line}" for line in lines)


@contextlib.contextmanager
def jobpipe(folder: Path, *flags: str, app: str | None = None, store: str | None = None) -> Iterator[Server]:
    """A Jobpipe with its `store`, or one in `folder`; a server started there again goes on with the same tasks."""
    store = store or f"sqlite:///{folder / 'jobpipe.db'}"
    serve = ["jobpipe", "serve", *filter(None, [app]), "--store", store]
    with _started(folder, [*serve, *flags]) as server:
        yield server


@contextlib.contextmanager
def busy(folder: Path, *flags: str) -> Iterator[Server]:
    """A Jobpipe set up for load, with the handlers of `bench.app` run in the same process."""
    sizes = ["--workers", str(WORKERS), "--queue-size", str(QUEUE_SIZE), "--processes", "0"]
    with jobpipe(folder, *sizes, *flags, app="bench.app:app") as server:
        yield server


@contextlib.contextmanager
def bare(folder: Path, *flags: str) -> Iterator[Server]:
    """The bare HTTP server, for comparison. uvicorn by itself ends by the signal that it was sent."""
    with _started(folder, ["bench.bare", *flags], ends_with=-signal.SIGTERM) as server:
        yield server


@contextlib.contextmanager
def _started(folder: Path, module: Sequence[str], ends_with: int = 0) -> Iterator[Server]:
    port = _free_port()
    log = folder / f"{module[0]}-{port}.log"
    command = [sys.executable, "-m", *module, "--port", str(port)]
    with log.open("wb") as out:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        server = Server(process, port, log, began)
        yield server
        server.stop(ends_with)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JOBPIPE_") and name not in ("WORKERS", "QUEUE_SIZE")
    }
    return kept | {"PYTHONPATH": str(ROOT)}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
