"""Backups of a server that is at work, and what a server makes of them; and every refusal."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Server, until

from jobpipe.cli import backup as reports
from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def server(tmp_path: Path, store: Path) -> Iterator[Server]:
    server = Server(tmp_path, "--no-pool", "--store", f"sqlite:///{store}", "--queue-size", "1000000").up()
    yield server
    if server.alive():
        server.kill()


def backup(store: Path, file: Path, *args: str) -> int:
    return main(["backup", str(file), "--store", f"sqlite:///{store}", *args])


def test_a_restore_leaves_nothing_beside_the_backup(server: Server, store: Path, tmp_path: Path) -> None:
    server.enqueue({"id": "a"})
    (folder := tmp_path / "copies").mkdir()
    assert backup(store, folder / "copy.db") == 0
    server.kill()
    folder.chmod(0o500)  # also from a place where nothing can be written
    assert main(["restore", str(folder / "copy.db"), "--store", f"sqlite:///{tmp_path}/new.db"]) == 0
    folder.chmod(0o700)
    assert os.listdir(folder) == ["copy.db"]
    assert tasks_of(tmp_path / "new.db") == {"a"}


def test_a_backup_holds_the_schedules(server: Server, store: Path, tmp_path: Path) -> None:
    server.ask("/schedules/nightly", {"cron": "@daily", "task": {"payload": {"n": 1}}}, "PUT")
    server.ask("/schedules/nightly/pause", method="POST")
    before = server.ask("/schedules")
    assert backup(store, tmp_path / "copy.db") == 0
    server.ask("/schedules/nightly", method="DELETE")
    assert server.stop() == 0
    store.unlink()
    assert main(["restore", str(tmp_path / "copy.db"), "--store", f"sqlite:///{store}"]) == 0
    again = server.again()
    assert again.ask("/schedules") == before
    again.kill()


def tasks_of(file: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro&immutable=1", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return {id for (id,) in connection.execute("SELECT id FROM tasks")}


class Load:
    """Threads that enqueue until they are told to end, and the ids that were acknowledged."""

    def __init__(self, server: Server, threads: int = 4) -> None:
        self.acknowledged: list[str] = []
        self._server = server
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _run(self, thread: int) -> None:
        round = 0
        while not self._over.is_set():
            batch = [f"{thread}-{round}-{n}" for n in range(20)]
            self._server.enqueue(*({"id": id, "payload": "x" * 2000} for id in batch))
            self.acknowledged.extend(batch)
            round += 1


def test_a_backup_during_writes_holds_all_that_was_acknowledged_before_it_began(
    server: Server, store: Path, tmp_path: Path
) -> None:
    copies = []
    with Load(server) as load:
        for number in range(5):
            goal = 400 * (number + 1)
            until("more is written", lambda goal=goal: len(load.acknowledged) >= goal)  # type: ignore[misc]
            before = set(load.acknowledged)
            copies.append((tmp_path / f"copy-{number}", before))
            assert backup(store, copies[-1][0]) == 0
    assert server.ask("/readyz")
    for copy, before in copies:
        assert before <= tasks_of(copy), "acknowledged, and not in the copy"
    last = copies[-1][0]
    assert len(tasks_of(last)) < len(load.acknowledged) + 80
    assert set(os.listdir(tmp_path)) >= {copy.name for copy, _ in copies}
    assert (
        not list(tmp_path.glob("*.part")) + list(tmp_path.glob(".*.part")) + list(tmp_path.glob("copy*-wal"))
    )


def test_a_restored_store_is_served_and_its_tasks_run(
    server: Server, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.enqueue(*({"id": f"t{n}", "handler": "simulate"} for n in range(50)))
    leased = server.ask("/lease", {"worker_id": "w", "max": 10, "lease": 5})["tasks"]
    assert backup(store, tmp_path / "copy") == 0
    server.enqueue({"id": "after"})
    assert server.stop() == 0
    for leftover in tmp_path.glob("jobpipe.db*"):
        leftover.unlink()
    assert main(["restore", str(tmp_path / "copy"), "--store", f"sqlite:///{store}"]) == 0
    assert not list(tmp_path.glob("jobpipe.db?*")), "nothing beside the store"
    quick = ("--simulate-min", "0", "--simulate-max", "0", "--simulate-failures", "0")
    again = server.again("--store", f"sqlite:///{store}", *quick)
    try:
        ids = [f"t{n}" for n in range(50)]
        assert {task["status"] for task in again.all_finished(ids)} == {"done"}
        assert len(leased) == 10, "they were running when the copy was made, and ran again"
        assert len(again.ask("/tasks?limit=1000")) == 50
    finally:
        assert again.stop() == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_a_backup_is_its_owners_alone(server: Server, store: Path, tmp_path: Path) -> None:
    assert backup(store, tmp_path / "copy") == 0
    assert stat.S_IMODE((tmp_path / "copy").stat().st_mode) == 0o600


def test_a_file_that_is_there_stays_unless_it_is_forced(
    server: Server, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    copy.write_text("precious")
    assert backup(store, copy) == 4
    assert copy.read_text() == "precious"
    assert "exists already" in capsys.readouterr().err
    server.enqueue({"id": "t1"})
    assert backup(store, copy, "--force") == 0
    assert tasks_of(copy) == {"t1"}


def test_a_store_in_use_or_one_that_is_there_is_not_restored_over(
    server: Server, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    assert backup(store, copy) == 0
    restore = ["restore", str(copy), "--store", f"sqlite:///{store}"]
    assert main(restore) == 4
    assert f"pid {server.process.pid}" in capsys.readouterr().err
    assert server.stop() == 0
    content = store.read_bytes()
    assert main(restore) == 4
    assert "exists already" in capsys.readouterr().err
    assert store.read_bytes() == content


def test_a_store_in_use_is_no_place_for_a_backup(server: Server, store: Path, tmp_path: Path) -> None:
    server.enqueue({"id": "t1"})
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert backup(other, store, "--force") == 4
    assert backup(store, store, "--force") == 4
    assert server.ask("/tasks")[0]["id"] == "t1"


@pytest.mark.parametrize("what", ["nothing", "text", "foreign", "damaged", "cut"])
def test_what_is_no_whole_store_is_neither_copied_nor_restored(
    what: str, server: Server, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad"
    server.enqueue(*({"payload": "x" * 3000} for _ in range(200)))
    assert backup(store, tmp_path / "good") == 0
    content = bytearray((tmp_path / "good").read_bytes())
    if what == "text":
        bad.write_text(json.dumps(["no database"]) * 100)
    elif what == "foreign":
        with contextlib.closing(sqlite3.connect(bad)) as connection:
            connection.execute("CREATE TABLE t (x)")
    elif what == "damaged":
        for page in range(4, 40, 3):
            content[page * 4096 : page * 4096 + 400] = os.urandom(400)
        bad.write_bytes(content)
    elif what == "cut":
        bad.write_bytes(content[: len(content) // 2])
    capsys.readouterr()
    before = set(os.listdir(tmp_path))
    assert backup(bad, tmp_path / "copy") == 4
    assert main(["restore", str(bad), "--store", f"sqlite:///{tmp_path}/new.db"]) == 4
    said = capsys.readouterr()
    assert said.err.count("jobpipe: error: ") == said.err.count("\n") == 2
    assert {name for name in os.listdir(tmp_path) if not name.startswith("bad-")} == before


@pytest.mark.parametrize("url", ["memory:", "postgresql://me:secret@db/jobs"])
def test_other_stores_say_what_copies_them(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["backup", str(tmp_path / "copy"), "--store", url]) == 4
    assert main(["restore", str(tmp_path / "copy"), "--store", url]) == 4
    said = capsys.readouterr().err
    assert "secret" not in said
    assert ("pg_dump" in said) == url.startswith("postgresql")


def test_a_backup_into_no_folder_or_without_space_is_one_line(
    server: Server,
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = set(os.listdir(tmp_path))
    assert backup(store, tmp_path / "none" / "copy") == 4
    assert "does not exist" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    assert backup(store, tmp_path / "copy") == 4
    said = capsys.readouterr().err
    assert "10 are free" in said
    assert said.count("\n") == 1
    assert set(os.listdir(tmp_path)) == before


def test_an_interrupted_backup_leaves_nothing_behind(
    server: Server, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = set(os.listdir(tmp_path))
    monkeypatch.setattr(reports.Reports, "__call__", interrupted)
    assert backup(store, tmp_path / "copy") == 130
    assert set(os.listdir(tmp_path)) == before
    assert server.ask("/readyz")
