"""One server with its handlers in its own process: real signals, real deaths, and starts that are refused."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sqlite3
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import Server, ids, many, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

Start = Callable[..., Server]

QUICK = ("--simulate-min", "0", "--simulate-max", "0.01", "--retry-base", "0.01", "--retry-jitter", "0.01")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def start(tmp_path: Path, store: Path) -> Iterator[Start]:
    """Starts a server on a file, handlers in its own process, and sees everything ended."""
    started: list[Server] = []

    def start(*args: str) -> Server:
        server = Server(tmp_path, *args, "--processes", "0", "--store", f"sqlite:///{store}")
        started.append(server)
        return server.up()

    yield start
    for server in started:
        if server.alive():
            server.kill()


def test_several_hundred_tasks_all_come_to_an_end_within_their_retries(start: Start) -> None:
    server = start(*QUICK, "--simulate-failures", "0.4", "--workers", "16", "--queue-size", "1000")
    tasks = [{"id": f"t{i}", "max_retries": i % 4, "payload": {"n": i}} for i in range(400)]
    server.enqueue(*tasks)
    ends = server.all_finished(ids(tasks))
    assert {task["status"] for task in ends} == {"done", "failed"}
    for task in ends:
        assert task["failures"] <= 1 + task["max_retries"]
        assert task["attempts"] == task["failures"] + task["lost"] + (task["status"] == "done")
        assert task["status"] == "done" or task["failures"] == 1 + task["max_retries"]
    counts = server.ask("/stats")["counts"]
    assert counts["done"] + counts["failed"] == 400
    assert counts["queued"] == counts["running"] == 0
    assert server.said.count("INFO jobpipe.tasks task t") == 400, "one line per task end"


def nap(id: str, seconds: float, handler: str = "innocent") -> dict[str, Any]:
    return {"id": id, "handler": handler, "payload": {"seconds": seconds}}


def looked_at(server: Server) -> Server:
    """The same store, served without working on it."""
    return server.again("--no-pool", *server.args[-2:])


@pytest.mark.alone
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_short_tasks_releases_long_ones_and_exits_0(start: Start, number: int) -> None:
    server = start("faults:app", "--shutdown-grace", "1.5")
    server.enqueue(nap("short", 0.5), nap("long", 60), nap("thread", 60, "thread"), nap("later", 60))
    for name in ("short", "long", "thread"):
        server.running(name)
    began = time.monotonic()
    server.signal(number)
    until("it refuses new tasks", lambda: refused(server) == (503, "5"), 1)
    assert server.ask("/healthz") == {"status": "ok"}
    assert server.ended() == 0
    assert time.monotonic() - began <= 1.5 + 1
    looker = looked_at(server)
    assert looker.task("short")["status"] == "done"
    for name in ("long", "thread", "later"):
        task = looker.task(name)
        assert (task["status"], task["attempts"], task["lost"]) == ("queued", 0, 0), task
    looker.kill()


def refused(server: Server) -> tuple[int, str | None]:
    try:
        server.ask("/enqueue", {})
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Retry-After"]
    return 202, None


@pytest.mark.alone
def test_a_second_signal_releases_and_leaves_at_once(start: Start) -> None:
    server = start("faults:app", "--shutdown-grace", "60")
    server.enqueue(nap("long", 60), nap("thread", 60, "thread"))
    server.running("long"), server.running("thread")
    server.signal(signal.SIGTERM)
    until("it drains", lambda: "stopping" in server.said)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.ended() == 0
    assert time.monotonic() - began <= 1.5
    looker = looked_at(server)
    assert [looker.task(name)["attempts"] for name in ("long", "thread")] == [0, 0]
    looker.kill()


@pytest.mark.alone
def test_a_slow_client_does_not_hold_the_stop(start: Start) -> None:
    server = start("--shutdown-grace", "0.5")
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /enqueue HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
        assert server.ask("/healthz")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began <= 1.5
    assert "Traceback" not in server.said


def test_nothing_acknowledged_is_lost_by_kills_and_all_comes_to_an_end(start: Start) -> None:
    chance = random.Random(7)
    server = start("faults:app", "--workers", "8", "--queue-size", "100000")
    acknowledged: list[str] = []
    for _ in range(3):
        poster = threading.Thread(target=post_until_dead, args=(server, acknowledged))
        poster.start()
        before = len(acknowledged)
        until("it has work", lambda before=before: len(acknowledged) > before + chance.randint(20, 200))
        server.kill()
        poster.join()
        server = server.again()
    ends = server.all_finished(acknowledged)
    assert {task["status"] for task in ends} == {"done"}
    assert all(task["attempts"] == task["lost"] + 1 for task in ends)
    assert all(task["failures"] == 0 for task in ends)
    server.kill()


def post_until_dead(server: Server, acknowledged: list[str]) -> None:
    with contextlib.suppress(OSError):
        while True:
            id = f"k{len(acknowledged)}-{time.monotonic_ns()}"
            server.ask("/enqueue", nap(id, 0.01))
            acknowledged.append(id)


def test_a_restart_keeps_the_charts_and_the_history_of_each_task(start: Start) -> None:
    server = start(*QUICK, "--simulate-failures", "1")
    server.enqueue({"id": "a", "max_retries": 1}, {"id": "b", "max_retries": 0})
    server.all_finished(["a", "b"])
    before = {path: server.ask(path) for path in ("/errors", "/tasks/a/attempts")}
    assert [attempt["outcome"] for attempt in before["/tasks/a/attempts"]] == ["failed", "failed"]
    assert [group["count"] for group in before["/errors"]] == [3]
    assert server.stop() == 0
    again = server.again()
    assert {path: again.ask(path) for path in before} == before
    again.enqueue({"id": "c", "max_retries": 0})
    again.all_finished(["c"])
    points = until("the charts show both servers' part", lambda: _sums(again, enqueued=3))
    assert again.stop() == 0
    assert (points["failed"], points["retried"], points["queued"]) == (3, 1, 0)


def _sums(server: Server, enqueued: int) -> dict[str, int] | None:
    """The series added up, once it tells of so many tasks: an answer is shared for a second."""
    points = server.ask("/series")
    sums = {
        name: sum(point[name] for point in points) for name in ("enqueued", "failed", "retried", "queued")
    }
    return sums if sums["enqueued"] == enqueued and sums["failed"] == enqueued else None


@pytest.mark.parametrize("kept", ["--retention", "--retention-failed"])
def test_retention_0_keeps_nothing_finished_and_stops_nothing(start: Start, kept: str) -> None:
    server = start(*QUICK, kept, "0", "--simulate-failures", "0" if kept == "--retention" else "1")
    server.enqueue(*({"id": f"t{i}", "max_retries": 0} for i in range(60)))
    until("all are gone", lambda: sum(server.ask("/stats")["counts"].values()) == 0, 20)
    assert "Traceback" not in server.said


# --- starts that are refused: one line, an exit code of their own, and nothing touched ---


def refusal(folder: Path, *args: str) -> tuple[int, str]:
    """Exit code and the one line of a server that does not start."""
    apart = folder / "refused"
    apart.mkdir()
    server = Server(apart, *args)
    code = server.ended(20)
    (line,) = server.said.splitlines()
    return code, line


def test_a_port_in_use_is_told_and_no_store_is_made(tmp_path: Path, store: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = Server(tmp_path, "--store", f"sqlite:///{store}", port=taken.getsockname()[1])
        assert server.ended(20) == 5
    assert f"cannot listen on 127.0.0.1:{server.port}" in server.said
    assert not store.exists()


def test_a_second_server_on_the_same_file_is_told_the_pid_of_the_first(start: Start, store: Path) -> None:
    first = start()
    code, line = refusal(store.parent, "--store", f"sqlite:///{store}")
    assert code == 4
    assert f"(pid {first.process.pid})" in line
    assert first.ask("/healthz")


def test_a_store_with_a_second_name_is_refused(tmp_path: Path, start: Start, store: Path) -> None:
    start()
    other = tmp_path / "elsewhere"
    other.mkdir()
    os.link(store, other / "jobpipe.db")
    code, line = refusal(tmp_path, "--store", f"sqlite:///{other / 'jobpipe.db'}")
    assert code == 4
    assert "second name" in line
    assert [file.name for file in other.iterdir()] == ["jobpipe.db"]


def test_the_database_of_another_program_is_refused_and_nothing_left_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "jobpipe.db")) as theirs:
        theirs.execute("CREATE TABLE precious (x)")
        theirs.commit()
    before = (folder / "jobpipe.db").read_bytes()
    code, line = refusal(tmp_path, "--store", f"sqlite:///{folder / 'jobpipe.db'}")
    assert code == 4
    assert "another program" in line
    assert [file.name for file in folder.iterdir()] == ["jobpipe.db"]
    assert (folder / "jobpipe.db").read_bytes() == before


def test_an_engine_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    code, line = refusal(tmp_path, "--store", "postgresql://user:secret@127.0.0.1:1/jobs")
    assert code == 4
    assert "cannot reach PostgreSQL at 127.0.0.1:1/jobs" in line
    assert "secret" not in line


def test_an_app_that_does_not_import_is_one_line_also_without_processes(tmp_path: Path) -> None:
    code, line = refusal(tmp_path, "no.such.module:app", "--processes", "0")
    assert (code, line.startswith("jobpipe: error: no module named 'no'")) == (3, True)


def test_without_an_app_tasks_that_name_nothing_are_simulated(start: Start) -> None:
    server = start(*QUICK, "--simulate-failures", "0", "--handler-wait", "0")
    server.enqueue({"id": "a"}, *many("i", 2))
    assert server.finished("a")["handler"] == "simulate"
    server.finished("i-0")
    assert server.task("i-0")["last_error"]["type"] == "unknown_handler"


@pytest.mark.alone
def test_a_stop_ends_the_event_streams_after_the_running_tasks_and_is_not_held_by_them(start: Start) -> None:
    server = start("--simulate-min", "0.5", "--simulate-max", "0.5", "--simulate-failures", "0")
    with socket.create_connection(("127.0.0.1", server.port), 20) as reader:
        reader.sendall(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        heard = reader.recv(65536)
        server.enqueue({"id": "t1"})
        until("it runs", lambda: server.task("t1")["status"] == "running")
        server.signal(signal.SIGTERM)
        while piece := reader.recv(65536):
            heard += piece
        began = time.monotonic()
        assert server.ended() == 0
    assert time.monotonic() - began < 1.0
    assert heard.endswith(b"\r\n0\r\n\r\n")  # whole, not cut off
    assert b'"status":"done"' in heard
    assert "Traceback" not in server.said
