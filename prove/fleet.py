"""Several servers on one database, with workers of their own: what grows beyond one machine, made on this one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from prove.checker import Begun, runs
from prove.proof import Broken
from prove.servers import APP, Program, Server, until, worker

FLAGS = (
    "--queue-size", "1000000", "--retention", "inf", "--retention-failed", "inf", "--lease", "5",
    "--retry-base", "0.05", "--retry-jitter", "0.05",
)  # fmt: skip
WORKER_FLAGS = ("--lease", "5", "--workers", "8", "--processes", "1")


class Fleet:
    """`servers` and workers for them elsewhere; all handlers write to one journal of runs.

    Without workers elsewhere (`workers` 0) and with `pool` the servers run handlers themselves.
    """

    def __init__(
        self,
        folder: Path,
        store: str,
        *,
        servers: int = 3,
        workers: int = 3,
        pool: bool = False,
        flags: Sequence[str] = FLAGS,
    ) -> None:
        self.folder = folder
        self.runs_file = folder / "runs"
        self.servers: list[Server] = []
        self.workers: list[Program] = []
        mode = ("--pool", "--processes", "0") if pool else ("--no-pool",)
        app = APP if pool else None
        for n in range(servers):
            self.servers.append(Server(folder, *mode, *flags, app=app, store=store, name=f"server-{n}"))
        try:
            for server in self.servers:
                server.up()
        except BaseException:
            self.end()
            raise
        for n in range(workers):
            self.workers.append(self.work_for(self.servers[n % servers], f"worker-{n}"))

    def work_for(self, server: Server, name: str, *flags: str) -> Program:
        """One more worker."""
        return worker(self.folder, name, server.port, *WORKER_FLAGS, *flags)

    def end(self) -> None:
        """Whatever still runs is killed."""
        for program in (*self.workers, *self.servers):
            if program.alive():
                program.kill()

    def stop(self) -> None:
        """Stop all in order. Raises Broken when a server's exit code is not 0."""
        for program in (*self.workers, *self.servers):
            if (code := program.stop()) != 0:
                raise Broken(f"{program.log.stem} ended with {code}:\n{program.tail()}")

    def restart(self, number: int) -> Server:
        """Start a server that has ended; once it answers."""
        self.servers[number] = self.servers[number].again().up()
        return self.servers[number]

    def fallen(self) -> int:
        """How many servers are not there, though nobody ended them."""
        return sum(not server.alive() for server in self.servers)

    def counts(self) -> dict[str, int]:
        """How many tasks there are by status, as any server that answers says."""
        for server in self.servers:
            with contextlib.suppress(OSError, KeyError):
                return server.counts()
        return {}

    def tasks(self) -> list[dict[str, Any]]:
        """Every task of the database."""
        with self.servers[0].connected() as client:
            return list(client.tasks())

    def begun(self) -> list[Begun]:
        """All runs so far."""
        return runs(self.runs_file)

    def all_ended(self, seconds: float = 120.0) -> None:
        """Wait until no task waits or runs."""

        def none_left() -> bool:
            counts = self.counts()
            return bool(counts) and counts["queued"] + counts["running"] == 0

        until("all tasks are at an end", none_left, seconds, pause_s=0.1)


@contextlib.contextmanager
def fleet(folder: Path, store: str, **parts: Any) -> Iterator[Fleet]:
    """A fleet for a while, stopped in order at the end."""
    whole = Fleet(folder, store, **parts)
    try:
        yield whole
        whole.stop()
    finally:
        whole.end()


class Pulse:
    """Says when every worker has begun a run since it was last asked: reads the journal of runs as it grows."""

    def __init__(self, whole: Fleet) -> None:
        self._fleet = whole
        self._read = 0

    def skip(self) -> None:
        """What was begun until now does not count."""
        self._read = self._fleet.runs_file.stat().st_size if self._fleet.runs_file.exists() else 0

    def all_work(self) -> Callable[[], bool]:
        """Whether every worker has begun a run since this was called."""
        self.skip()
        idle = list(self._fleet.workers)
        pids: set[int] = set()

        def so() -> bool:
            pids.update(self._began())
            idle[:] = [program for program in idle if not _pids(program) & pids]
            return not idle

        return so

    def _began(self) -> set[int]:
        if not self._fleet.runs_file.exists():
            return set()
        with self._fleet.runs_file.open("rb") as file:
            file.seek(self._read)
            lines = file.read().split(b"\n")[:-1]
        self._read += sum(len(line) + 1 for line in lines)
        words = [line.split() for line in lines]
        return {int(word[3]) for word in words if word[0] == b"begin"}


def _pids(program: Program) -> set[int]:
    return {child.pid for child in program.children()}
