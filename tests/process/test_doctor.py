"""`jobpipe doctor` beside servers that are at work, on stores that are damaged, and where nothing may be written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from programs import Server, until

from jobpipe import Client
from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

_ANYWHERE = "-dac_override,-dac_read_search"
ORDINARY = ("setpriv", f"--bounding-set={_ANYWHERE}", f"--inh-caps={_ANYWHERE}")
"""Runs as root without root's right to write anywhere: another user might not even reach this project's folder."""


class Doctor:
    """Runs the doctor here, and keeps what it found."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.found: dict[str, dict[str, str]] = {}

    def __call__(self, store: Path, *args: str) -> int:
        code = main(["doctor", "-o", "json", "--store", f"sqlite:///{store}", *args])
        self.take(self._capsys.readouterr().out, code)
        return code

    def take(self, text: str, code: int) -> None:
        answer: dict[str, Any] = json.loads(text)
        assert answer["ok"] is (code == 0)
        self.found = {finding["check"]: finding for finding in answer["findings"]}

    def state(self, check: str) -> str:
        return self.found[check]["state"]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    monkeypatch.chdir(tmp_path)
    return Doctor(capsys)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def server(tmp_path: Path, store: Path) -> Iterator[Server]:
    args = ("--no-pool", "--store", f"sqlite:///{store}", "--queue-size", "1000000")
    server = Server(tmp_path, *args).up()
    yield server
    if server.alive():
        server.kill()


def test_a_server_under_load_is_well_and_goes_on_undisturbed(
    server: Server, store: Path, doctor: Doctor
) -> None:
    over, sent = threading.Event(), []

    def load() -> None:
        while not over.is_set():
            batch = [{"payload": "x" * 1000} for _ in range(50)]
            server.enqueue(*batch)
            sent.extend(batch)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for number in range(3):
            goal = 300 * (number + 1)
            until("more is written", lambda goal=goal: len(sent) >= goal)  # type: ignore[misc]
            assert doctor(store, "--server", server.url, "--full") == 0, doctor.found
    finally:
        over.set()
        thread.join()
    assert str(server.process.pid) in doctor.found["server"]["text"]
    for check in ("store", "schema", "clock", "reachable", "ready", "key", "server clock"):
        assert doctor.state(check) == "ok", doctor.found[check]
    assert server.ask("/stats")["counts"]["queued"] == len(sent)
    assert doctor(store, "--server", f"{server.url},{server.url}/none") == 1, "each of several is asked"
    assert server.stop() == 0
    assert doctor(store, "--server", server.url) == 1
    assert doctor.state("reachable") == "problem"
    assert doctor.found["server"]["text"] == "none uses the store"


