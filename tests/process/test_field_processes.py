"""What the field does to processes: deploys, cleaners, pools, programs and threads that outlive their time."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import Program, Server, pid_of, until

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="asks /proc and prctl(2)"),
]

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start(*args: str, **env: str) -> Server:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in env.items():
                patch.setenv(name, value)
            retries = ("--retry-base", "0.01", "--retry-jitter", "0.01")
            started.append(
                server := Server(tmp_path, "field:app", "--store", "memory:", "--lease", "5", *retries, *args)
            )
            return server.up()

    yield start
    for server in started:
        if server.alive():
            server.kill()


def lives(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def sleepers(seconds: float) -> list[psutil.Process]:
    """The programs that handlers started to sleep for so long."""
    return [p for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"] == ["sleep", f"{seconds}"]]


def noted(server: Server, word: str) -> list[tuple[int, int]]:
    return [(attempt, pid) for name, attempt, pid in server.runs() if name == word]


def refused(server: Server) -> dict[str, Any] | None:
    """What `/readyz` says where it is not 200."""
    try:
        server.ask("/readyz")
    except urllib.error.HTTPError as error:
        answer: dict[str, Any] = json.load(error)
        return answer
    return None


def command_line(*words: str) -> str:
    """What `jobpipe` says on its standard output."""
    command = [sys.executable, "-m", "jobpipe", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


# --- what a handler starts ends with its process ---


def test_a_pool_of_processes_in_a_handler_neither_retires_its_process_nor_is_left_behind(
    start: Start,
) -> None:
    server = start()
    server.enqueue(*({"id": f"p{i}", "handler": "pools"} for i in range(5)))
    for ended in server.all_finished([f"p{i}" for i in range(5)]):
        assert (ended["status"], ended["attempts"], ended["result"]) == ("done", 1, [0, 1, 4, 9])
    assert len(server.runs()) == 5
    (child,) = server.children()
    assert child.children() == []
    assert "room" not in server.said
    assert server.stop() == 0


@pytest.mark.parametrize("how", ["its process is killed", "the server is killed"])
def test_what_a_killed_process_had_started_ends_with_it(start: Start, how: str) -> None:
    server = start("--max-lost", "2")
    server.enqueue({"id": "pool", "handler": "keeps_a_pool", "max_retries": 0})
    until("the pool works", lambda: noted(server, "pool"))
    (_, of_pool), pid = noted(server, "pool")[0], pid_of(server.task("pool"))
    if how == "the server is killed":
        server.kill()
    else:
        os.kill(pid, signal.SIGKILL)
    until("the pool is gone", lambda: not lives(of_pool), 10)


def test_who_leaves_the_group_of_its_process_outlives_it(start: Start) -> None:
    server = start()
    server.enqueue({"id": "daemon", "handler": "daemonises", "payload": {"seconds": 601.5}})
    daemon = server.finished("daemon")["result"]
    assert server.stop() == 0
    assert lives(daemon)
    os.kill(daemon, signal.SIGKILL)


def test_orphans_are_reaped_by_a_server_that_the_system_gives_them_to(start: Start) -> None:
    subreaper = "import ctypes,os,sys;ctypes.CDLL(None).prctl(36,1,0,0,0);os.execv(sys.argv[1],sys.argv[1:])"
    server = start()
    server.stop()

    class Init(Server):
        """The server as process 1 of a container is: whoever loses its parent becomes its child."""

        def __init__(self) -> None:
            super().__init__(server.folder, *server.args, port=server.port)

    before, sys.executable = sys.executable, str(server.folder / "init")
    Path(sys.executable).write_text(f"#!/bin/sh\nexec {before} -c '{subreaper}' {before} \"$@\"\n")
    Path(sys.executable).chmod(0o755)
    try:
        init = Init()
    finally:
        sys.executable = before
    try:
        init.up()
        init.enqueue({"id": "orphans", "handler": "orphans", "payload": {"count": 30}})
        assert init.finished("orphans")["status"] == "done"

        def is_zombie(child: psutil.Process) -> bool:
            try:
                return bool(child.status() == psutil.STATUS_ZOMBIE)
            except psutil.NoSuchProcess:  # reaped meanwhile
                return False

        def zombies() -> list[psutil.Process]:
            return [child for child in init.children() if is_zombie(child)]

        until("the orphans came here and ended", zombies)
        until("all are reaped", lambda: not (zombies() or sleepers(0.2)), 10)
        assert init.stop() == 0
    finally:
        if init.alive():
            init.kill()


# --- ready means that work gets done ---


def test_a_cleaner_of_the_temporary_folder_does_no_harm(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    server = start(TMPDIR=str(folder))
    server.enqueue({"id": "runs", "handler": "innocent", "payload": {"seconds": 7}})
    pid = pid_of(server.running("runs"))
    shutil.rmtree(folder)
    folder.mkdir()
    server.enqueue({"id": "beside", "handler": "innocent", "payload": {}})
    assert server.finished("beside")["status"] == "done"
    # Its heartbeats come through, each on a connection of its own, and so does a new process.
    assert (server.finished("runs")["status"], server.task("runs")["lost"]) == ("done", 0)
    os.kill(pid, signal.SIGKILL)
    server.enqueue({"id": "after", "handler": "innocent", "payload": {}})
    assert pid_of(server.finished("after")) != pid
    assert server.stop() == 0


def test_without_a_writable_folder_for_temporary_files_it_says_so_in_a_line_and_works(start: Start) -> None:
    missing = "/proc/nowhere"
    server = start(TMPDIR=missing, TEMP=missing, TMP=missing, JOBPIPE_TEST_NO_TMP="1")
    server.enqueue({"id": "works", "handler": "innocent", "payload": {}})
    assert server.finished("works")["status"] == "done"
    assert "Traceback" not in server.said
    assert server.stop() == 0


def test_a_server_whose_app_no_longer_imports_is_not_ready_until_it_does_again(start: Start) -> None:
    server = start("--processes", "2")
    until("both work", lambda: len(server.ask("/workers")) == 2)
    broken = server.journal.with_name("broken")
    broken.touch()
    for child in server.children():
        child.kill()
    problem = until("it is not ready", lambda: refused(server), 10)
    assert (problem["status"], problem["code"]) == (503, "degraded")
    assert "the code that was deployed is broken" in problem["detail"]
    stats = server.ask("/stats")
    assert stats["status"] == "degraded"
    assert "the code that was deployed is broken" in stats["trouble"]
    assert "is of no use: importing 'field' raised RuntimeError" in server.said
    for command, told in (("stats", "degraded"), ("doctor", "problem  ready: ")):
        said = command_line(command, "--server", server.url)
        assert "the code that was deployed is broken" in said, command
        assert told in said, command
    # It still takes tasks, and works them off once the app is whole.
    server.enqueue({"id": "waits", "handler": "innocent", "payload": {}})
    broken.unlink()
    assert server.finished("waits")["status"] == "done"
    assert refused(server) is None
    assert server.stop() == 0


def test_a_working_folder_that_a_deploy_removed_is_told_as_it_is(tmp_path: Path, start: Start) -> None:
    release = tmp_path / "release"
    release.mkdir()
    for name in ("field.py", "faults.py"):
        shutil.copy(Path(__file__).with_name(name), release)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("programs.HERE", release)
        server = start()
    shutil.rmtree(release)
    (child,) = server.children()
    child.kill()
    problem = until("it is not ready", lambda: refused(server), 10)
    assert "the working folder, in which 'field' is looked for, is gone" in problem["detail"]
    assert "Traceback" not in server.said
    assert server.stop() == 0


# --- what timed out is over ---


@pytest.mark.parametrize("handler", ["runs_a_program", "awaits_a_program"])
def test_a_program_of_a_run_that_timed_out_is_ended_and_its_neighbours_is_not(
    start: Start, handler: str
) -> None:
    server = start()
    server.enqueue({"id": "neighbour", "handler": handler, "payload": {"seconds": 6.25}, "max_retries": 0})
    server.running("neighbour")
    task = {"handler": handler, "payload": {"seconds": 602.5}, "timeout": 0.5, "max_retries": 2}
    server.enqueue(*({"id": f"out-{i}", **task} for i in range(3)))
    for ended in server.all_finished([f"out-{i}" for i in range(3)]):
        assert (ended["status"], ended["failures"]) == ("failed", 3)
        assert ended["last_error"]["type"] == "timed_out"
    assert sleepers(602.5) == []
    # A thread that only waited for its program is over with it: no process had to be replaced.
    assert "room" not in server.said
    assert server.finished("neighbour")["result"] == 0
    assert server.stop() == 0


def test_the_retry_of_a_thread_that_cannot_be_stopped_waits_for_the_end_of_its_process(start: Start) -> None:
    server = start()
    server.enqueue({"id": "stuck", "handler": "blocks", "timeout": 0.5, "max_retries": 2})
    server.running("stuck")
    for attempt in (2, 3):
        until("it is tried again", lambda attempt=attempt: len(tried(server)) == attempt)
        assert not any(lives(pid) for pid in tried(server)[:-1])
    pids = tried(server)
    ended = server.finished("stuck")
    assert (ended["status"], ended["failures"], ended["lost"]) == ("failed", 3, 0)
    assert ended["last_error"]["type"] == "timed_out"
    assert len(set(pids)) == 3
    assert server.stop() == 0


def tried(server: Server) -> list[int]:
    return [pid for name, _, pid in server.runs() if name == "stuck"]


def test_threads_that_outlive_their_runs_hold_up_neither_later_tasks_nor_the_stop(start: Start) -> None:
    server = start("--shutdown-grace", "2")
    held = {"handler": "sleeps_in_a_thread", "payload": {"seconds": 900}, "timeout": 0.5, "max_retries": 0}
    for i in range(3):
        server.enqueue(*({"id": f"h{i}-{j}", **held} for j in range(8)))
    for i in range(3):
        for ended in server.all_finished([f"h{i}-{j}" for j in range(8)]):
            assert ended["last_error"]["type"] == "timed_out"
    server.enqueue({"id": "later", "handler": "borrows_a_thread", "timeout": 10, "max_retries": 0})
    assert server.finished("later")["status"] == "done"
    server.enqueue({"id": "last", "handler": "sleeps_in_a_thread", "payload": {"seconds": 900}})
    server.running("last")
    server.signal(signal.SIGTERM)
    assert server.ended(6) == 0


def test_threads_that_outlive_their_runs_do_not_fill_a_server_that_runs_handlers_itself(start: Start) -> None:
    server = start("--processes", "0", "--workers", "4", "--shutdown-grace", "1")
    held = {"handler": "sleeps_in_a_thread", "payload": {"seconds": 900}, "timeout": 0.2, "max_retries": 0}
    server.enqueue(*({"id": f"h{i}", **held} for i in range(44)))
    for ended in server.all_finished([f"h{i}" for i in range(44)]):
        assert ended["last_error"]["type"] == "timed_out"
    server.enqueue({"id": "later", "handler": "borrows_a_thread", "timeout": 5, "max_retries": 0})
    assert server.finished("later")["status"] == "done"
    server.signal(signal.SIGTERM)
    assert server.ended(6) == 0


def test_max_rss_counts_what_a_process_started(start: Start) -> None:
    server = start("--max-rss", "200MiB", "--max-lost", "2")
    server.enqueue({"id": "eater", "handler": "starts_an_eater", "payload": {"mebibytes": 300}})
    ended = server.finished("eater")
    assert (ended["status"], ended["lost"]) == ("failed", 2)
    assert "over --max-rss 200 MiB" in ended["last_error"]["message"]
    server.enqueue({"id": "modest", "handler": "starts_an_eater", "payload": {"mebibytes": 20}, "timeout": 2})
    assert server.stop() == 0


# --- replacing a process stops nothing ---


def test_new_work_does_not_wait_for_a_process_that_is_replaced(start: Start) -> None:
    server = start("--workers", "4", "--max-tasks-per-process", "5")
    server.enqueue({"id": "long", "handler": "innocent", "payload": {"seconds": 8}, "max_retries": 0})
    long_ = pid_of(server.running("long"))
    server.enqueue(*({"id": f"quick-{i}", "handler": "innocent", "payload": {}} for i in range(20)))
    server.all_finished([f"quick-{i}" for i in range(20)])
    assert server.task("long")["status"] == "running"
    reason = "ran its 5 tasks (--max-tasks-per-process)"
    shown = {worker["pid"]: worker for worker in server.ask("/workers")}
    assert shown[long_]["leaving"] == reason
    assert shown[long_]["tasks"][0]["id"] == "long"
    (successor,) = (worker for worker in shown.values() if "leaving" not in worker)
    assert successor["replaced"]["reason"] == reason
    assert server.said.count(f"makes room for another: it {reason}") == 4
    assert (server.finished("long")["attempts"], server.runs_of("long")) == (1, 1)
    assert server.stop() == 0


def test_a_long_task_ends_beside_threads_that_outlive_their_timeouts(start: Start) -> None:
    server = start("--workers", "4", "--shutdown-grace", "1")
    server.enqueue({"id": "long", "handler": "innocent", "payload": {"seconds": 12}})
    server.running("long")
    for i in range(4):
        server.enqueue({"id": f"stuck-{i}", "handler": "blocks", "timeout": 0.5, "max_retries": 0})
        assert server.finished(f"stuck-{i}")["last_error"]["type"] == "timed_out"
        server.enqueue({"id": f"quick-{i}", "handler": "innocent", "payload": {}})
        assert server.finished(f"quick-{i}")["status"] == "done"
    ended = server.finished("long")
    assert (ended["status"], ended["attempts"], server.runs_of("long")) == ("done", 1, 1)
    assert "outlived its timeout in task stuck-0" in server.said
    until("the old processes are gone", lambda: len(server.children()) == 1)
    assert server.stop() == 0


def test_processes_that_leave_are_bounded_and_end_with_the_server(start: Start) -> None:
    server = start("--workers", "2", "--max-tasks-per-process", "1", "--shutdown-grace", "1")
    server.enqueue(
        *({"id": f"long-{i}", "handler": "innocent", "payload": {"seconds": 60}} for i in range(12))
    )
    until("as many as there may be", lambda: "no more may be started" in server.said)
    problem = until("it says so", lambda: refused(server))
    assert problem["code"] == "degraded"
    assert len(server.ask("/workers")) == 8
    os.kill(pid_of(server.task("long-0")), signal.SIGKILL)
    until("another takes its place", lambda: server.runs_of("long-8"))
    server.signal(signal.SIGTERM)
    assert server.ended(8) == 0
    assert server.said.count("did not end in time") == 0


# --- who lives is believed, who died is told ---


class Remote(Program):
    """`jobpipe worker` for a server that has none of its own."""

    def __init__(self, server: Server, *args: str) -> None:
        super().__init__(server.folder, "worker", "worker", "field:app", "--server", server.url, *args)


@pytest.fixture
def remote(start: Start) -> Iterator[tuple[Server, Remote]]:
    server = start("--no-pool")
    worker = Remote(server, "--lease", "30", "--shutdown-grace", "4")
    until("it works", lambda: server.ask("/workers"))
    yield server, worker
    if worker.alive():
        worker.kill()


def test_a_call_that_holds_the_gil_for_longer_than_the_lease_is_not_killed(start: Start) -> None:
    server = start()
    server.enqueue({"id": "neighbour", "handler": "innocent", "payload": {"seconds": 12}})
    server.running("neighbour")
    server.enqueue({"id": "holds", "handler": "holds_the_gil", "payload": {"seconds": 11}})
    for name in ("holds", "neighbour"):
        ended = server.finished(name)
        assert (ended["status"], ended["attempts"], server.runs_of(name)) == ("done", 1, 1)
    assert "rescued" not in server.said
    assert server.stop() == 0


def test_a_call_that_holds_the_gil_past_its_handlers_timeout_is_ended(start: Start) -> None:
    server = start()
    task = {"id": "holds", "handler": "holds_the_gil_too_long", "payload": {}, "max_retries": 0}
    server.enqueue(task)
    ended = server.finished("holds")
    assert (ended["status"], ended["last_error"]["type"]) == ("failed", "timed_out")
    assert server.stop() == 0


def test_the_same_holds_for_a_worker_elsewhere_and_its_parent(start: Start) -> None:
    server = start("--no-pool")
    worker = Remote(server, "--lease", "5", "--shutdown-grace", "1")
    try:
        server.enqueue({"id": "holds", "handler": "holds_the_gil", "payload": {"seconds": 11}})
        ended = server.finished("holds")
        assert (ended["status"], ended["attempts"], server.runs_of("holds")) == ("done", 1, 1)
        pid = pid_of(ended)
        server.enqueue({"id": "too-long", "handler": "holds_the_gil_too_long", "max_retries": 0})
        assert server.finished("too-long")["last_error"]["type"] == "timed_out"
        until("its process is ended", lambda: pid not in {child.pid for child in worker.children()}, 20)
        assert worker.stop() == 0
    finally:
        if worker.alive():
            worker.kill()


def test_a_killed_process_of_a_worker_elsewhere_is_told_to_the_server_at_once(
    remote: tuple[Server, Remote],
) -> None:
    server, worker = remote
    server.enqueue({"id": "hé=llo/1", "handler": "innocent", "payload": {"seconds": 2}})
    until("it runs", worker.runs)
    (child,) = worker.children()
    child.kill()
    until("it runs again", lambda: len(worker.runs()) == 2, 5)
    ended = server.finished("h%C3%A9%3Dllo%2F1")
    assert (ended["status"], ended["lost"]) == ("done", 1)
    assert "gave back 1 tasks" in worker.said


def test_a_cancel_reaches_a_handler_elsewhere_within_a_second(remote: tuple[Server, Remote]) -> None:
    server, _ = remote
    server.enqueue(
        {"id": "async", "handler": "innocent", "payload": {"seconds": 60}},
        {"id": "thread", "handler": "patient"},
    )
    for name in ("async", "thread"):
        until("it runs", lambda name=name: server.task(name)["status"] == "running")
        server.ask(f"/tasks/{name}/cancel", {})
        until(f"{name} is cancelled", lambda name=name: server.task(name)["status"] == "cancelled", 1.0)


def test_a_graceful_stop_of_a_worker_elsewhere_says_nothing_of_leases(remote: tuple[Server, Remote]) -> None:
    server, worker = remote
    server.enqueue(
        {"id": "short", "handler": "innocent", "payload": {"seconds": 0.5}},
        {"id": "long", "handler": "innocent", "payload": {"seconds": 60}},
    )
    for name in ("short", "long"):
        until("it runs", lambda name=name: server.task(name)["status"] == "running")
    assert worker.stop() == 0
    assert "leases" not in worker.said
    assert (server.task("short")["status"], server.task("long")["status"]) == ("done", "queued")
    assert server.task("long")["attempts"] == 0
