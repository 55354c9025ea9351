"""Schemas: a newer one is refused, the file untouched byte for byte; an older one is migrated whole."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from prove.disk import Disk, Event, Platter
from prove.ports import free_port
from prove.proof import Figure, Trial, none
from prove.servers import ROOT, Server, ended
from prove.stores import FILE, put, scratch

STORES = ROOT / "tests" / "contract" / "stores"
"""One file per earlier schema, made by the program of that time."""
EXIT_STORE = 4
Rows = dict[str, list[dict[str, Any]]]


def schemas(trial: Trial) -> Sequence[Figure]:
    """Every older store with the power cut, and the process killed, at each step of its migration; newer ones."""
    found: Counter[str] = Counter()
    cuts_each = trial.sized(1, 3, 20)
    for store in sorted(STORES.glob("schema-*.sqlite")):
        _migrate(store, trial, cuts_each, found)
        _serve(store, trial.folder / store.stem, found)
    for number in range(trial.sized(2, 5, 20)):
        _refuse(
            trial.folder / f"newer-{number}", 1 + 10**number % 10**6, leave_wal=bool(number % 2), found=found
        )
    return [
        Figure("older schemas", found["stores"]),
        Figure("kills and power cuts within their migration", found["cuts"]),
        none("rows or values lost by them", found["lost"]),
        none("stores that did not open afterwards", found["closed"]),
        none("older stores that a server did not serve", found["unserved"]),
        Figure("newer stores", found["newer"]),
        none("accepted, or refused otherwise than by one line", found["accepted"]),
        none("touched", found["touched"]),
    ]


def _migrate(store: Path, trial: Trial, cuts_each: int, found: Counter[str]) -> None:
    before, source = store.read_bytes(), trial.source(store.stem)
    with scratch() as folder:
        rows = _rows_of_copy(store, folder)
        log = asyncio.run(_recorded(store, folder))
        found["stores"] += 1
        platter = Platter({FILE: before})
        for event in [*log, None]:
            for cut in [None, *[source] * cuts_each]:
                found["cuts"] += 1
                put(platter.cut(cut), folder / "after")
                _judge(folder / "after" / FILE, rows, found)
            if event is not None:
                platter.take(event)


async def _recorded(store: Path, folder: Path) -> list[Event]:
    shutil.copyfile(store, folder / FILE)
    with Disk() as disk:
        storage = open_storage(f"sqlite:///{folder / FILE}", clock=ManualClock())
        await storage.open()
        await storage.close()
        return disk.log


def _judge(path: Path, rows: Rows, found: Counter[str]) -> None:
    storage = open_storage(f"sqlite:///{path}", clock=ManualClock())

    async def open_and_close() -> None:
        await storage.open()
        await storage.close()

    try:
        asyncio.run(open_and_close())
        found["lost"] += not _contains(rows_of(path), rows)
    except Exception:  # noqa: BLE001 - whatever keeps it closed
        found["closed"] += 1


def rows_of(path: Path) -> Rows:
    """All that a file holds: the rows of each table by column."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found: Rows = {}
        for table in tables:
            columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?)", (table,))]
            found[table] = [
                dict(zip(columns, row, strict=True)) for row in db.execute(f"SELECT * FROM {table}")
            ]
        return found


def _rows_of_copy(store: Path, folder: Path) -> Rows:
    """The rows of a file that SQLite must leave no traces beside."""
    copy = folder / f"copy-{FILE}"
    shutil.copyfile(store, copy)
    return rows_of(copy)


def _contains(rows: Rows, earlier: Rows) -> bool:
    """Every value that was there before is there still."""
    return all(
        len(rows.get(table, [])) == len(before)
        and all(new.items() >= old.items() for new, old in zip(rows[table], before, strict=True))
        for table, before in earlier.items()
    )


def _serve(store: Path, folder: Path, found: Counter[str]) -> None:
    """A real server over the old file has all of its tasks."""
    folder.mkdir()
    shutil.copyfile(store, folder / FILE)
    with scratch() as place:
        wanted = {row["id"] for row in _rows_of_copy(store, place)["tasks"]}
    server = Server(folder, "--no-pool", "--retention", "inf", "--retention-failed", "inf")
    with ended(server):
        with server.up().connected() as client:
            found["unserved"] += wanted != {task["id"] for task in client.tasks()}
        server.stop()


def _refuse(folder: Path, ahead: int, *, leave_wal: bool, found: Counter[str]) -> None:
    folder.mkdir()
    _newer(folder / FILE, ahead, leave_wal)
    before = _contents(folder)
    command = [sys.executable, "-m", "jobpipe", "serve", "--store", f"sqlite:///{folder / FILE}"]
    ran = subprocess.run(
        [*command, "--port", str(free_port())],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    found["newer"] += 1
    one_line = ran.stderr.count("\n") == 1 and "newer" in ran.stderr
    found["accepted"] += ran.returncode != EXIT_STORE or not one_line
    found["touched"] += _contents(folder) != before


def _newer(path: Path, ahead: int, leave_wal: bool) -> None:
    """A store as a program of the future would leave it, its newest writes still in the log, if asked for."""

    async def make() -> None:
        storage = open_storage(f"sqlite:///{path}", clock=ManualClock())
        await storage.open()
        await storage.close()

    asyncio.run(make())
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    with contextlib.closing(apsw.Connection(str(path))) as db:
        version = db.execute("PRAGMA user_version").get
        db.execute(f"PRAGMA user_version = {version + ahead}").fetchall()
        if leave_wal:
            db.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}
