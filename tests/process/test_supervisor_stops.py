"""Starting, stopping and dying with a tree of processes: nothing is left behind, nothing is lost, no attempt burnt."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from programs import HERE, Server, ids, many, pid_of, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a server on a file, and sees everything ended."""
    started: list[Server] = []

    def start(*args: str) -> Server:
        store = f"sqlite:///{tmp_path / 'jobpipe.db'}"
        started.append(server := Server(tmp_path, *args, "--store", store, "--lease", "5"))
        return server.up()

    yield start
    for server in started:
        if server.alive():
            server.kill()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def folders() -> set[Path]:
    """What servers may leave where their processes come in."""
    return set(Path(tempfile.gettempdir()).glob("jobpipe-*"))


def nap(id: str, seconds: float, **fields: Any) -> dict[str, Any]:
    return {"id": id, "handler": "innocent", "payload": {"seconds": seconds}} | fields


def test_an_app_that_does_not_import_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    store = tmp_path / "jobpipe.db"
    server = Server(tmp_path, "no.such.module:app", "--store", f"sqlite:///{store}")
    assert server.ended() == 3
    assert server.said.splitlines() == [f"jobpipe: error: no module named 'no', looked for from {HERE}"]
    assert not store.exists()


@pytest.mark.alone
def test_a_drain_finishes_what_runs_releases_the_rest_and_leaves_no_process(start: Start) -> None:
    server = start("faults:app", "--processes", "2", "--shutdown-grace", "2")
    server.enqueue(
        nap("short", 0.6), nap("long", 60), {"id": "thread", "handler": "thread", "payload": {"seconds": 60}}
    )
    for name in ("short", "long", "thread"):
        server.running(name)
    children = server.children()
    assert len(children) == 2
    server.signal(signal.SIGTERM)
    assert server.ended(2 + 2) == 0
    until("all children are gone", lambda: gone(children), 1)

    looker = server.again("--no-pool", "--store", server.args[-3])
    assert looker.task("short")["status"] == "done"
    for name in ("long", "thread"):
        task = looker.task(name)
        assert (task["status"], task["attempts"], task["lost"]) == ("queued", 0, 0), task
    looker.kill()


def test_a_second_signal_ends_the_grace(start: Start) -> None:
    server = start("faults:app", "--shutdown-grace", "60")
    server.enqueue(nap("long", 60))
    server.running("long")
    server.signal(signal.SIGTERM)
    until("it drains", lambda: "stopping" in server.said)
    server.signal(signal.SIGTERM)
    assert server.ended(4) == 0


def test_a_process_that_hangs_does_not_hold_the_stop_and_its_tasks_are_released(start: Start) -> None:
    server = start("faults:app", "--shutdown-grace", "0.5")
    server.enqueue({"id": "hangs", "handler": "blocks_the_loop"})
    server.running("hangs")
    assert server.stop() == 0
    looker = server.again("--no-pool", "--store", server.args[-3])
    task = looker.task("hangs")
    assert (task["status"], task["attempts"], task["lost"]) == ("queued", 0, 0), task
    looker.kill()


def test_children_die_with_a_killed_server_and_their_tasks_are_rescued_at_its_next_start(
    start: Start,
) -> None:
    before = folders()
    server = start("faults:app", "--processes", "2")
    # One that is stopped cannot notice anything itself, and a loop that is blocked reads no pipe.
    server.enqueue(
        nap("waits", 1.5),
        nap("stopped", 1.5),
        {"id": "blocks", "handler": "blocks_the_loop", "timeout": 2, "max_retries": 0},
    )
    os.kill(pid_of(server.running("stopped")), signal.SIGSTOP)
    server.running("waits")
    children = server.children()
    server.kill()
    until("the children are gone", lambda: gone(children), 5)

    server = server.again()
    for name in ("waits", "stopped"):
        ended = server.finished(name)
        assert (ended["status"], ended["lost"]) == ("done", 1)
    assert server.finished("blocks")["status"] == "failed"
    assert folders() <= before
    assert server.stop() == 0


def test_a_process_is_replaced_between_tasks_after_so_many(start: Start) -> None:
    server = start("faults:app", "--workers", "1", "--max-tasks-per-process", "2")
    tasks = many("counted", 6)
    server.enqueue(*tasks)
    ended = server.all_finished(ids(tasks))
    assert all((task["status"], task["attempts"]) == ("done", 1) for task in ended)
    assert len({task["result"] for task in ended}) == 3
    assert server.stop() == 0


def test_a_sigterm_to_a_worker_process_costs_no_task(start: Start) -> None:
    server = start("faults:app")
    server.enqueue(nap("runs", 0.5))
    pid = pid_of(server.running("runs"))
    os.kill(pid, signal.SIGTERM)
    server.enqueue(nap("next", 0))
    assert server.finished("runs")["attempts"] == 1
    assert pid_of(server.finished("next")) != pid
    assert server.stop() == 0


def test_without_an_app_no_process_is_started(start: Start) -> None:
    server = start("--simulate-failures", "0", "--simulate-min", "0", "--simulate-max", "0")
    server.enqueue({"id": "simulated"})
    assert server.finished("simulated")["status"] == "done"
    assert server.children() == []
    assert server.stop() == 0


def test_processes_that_are_asked_for_run_the_built_in_handler_too(start: Start) -> None:
    server = start("--processes", "2", "--simulate-failures", "0", "--simulate-max", "0.1")
    server.enqueue({"id": "simulated"})
    ended = server.finished("simulated")
    assert ended["status"] == "done"
    assert pid_of(ended) in {child.pid for child in server.children()}
    assert server.stop() == 0


def test_with_no_processes_the_app_runs_in_the_server_with_a_warning(start: Start) -> None:
    server = start("faults:app", "--processes", "0")
    server.enqueue(nap("here", 0))
    assert server.finished("here")["result"] == server.process.pid
    assert "runs handlers in the server" in server.said
    assert server.stop() == 0
