"""`jobpipe worker`: processes that work for a server elsewhere. Their deaths, pauses and the server's cost no task."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import HERE, Program, Server, ids, many, pid_of, until
from prove.ports import free_port

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

LEASE_S = 5.0
"""The shortest that a server gives."""


class Rig:
    """A server that only serves, and the workers that the test starts for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = f"sqlite:///{folder / 'jobpipe.db'}"
        self.server = Server(
            folder, "--no-pool", "--store", store, "--retry-base", "0.01", "--queue-size", "10000"
        ).up()
        self._workers: list[Program] = []

    def work(self, *args: str) -> Program:
        """Start a `jobpipe worker`; it is ready."""
        name = f"worker{len(self._workers)}"
        program = Program(
            self.folder,
            name,
            "worker",
            "faults:app",
            "--server",
            self.server.url,
            "--lease",
            f"{LEASE_S:g}",
            *args,
        )
        self._workers.append(program)
        until("the worker is ready", lambda: "works as" in program.said or not program.alive())
        assert program.alive(), program.said
        return program

    def end(self) -> None:
        for program in (*self._workers, self.server):
            if program.alive():
                program.kill()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.end()


def nap(id: str, seconds: float, **fields: Any) -> dict[str, Any]:
    return {"id": id, "handler": "innocent", "payload": {"seconds": seconds}} | fields


def test_kill_9_of_one_process_of_three_under_load_costs_only_time(rig: Rig) -> None:
    worker = rig.work("--processes", "3", "--workers", "9")
    tasks = many("load", 300)
    rig.server.enqueue(*tasks)
    until("all three work", lambda: len({pid for _, _, pid in rig.server.runs()}) == 3)
    victim = rig.server.runs()[-1][2]
    os.kill(victim, signal.SIGKILL)
    ended = rig.server.all_finished(ids(tasks))
    assert all((task["status"], task["failures"]) == ("done", 0) for task in ended)
    runs = rig.server.run_counts()
    hurt = {task["id"] for task in ended if task["lost"]}
    assert len(hurt) <= 3
    assert {id for id, count in runs.items() if count > 1} <= hurt
    until("it is replaced", lambda: len(worker.children()) == 3)
    assert victim not in {child.pid for child in worker.children()}
    assert worker.stop() == 0


def test_a_late_settle_of_a_worker_that_was_stopped_for_three_leases_changes_nothing(rig: Rig) -> None:
    stopped = rig.work("--workers", "1")
    rig.server.enqueue(nap("contested", 1.0))
    pid = pid_of(rig.server.running("contested"))
    os.kill(pid, signal.SIGSTOP)
    other = rig.work()
    ended = rig.server.finished("contested")
    assert (ended["status"], ended["attempts"], ended["lost"]) == ("done", 2, 1)
    assert ended["result"] != pid
    # A lease has passed; two more do, in which the other worker is asked for something.
    rig.server.enqueue(nap("meanwhile", 2 * LEASE_S))
    assert rig.server.finished("meanwhile")["lost"] == 0
    os.kill(pid, signal.SIGCONT)
    until("its settle comes too late", lambda: "came too late: lease_lost" in stopped.said)
    assert rig.server.task("contested") == ended
    assert rig.server.runs_of("contested") == 2
    assert (stopped.stop(), other.stop()) == (0, 0)


def test_workers_survive_a_killed_server_and_settle_after_its_restart(rig: Rig) -> None:
    worker = rig.work("--processes", "2")
    tasks = [nap(f"runs-{i}", 1.0) for i in range(4)]
    rig.server.enqueue(*tasks, *many("waits", 20))
    for task in tasks:
        rig.server.running(task["id"])
    pids = {child.pid for child in worker.children()}
    rig.server.kill()
    # The handlers end while there is no server.
    until("the outage is seen", lambda: "failed, trying on" in worker.said)
    rig.server = rig.server.again()
    ended = rig.server.all_finished([*ids(tasks), *ids(many("waits", 20))])
    assert all((task["status"], task["attempts"], task["lost"]) == ("done", 1, 0) for task in ended)
    assert set(rig.server.run_counts().values()) == {1}
    assert {child.pid for child in worker.children()} == pids
    assert worker.stop() == 0