def test_a_server_that_asks_for_a_key_is_asked_with_it(
    tmp_path: Path, store: Path, doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    main(["keys", "new", "--name", "a", "--scope", "enqueue", "--file", str(keys)])
    key = capsys.readouterr().out.strip()
    server = Server(tmp_path, "--no-pool", "--store", f"sqlite:///{store}", "--api-keys-file", str(keys)).up()
    try:
        assert doctor(store, "--server", server.url, "--key", key, "--api-keys-file", str(keys)) == 0
        assert doctor(store, "--server", server.url) == 0
        assert doctor(store, "--server", server.url, "--key", "jp_wrong") == 1
        assert doctor.state("key") == "problem"
        keys.chmod(0o666)
        assert doctor(store, "--api-keys-file", str(keys)) == 1
        assert doctor.state("keys") == "problem"
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("what", ["page", "cut", "text", "foreign", "newer"])
def test_a_store_that_cannot_be_served_is_a_problem_and_stays_as_it_is(
    what: str, server: Server, store: Path, doctor: Doctor
) -> None:
    server.enqueue(*({"payload": "x" * 3000} for _ in range(200)))
    assert server.stop() == 0
    content = bytearray(store.read_bytes())
    if what == "page":
        for page in range(4, len(content) // 4096, 3):
            content[page * 4096 : page * 4096 + 400] = b"\xa5" * 400
    elif what == "cut":
        del content[len(content) // 2 :]
    elif what == "text":
        content[:] = b"no database\n" * 1000
    elif what == "newer":
        content[60:64] = (999).to_bytes(4, "big")
    if what == "foreign":
        store.unlink()
        with contextlib.closing(sqlite3.connect(store)) as connection:
            connection.execute("CREATE TABLE t (x)")
        content[:] = store.read_bytes()
    else:
        store.write_bytes(content)
    assert doctor(store) == 1
    assert doctor.state("store") == "problem"
    assert store.read_bytes() == content


def test_a_clock_that_was_set_back_is_told(server: Server, store: Path, doctor: Doctor) -> None:
    began = time.time()
    server.enqueue({"id": "t1"})
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("UPDATE tasks SET created_at = created_at + 3600000")
    assert doctor(store) == 1
    told = re.search(r"(\d+) s in the future", doctor.found["clock"]["text"])
    assert told is not None
    assert 3599 - (time.time() - began) <= int(told[1]) <= 3600


def test_a_long_log_of_writes_is_told(server: Server, store: Path, doctor: Doctor) -> None:
    server.enqueue({"id": "t1"})
    with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchone()
        until("the log is long", lambda: _grow(server, store))
        assert doctor(store) == 0
        assert doctor.state("log") == "warning"


def _grow(server: Server, store: Path) -> bool:
    server.enqueue(*({"payload": "x" * 500_000} for _ in range(10)))
    return os.path.getsize(f"{store}-wal") > 66 * 1024**2


def test_no_store_yet_is_no_problem_and_no_folder_is_one(tmp_path: Path, store: Path, doctor: Doctor) -> None:
    before = set(os.listdir(tmp_path))
    assert doctor(store) == 0
    assert doctor(tmp_path / "none" / "jobpipe.db") == 1
    assert set(os.listdir(tmp_path)) == before
    store.touch()
    assert doctor(store) == 0
    assert doctor.state("store") == "warning"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such rights")
def test_a_read_only_folder_is_a_problem_and_its_store_is_looked_at_all_the_same(
    server: Server, store: Path, doctor: Doctor
) -> None:
    as_root = os.geteuid() == 0
    if as_root and shutil.which(ORDINARY[0]) is None:
        pytest.skip("setpriv is missing, and root may write everywhere")
    server.enqueue({"id": "t1"})
    assert server.stop() == 0
    folder = Path(tempfile.mkdtemp())
    try:
        shutil.copy(store, folder)
        folder.chmod(0o555)
        command = [sys.executable, "-m", "jobpipe", "doctor", "-o", "json"]
        ran = subprocess.run(
            [*(ORDINARY if as_root else ()), *command, "--store", f"sqlite:///{folder}/jobpipe.db"],
            cwd="/", capture_output=True, text=True, check=False,
        )  # fmt: skip
        doctor.take(ran.stdout, ran.returncode)
        assert ran.returncode == 1
        assert doctor.state("folder") == "problem"
        assert doctor.state("store") == "ok"
        assert os.listdir(folder) == ["jobpipe.db"]
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_for_people_it_is_a_line_each(
    store: Path, doctor: Doctor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--store", f"sqlite:///{store}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warning") for line in lines)
    assert len(lines) > 5


def test_counts_that_are_not_what_the_rows_say_are_told_and_made_true_once_no_server_is_there(
    server: Server, store: Path, doctor: Doctor
) -> None:
    server.enqueue(*({"id": f"t{n}"} for n in range(9)))
    assert doctor(store, "--repair") == 1
    assert doctor.state("repair") == "problem", "a server uses it"
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM tasks WHERE id <> 't3'")
    assert doctor(store) == 1
    assert "9 queued are counted, and 1 are there" in doctor.found["counts"]["text"]
    assert doctor(store, "--repair") == 0
    assert doctor.state("counts") == "ok"


def test_a_server_that_starts_on_such_counts_makes_them_true(tmp_path: Path, store: Path) -> None:
    args = ("--no-pool", "--store", f"sqlite:///{store}", "--queue-size", "9")
    server = Server(tmp_path, *args).up()
    server.enqueue(*({"id": f"t{n}"} for n in range(9)))
    assert server.stop() == 0
    with contextlib.closing(sqlite3.connect(store)) as connection, connection:
        connection.execute("DELETE FROM tasks")
    server = server.again()
    try:
        until("tasks are taken", lambda: server.ask("/enqueue", [{}])[0]["status"] == 202)
        assert "9 queued are counted, and 0 are there; put right" in server.said
    finally:
        assert server.stop() == 0


def test_tasks_whose_handler_no_worker_has_are_a_warning(tmp_path: Path, store: Path, doctor: Doctor) -> None:
    keys = "--api-keys", f"eye:read:{sha256(b'eye').hexdigest()};web:enqueue:{sha256(b'web').hexdigest()}"
    (tmp_path / "few.py").write_text("from jobpipe import App\napp = App()\n")
    url = f"sqlite:///{store}"
    server = Server(tmp_path, "few:app", "--app-dir", str(tmp_path), "--store", url, *keys).up()
    try:
        with Client(server.url, key="web") as web, Client(server.url, key="eye") as eye:
            assert doctor(store, "--server", server.url, "--key", "eye") == 0
            assert doctor.state("handlers") == "ok"
            for number in range(3):
                web.enqueue(f"mail.{min(number, 1)}", id=f"mail-{number}")
            until("each was given back", lambda: all(eye.get(f"mail-{n}").last_error for n in range(3)))
        assert doctor(store, "--server", server.url, "--key", "eye") == 0
        assert doctor.found["handlers"] == {
            "check": "handlers", "state": "warning",
            "text": "3 tasks wait for handlers that no worker has: mail.1 (2), mail.0 (1)",
        }  # fmt: skip
        assert doctor(store, "--server", server.url, "--key", "web") == 0
        assert doctor.state("handlers") == "ok"
        assert "needs a key that may read" in doctor.found["handlers"]["text"]
    finally:
        assert server.stop() == 0
