"""The store that went away under a running server: noticed soon, and nothing more is acknowledged."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from programs import Program, Server, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(90)]

NOTICED_S = 5.0
EXIT_STORE, EXIT_BROKEN = 4, 6


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data" / "a.db"


@pytest.fixture
def server(tmp_path: Path, store: Path) -> Iterator[Server]:
    server = Server(tmp_path, "--no-pool", "--store", f"sqlite:///{store}").up()
    server.enqueue({"id": "before"})
    yield server
    if server.alive():
        server.kill()


def remove(store: Path, *endings: str) -> None:
    for ending in endings:
        Path(f"{store}{ending}").unlink()


def replace(store: Path) -> None:
    shutil.copy(store, f"{store}.copy")
    os.replace(f"{store}.copy", store)


def status(server: Server, path: str, body: object = None) -> int | None:
    """How the server answers; None when it does not."""
    try:
        server.ask(path, body)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except (OSError, http.client.HTTPException):
        return None
    return 202


HARM: dict[str, Callable[[Path], object]] = {
    "all removed": lambda store: remove(store, "", "-wal", "-shm", ".lock"),
    "database removed": lambda store: remove(store, ""),
    "log removed": lambda store: remove(store, "-wal"),
    "index removed": lambda store: remove(store, "-shm"),
    "moved": lambda store: store.rename(store.with_name("b.db")),
    "replaced": replace,
    "emptied": lambda store: os.truncate(store, 0),
    "folder renamed": lambda store: store.parent.rename(store.parent.with_name("old")),
    "folder removed": lambda store: shutil.rmtree(store.parent),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_store_that_is_gone_ends_its_server_and_nothing_more_is_acknowledged(
    server: Server, store: Path, harm: str
) -> None:
    HARM[harm](store)
    since = time.monotonic()
    last = since
    while server.alive():
        assert time.monotonic() - since < 20
        if status(server, "/enqueue", {}) == 202:
            last = time.monotonic()
    assert last - since < NOTICED_S
    assert server.ended() == EXIT_BROKEN
    assert "the store is lost" in server.said
    assert "Traceback" not in server.said


def test_a_stop_right_after_the_loss_is_not_told_as_a_good_one(server: Server, store: Path) -> None:
    HARM["all removed"](store)
    assert server.stop() == EXIT_BROKEN


@pytest.mark.parametrize("harm", ["all removed", "moved", "log removed"])
def test_readyz_says_so_at_once(server: Server, store: Path, harm: str) -> None:
    HARM[harm](store)
    assert status(server, "/readyz") == 503
    assert status(server, "/enqueue", {}) in (503, None)


def test_a_store_that_took_the_place_keeps_its_own_log(server: Server, store: Path) -> None:
    """SQLite deletes the log by its name when it closes a database: that would be the log of another one."""
    other = store.with_name("b.db")
    for ending in ("", "-wal"):
        Path(f"{store}{ending}").rename(f"{other}{ending}")
        Path(f"{store}{ending}").write_bytes(b"another's")
    assert server.ended(10) == EXIT_BROKEN
    for ending in ("", "-wal"):
        assert Path(f"{store}{ending}").read_bytes() == b"another's"
    remove(store, "", "-wal", "-shm", ".lock")
    again = server.again("--no-pool", "--store", f"sqlite:///{other}")
    assert again.task("before")["status"] == "queued", "nothing of the old one was lost either"
    again.kill()


def test_a_handler_that_changes_the_folder_moves_no_store(tmp_path: Path, store: Path) -> None:
    name = os.path.relpath(store, Path(__file__).parent)
    server = Server(tmp_path, "movers:app", "--processes", "0", "--store", f"sqlite:///{name}").up()
    server.enqueue({"id": "mover", "handler": "moves"})
    assert server.finished("mover")["status"] == "done"
    server.ask("/readyz")
    assert server.stop() == 0


def test_without_the_lock_file_a_second_server_is_refused_and_the_file_comes_back(
    server: Server, store: Path, tmp_path: Path
) -> None:
    remove(store, ".lock")
    second = Program(tmp_path, "second", "serve", "--port", "0", "--store", f"sqlite:///{store}")
    assert second.ended(20) == EXIT_STORE
    assert re.search(
        r"another server (\(pid \d+\) )?is using it", second.said
    )  # it may be there again by then
    until("the lock file is there again", lambda: Path(f"{store}.lock").exists(), NOTICED_S)
    assert Path(f"{store}.lock").read_text() == f"{server.process.pid}\n"
    server.enqueue({"id": "after"})
    third = Program(tmp_path, "third", "serve", "--port", "0", "--store", f"sqlite:///{store}")
    assert third.ended(20) == EXIT_STORE
    assert f"another server (pid {server.process.pid}) is using it" in third.said
    assert server.stop() == 0


def test_a_log_of_claims_that_was_removed_is_made_again(tmp_path: Path, store: Path) -> None:
    server = Server(tmp_path, "faults:app", "--store", f"sqlite:///{store}").up()
    server.enqueue({"id": "first", "handler": "innocent", "payload": {}})
    server.finished("first")
    remove(store, "-claims")
    until("the log is there again", lambda: Path(f"{store}-claims").exists(), NOTICED_S)
    server.enqueue({"id": "second", "handler": "innocent", "payload": {}})
    assert server.finished("second")["status"] == "done"
    until("it is written to", lambda: Path(f"{store}-claims").stat().st_size)
    assert server.stop() == 0
    assert not Path(f"{store}-claims").exists()


def test_a_log_of_claims_that_cannot_be_opened_is_one_line(tmp_path: Path, store: Path) -> None:
    Path(f"{store}-claims").mkdir()
    server = Server(tmp_path, "--store", f"sqlite:///{store}")
    assert server.ended(20) == EXIT_STORE
    (line,) = server.said.splitlines()
    assert line.startswith(f"jobpipe: error: cannot open {store}: ")


@pytest.mark.alone
def test_to_look_after_the_files_an_idle_server_needs_next_to_no_time(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    server.ask("/healthz")
    time.sleep(0.5)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(6.5)
    used = sum(process.cpu_times()[:2]) - before
    assert used / (time.monotonic() - began) <= 0.004, "two ticks of the system's clock"
    server.signal(signal.SIGTERM)