def test_a_drain_settles_what_ends_in_the_grace_and_releases_the_rest(rig: Rig) -> None:
    worker = rig.work("--shutdown-grace", "1.5")
    rig.server.enqueue(nap("short", 0.8), nap("long", 60))
    rig.server.running("short")
    rig.server.running("long")
    assert worker.stop() == 0
    assert rig.server.task("short")["status"] == "done"
    task = rig.server.task("long")
    assert (task["status"], task["attempts"], task["lost"]) == ("queued", 0, 0)


def test_a_handler_that_nothing_stops_fails_after_its_retries(rig: Rig) -> None:
    worker = rig.work("--workers", "4")
    for handler in ("blocks_the_loop", "blocks_a_thread"):
        task = {"id": handler, "handler": handler, "timeout": 0.3, "max_retries": 0}
        rig.server.enqueue(*many(f"{handler}-before", 5), task, *many(f"{handler}-after", 10))
        ended = rig.server.finished(handler)
        assert (ended["status"], ended["failures"], ended["lost"]) == ("failed", 1, 0)
        for other in rig.server.all_finished(
            [*ids(many(f"{handler}-before", 5)), *ids(many(f"{handler}-after", 10))]
        ):
            assert (other["status"], other["failures"]) == ("done", 0)
    assert worker.stop() == 0


def test_a_cancel_reaches_a_remote_handler_with_the_next_heartbeat(rig: Rig) -> None:
    worker = rig.work()
    rig.server.enqueue(nap("cancelled", 60))
    rig.server.running("cancelled")
    rig.server.ask("/tasks/cancelled/cancel", {})
    until("it is cancelled", lambda: rig.server.task("cancelled")["status"] == "cancelled", LEASE_S)
    assert worker.stop() == 0


def test_it_waits_for_a_server_that_is_not_there_and_stops_all_the_same(tmp_path: Path) -> None:
    worker = Program(
        tmp_path, "worker", "worker", "faults:app", "--server", f"http://127.0.0.1:{free_port()}"
    )
    start: Callable[[], bool] = lambda: "trying on" in worker.said  # noqa: E731
    until("it tries", start)
    assert worker.stop() == 0


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("no:app",), 3, f"no module named 'no', looked for from {HERE}"),
        (("faults:nothing",), 3, "module 'faults' has no attribute 'nothing'"),
        (
            ("faults:app", "--server", "ftp://x"),
            2,
            "--server: 'ftp://x' is neither http://host:port nor unix:/path/to.sock",
        ),
        (
            ("faults:app", "--processes", "5", "--workers", "4"),
            2,
            "--processes: must be at most workers (4), not '5'",
        ),
        (("faults:app", "--processes", "0"), 2, "--processes: must be at least 1 here, not '0'"),
    ],
)
def test_a_mistake_is_one_line_and_an_exit_code(
    tmp_path: Path, args: tuple[str, ...], code: int, line: str
) -> None:
    worker = Program(tmp_path, "worker", "worker", *args)
    assert worker.ended() == code
    assert worker.said == f"jobpipe: error: {line}\n"


def test_a_worker_elsewhere_is_shown_over_the_servers_restart_and_gone_when_it_leaves(rig: Rig) -> None:
    worker = rig.work("--workers", "3", "--processes", "1")
    rig.server.enqueue({"id": "long", "handler": "innocent", "payload": {"seconds": 60}})
    rig.server.running("long")
    (shown,) = rig.server.ask("/workers")
    assert (shown["total"], shown["busy"], [run["id"] for run in shown["tasks"]]) == (3, 1, ["long"])
    rig.server.kill()
    rig.server = rig.server.again()
    (again,) = rig.server.ask("/workers")
    assert (again["worker_id"], [run["id"] for run in again["tasks"]]) == (shown["worker_id"], ["long"])
    # Only who waits for tasks is seen to leave; others are forgotten later.
    until("it asks for more", lambda: rig.server.ask("/workers")[0]["total"] > 1)
    rig.server.ask("/tasks/long/cancel", {}, "POST")
    assert rig.server.finished("long")["status"] == "cancelled"
    assert worker.stop() == 0
    until("it is gone", lambda: rig.server.ask("/workers") == [])
