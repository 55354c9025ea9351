"""SQLite: a store of every earlier schema is brought to the current one, whole, whenever the power fails.

`stores/` holds one file per schema, made by the program of that time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from desk import DONE, FAILED, Desk, ids_of

from jobpipe.core.errors import StorageRefused
from jobpipe.core.task import Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.sqlite import connection

STORES = sorted((Path(__file__).parent / "stores").glob("schema-*.sqlite"))
NEWEST = len(connection._scripts())


def test_every_earlier_schema_has_its_store() -> None:
    assert [store.stem for store in STORES] == [f"schema-{n:04}" for n in range(1, NEWEST)]


@pytest.fixture(params=STORES, ids=lambda store: store.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of an old store."""
    path = tmp_path / "jobpipe.db"
    shutil.copy(request.param, path)
    return path


def version_of(path: Path) -> int:
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    version: int = db.execute("PRAGMA user_version").get
    db.close()
    return version


def rows_of(path: Path) -> dict[str, list[dict[str, Any]]]:
    """All that a file holds, by table: rows by column."""
    db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    found: dict[str, list[dict[str, Any]]] = {}
    for table in tables:
        columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
        found[table] = [dict(zip(columns, row, strict=True)) for row in db.execute(f"SELECT * FROM {table}")]
    db.close()
    return found


def assert_all_is_there(before: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Every value of every row that was there before; what a later schema adds is empty."""
    after = rows_of(path)
    for table, rows in before.items():
        assert len(after[table]) == len(rows), table
        for was, is_ in zip(rows, after[table], strict=True):
            assert {name: is_[name] for name in was} == was
            assert not any(value for name, value in is_.items() if name not in was)
    assert not any(after[table] for table in after.keys() - before.keys())


async def opened(path: Path) -> Desk:
    clock = ManualClock()
    store = open_storage(f"sqlite:///{path}", clock=clock, capacity=1000)
    await store.open()
    return Desk(store, clock)


async def test_an_old_store_is_migrated_with_all_that_it_holds(old: Path) -> None:
    before = rows_of(old)
    desk = await opened(old)
    await desk.store.close()
    assert version_of(old) == NEWEST
    assert_all_is_there(before, old)


async def test_an_old_store_works_on_where_it_stopped(old: Path) -> None:
    desk = await opened(old)
    await desk.assert_counts_are_true()
    assert sorted(ids_of(await desk.listed())) == [
        "cancelled", "done", "failed", "future", "queued", "retrying", "running-elsewhere", "running-here", "stopped",
    ]  # fmt: skip
    done, failed = await desk.get("done"), await desk.get("failed")
    assert (done.payload, done.result) == (b"[1e999]", b"1.10")
    assert (failed.status, failed.last_error and failed.last_error.message) == (Status.FAILED, "no")
    assert [lost.task.id for lost in await desk.store.lost(5)] == ["running-here"]
    await desk.retry("failed")
    claim = await desk.claim_one(queues=["only-failed"])
    await desk.settle(claim, FAILED)
    desk.clock.advance(60)
    await desk.settle(await desk.claim_one(queues=["only-failed"]), DONE)
    assert [(kept.attempt, kept.outcome) for kept in await desk.store.attempts("failed") or []] == [
        (1, "failed")
    ]
    await desk.store.close()


class Witness:
    """Copies a store's files before every statement of every connection: what a kill at that moment leaves."""

    def __init__(self, path: Path, images: Path) -> None:
        self._path = path
        self._images = images
        self.taken: list[Path] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        apsw.connection_hooks.append(self._hook)
        yield
        apsw.connection_hooks.remove(self._hook)

    def _hook(self, db: apsw.Connection) -> None:
        db.exec_trace = self._note

    def _note(self, *_: object) -> bool:
        image = self._images / f"{len(self.taken):03}" / self._path.name
        image.parent.mkdir(parents=True)
        for suffix in ("", "-wal"):
            if Path(f"{self._path}{suffix}").exists():
                shutil.copy(f"{self._path}{suffix}", f"{image}{suffix}")
        self.taken.append(image)
        return True


async def test_a_kill_at_any_step_of_a_migration_harms_nothing(old: Path, tmp_path: Path) -> None:
    before, first = rows_of(old), version_of(old)
    witness = Witness(old, tmp_path / "images")
    with witness.watching():
        await (await opened(old)).store.close()
    found = {version_of(image) for image in witness.taken}
    assert found == set(range(first, NEWEST + 1)), "a half migration was seen, or none"
    assert len(witness.taken) > 10
    for image in witness.taken:
        await (await opened(image)).store.close()
        assert version_of(image) == NEWEST
        assert_all_is_there(before, image)


async def test_a_store_one_schema_newer_is_refused_byte_for_byte_untouched(tmp_path: Path) -> None:
    path = tmp_path / "jobpipe.db"
    await (await opened(path)).store.close()
    db = apsw.Connection(str(path))
    db.execute(f"PRAGMA user_version = {NEWEST + 1}").fetchall()
    db.close()
    content = path.read_bytes()
    with pytest.raises(StorageRefused, match="newer"):
        await opened(path)
    assert path.read_bytes() == content
