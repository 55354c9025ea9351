"""The PostgreSQL of the tests: one server for each process of tests, with databases that are told what time they have:
that of the machine, or that of a `DatabaseClock`.
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
from prove.cluster import WIPE, Cluster, elsewhere, new_folder
from prove.proof import Broken
from prove.times import DatabaseClock

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


@cache
def shared_cluster() -> Cluster:
    """The one server that most tests of a process share, with a database for each kind of time; it ends with them.

    Processes that share the tests out have one each: tests wipe it, count its connections and cut them.
    """
    folder = new_folder()
    cluster = Cluster(folder)
    atexit.register(_end, cluster, folder)  # first: what is made here may be interrupted
    cluster.make()
    cluster.start()
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
    cluster.run(WIPE, database)
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
    with contextlib.suppress(Broken):  # it may not have begun
        cluster.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)
