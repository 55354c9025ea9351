"""The PostgreSQL of the tests: one server for the whole run, with databases that are told what time they have: that of
the machine, or that of a `DatabaseClock`.
"""

from __future__ import annotations

import atexit
import contextlib
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from prove import cluster as postgresql
from prove.cluster import elsewhere, new_folder

from jobpipe.clock import ManualClock
from jobpipe.storage import open_storage

__all__ = [
    "Cluster",
    "DatabaseClock",
    "empty_store",
    "new_folder",
    "own_database",
    "require",
    "shared_cluster",
]

BLANK = "blank"
"""A database that nobody uses, for others to be made from."""
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


class Cluster(postgresql.Cluster):
    """One with a clock that tests can set."""

    def clock(self) -> DatabaseClock:
        """The clock of the databases that `make_manual` was called for."""
        return DatabaseClock(self.data / _CLOCK)

    def make_manual(self, database: str) -> None:
        """Let a database with our schema go by the `clock`."""
        self.run(
            "CREATE OR REPLACE FUNCTION jobpipe.now_ms() RETURNS bigint LANGUAGE sql STABLE AS"
            f" $$ SELECT pg_read_file('{_CLOCK}')::bigint $$",
            database,
        )


@cache
def shared_cluster() -> Cluster:
    """The one server that most tests share, with a database for each kind of time; it ends with the test run."""
    folder = new_folder()
    cluster = Cluster(folder)
    cluster.make()
    cluster.start()
    atexit.register(_end, cluster, folder)
    cluster.clock()
    for database in ("manual", "real", BLANK):
        cluster.run(f"CREATE DATABASE {database}")
        elsewhere(_make_schema(cluster.url(database)))
    cluster.make_manual("manual")
    return cluster


def empty_store(database: str = "manual") -> str:
    """The URL of an empty store: `manual` goes by `shared_cluster().clock()`, `real` by the machine's clock."""
    require()
    cluster = shared_cluster()
    cluster.run(_WIPE, database)
    return cluster.url(database)


@contextlib.contextmanager
def own_database(name: str) -> Iterator[str]:
    """The URL of an empty store that no other test wipes meanwhile, by the machine's clock; it goes afterwards."""
    require()
    cluster = shared_cluster()
    cluster.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    cluster.run(f"CREATE DATABASE {name} TEMPLATE {BLANK}")
    try:
        yield cluster.url(name)
    finally:
        cluster.run(f"DROP DATABASE {name} WITH (FORCE)")


def require() -> None:
    """Skip the test where no PostgreSQL can be had."""
    missing = postgresql.missing()
    if missing is not None:
        pytest.skip(missing)


async def _make_schema(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()


def _end(cluster: Cluster, folder: Path) -> None:
    cluster.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)
