"""What handlers do to their worker process harms neither the server nor other tasks, and ends with the task itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from programs import Server, ids, many, pid_of, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

MAX_LOST = 3
SETTINGS = (
    "faults:app", "--store", "memory:", "--workers", "4", "--processes", "2", "--lease", "5", "--max-rss", "150MiB",
    "--retry-base", "0.01", "--retry-jitter", "0.01", "--queue-size", "10000", "--shutdown-grace", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all these tests: that it never has to be started again is what they prove."""
    server = Server(tmp_path_factory.mktemp("faults"), *SETTINGS).up()
    uptime = server.ask("/stats")["uptime_s"]
    yield server
    assert server.alive(), server.said
    assert server.ask("/stats")["uptime_s"] > uptime
    assert server.stop() == 0


def beside_innocents(server: Server, task: dict[str, object]) -> dict[str, object]:
    """Run the task amid others, which must all be done; the task as it ended."""
    before, after = many(f"{task['id']}-before", 20), many(f"{task['id']}-after", 40)
    server.enqueue(*before, task, *after)
    ended = server.finished(str(task["id"]))
    for other in server.all_finished(ids(before + after)):
        assert other["status"] == "done", other
        assert other["failures"] == 0, other
    return ended


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        ("exits", "its worker process exited with code 7"),
        ("segfaults", "its worker process was killed by signal 11 (SIGSEGV)"),
        ("eats_memory", "over --max-rss 150 MiB"),
    ],
)
def test_a_task_that_kills_its_process_fails_alone_after_max_lost_runs(
    server: Server, handler: str, why: str
) -> None:
    ended = beside_innocents(server, {"id": handler, "handler": handler})
    assert (ended["status"], ended["lost"], ended["failures"]) == ("failed", MAX_LOST, 0)
    error = ended["last_error"]
    assert isinstance(error, dict)
    assert error["type"] == "worker_lost"
    assert why in error["message"]
    assert server.runs_of(handler) == MAX_LOST


def test_a_handler_that_takes_its_process_apart_ends_within_its_limits(server: Server) -> None:
    """It cancels all that the process runs, and leaves a thread that would keep it as an empty shell."""
    neighbours = many("apart", 20)
    server.enqueue(*neighbours, {"id": "cancels_all", "handler": "cancels_all", "max_retries": 1})
    ended = server.finished("cancels_all")
    # Those that it cancelled with the rest run again.
    assert {task["status"] for task in server.all_finished(ids(neighbours))} == {"done"}
    assert ended["status"] == "failed"
    assert ended["lost"] <= MAX_LOST  # type: ignore[operator]
    assert ended["failures"] <= 2  # type: ignore[operator]
    pid = pid_of(ended)
    until("its process is replaced", lambda: pid not in {child.pid for child in server.children()})


@pytest.mark.parametrize("handler", ["blocks_the_loop", "blocks_a_thread", "ignores_cancellation"])
def test_a_handler_that_nothing_stops_fails_alone_after_its_retries(server: Server, handler: str) -> None:
    ended = beside_innocents(
        server, {"id": handler, "handler": handler, "timeout": 0.4, "max_retries": 1, "payload": {}}
    )
    assert (ended["status"], ended["failures"], ended["lost"]) == ("failed", 2, 0)
    assert ended["last_error"]["type"] == "timed_out"  # type: ignore[index]
    assert server.runs_of(handler) == 2
    # The process that it ran in is gone with it.
    pid = pid_of(ended)
    until("its process is replaced", lambda: pid not in {child.pid for child in server.children()})


def test_a_neighbour_of_a_blocked_loop_is_not_charged_for_its_own_timeout(server: Server) -> None:
    victims = [
        {"id": f"victim-{i}", "handler": "innocent", "payload": {"seconds": 0.3}, "timeout": 1}
        for i in range(3)
    ]
    server.enqueue(
        {"id": "blocker", "handler": "blocks_the_loop", "max_retries": 0, "timeout": 2, "priority": 1},
        *victims,
    )
    assert server.finished("blocker")["last_error"]["type"] == "timed_out"
    for victim in server.all_finished(ids(victims)):
        assert (victim["status"], victim["failures"]) == ("done", 0)


def test_a_stopped_process_is_killed_when_its_lease_runs_out_and_its_task_runs_again(server: Server) -> None:
    server.enqueue({"id": "stopped", "handler": "innocent", "payload": {"seconds": 1.0}})
    pid = pid_of(server.running("stopped"))
    os.kill(pid, signal.SIGSTOP)
    ended = server.finished("stopped")
    assert (ended["status"], ended["lost"]) == ("done", 1)
    assert pid not in {child.pid for child in server.children()}


def test_without_faults_each_task_runs_once_and_the_processes_share_the_work(server: Server) -> None:
    rested = {"total": 4, "busy": 0, "processes": 2}
    until("both processes are there", lambda: server.ask("/stats")["workers"] == rested)
    tasks = many("calm", 200)
    server.enqueue(*tasks)
    ended = server.all_finished(ids(tasks))
    runs = server.run_counts()
    assert all(runs[task["id"]] == 1 and task["attempts"] == 1 for task in ended)
    assert len({task["result"] for task in ended}) == 2


def test_a_cancel_reaches_a_running_handler_at_once(server: Server) -> None:
    server.enqueue(
        {"id": "cancelled", "handler": "innocent", "payload": {"seconds": 60}},
        {"id": "cancelled-thread", "handler": "patient"},
    )
    for name in ("cancelled", "cancelled-thread"):
        server.running(name)
        server.ask(f"/tasks/{name}/cancel", {})
        # The first heartbeat would come after a third of the lease.
        until(f"{name} is cancelled", lambda name=name: server.task(name)["status"] == "cancelled", 1.0)


def test_what_a_handler_prints_and_reads_does_not_disturb_its_parent(server: Server) -> None:
    server.enqueue({"id": "prints", "handler": "prints"})
    ended = server.finished("prints")
    assert (ended["status"], ended["result"]) == ("done", "")
    assert "end everything" in server.said


def test_the_server_never_imports_the_app(server: Server) -> None:
    def imported_by() -> set[int]:
        lines = server.journal.read_text().splitlines()
        return {int(line.split()[2]) for line in lines if line.startswith("import ")}

    until("both processes have imported it", lambda: len(imported_by()) >= 2)
    assert server.process.pid not in imported_by()


def test_the_workers_are_shown_with_what_they_run_until_they_die(server: Server) -> None:
    until("both processes are there", lambda: len(server.ask("/workers")) == 2)
    server.enqueue({"id": "shown", "handler": "innocent", "payload": {"seconds": 60}})
    ran_by = server.running("shown")["worker"]
    shown = {worker["worker_id"]: worker for worker in server.ask("/workers")}
    children = {child.pid for child in server.children()}
    assert {worker["pid"] for worker in shown.values()} == children
    assert [(run["id"], run["handler"]) for run in shown[ran_by]["tasks"]] == [("shown", "innocent")]
    assert all(worker["total"] == 2 and worker["version"] and worker["host"] for worker in shown.values())
    os.kill(shown[ran_by]["pid"], signal.SIGKILL)
    gone = shown[ran_by]["worker_id"]
    until("it is gone", lambda: gone not in {worker["worker_id"] for worker in server.ask("/workers")})
    server.ask("/tasks/shown/cancel", {}, "POST")
    assert server.finished("shown")["status"] == "cancelled"
