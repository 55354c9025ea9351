"""pg_upgrade carries a store into a newer PostgreSQL as it is."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from prove import cluster as postgresql
from prove.cluster import Cluster, new_folder
from test_postgres_field import fill, newer, works_off

__all__ = ["newer"]

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.mark.usefixtures("newer")
def test_a_cluster_is_upgraded_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [new_folder(), new_folder()]
    old, new = (Cluster(folder) for folder in folders)
    try:
        old.make()
        old.start()
        asyncio.run(fill(old.url()))
        old.stop()
        old_programs = postgresql.binaries()
        monkeypatch.setattr(postgresql, "SYSTEM", Path("/nonexistent"))
        monkeypatch.setattr(postgresql.shutil, "which", lambda _: None)
        postgresql.binaries.cache_clear()
        if not (postgresql.binaries() / "pg_upgrade").exists():
            pytest.skip("there is no pg_upgrade here")
        new.upgrade(old, old_programs)
        new.start()
        asyncio.run(works_off(new.url(), 60))
        new.stop("immediate")
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
