"""The example workers that are no Python, against a real server: they do the work, and lose nothing at any stop."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from programs import BOUND_S, HERE, Server, ids, until

WORKERS = HERE.parents[1] / "examples" / "workers"
LEASE_S = 5
"""The shortest that a server gives."""

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def _param(name: str, programs: list[str], *command: str) -> Any:
    """A worker to test; skipped where a program is missing, but never in CI."""
    missing = [] if os.environ.get("CI") else [program for program in programs if not shutil.which(program)]
    marks = pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} is not installed")
    return pytest.param([command[0], *(str(WORKERS / file) for file in command[1:])], marks=marks, id=name)


BASH = _param("bash", ["bash", "curl", "sed", "iconv"], "bash", "worker.sh", "handlers.sh")
NODE = _param("node", ["node"], "node", "worker.mjs", "handlers.mjs")
GO = _param("go", ["go"], "go", "worker.go")
each = pytest.mark.parametrize("command", [BASH, NODE, GO])


@cache
def built(source: str) -> str:
    """The program that a file of Go becomes."""
    folder = tempfile.mkdtemp(prefix="jobpipe-go-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    environ = {
        **os.environ,
        "GO111MODULE": "off",
        "GOCACHE": f"{folder}/cache",
        "GOFLAGS": "",
        "GOPROXY": "off",
    }
    subprocess.run(["go", "build", "-o", f"{folder}/worker", source], check=True, env=environ, cwd=folder)
    return f"{folder}/worker"


class Rig:
    """A server that only serves, and the example workers that the test starts for it."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "worker.log"
        store = f"sqlite:///{folder / 'jobpipe.db'}"
        self.server = Server(
            folder,
            "--no-pool",
            "--store",
            store,
            "--retry-base",
            "0.01",
            "--queue-size",
            "10000",
            "--handler-wait",
            "2",
        ).up()
        self._workers: list[subprocess.Popen[bytes]] = []

    def work(self, command: list[str]) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "JOBPIPE_URL": self.server.url, "LEASE": str(LEASE_S), "NO_PROXY": "*"}
        if command[0] == "go":
            command = [built(command[1])]
        with self.log.open("ab") as log:
            worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        self._workers.append(worker)
        return worker

    def runs(self, name: str) -> bool:
        return bool(self.server.task(name)["status"] == "running")

    def running(self, *names: str) -> None:
        """Once these tasks run."""
        for name in names:
            until(f"{name} runs", partial(self.runs, name))

    def end(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        if self.server.alive():
            self.server.kill()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.end()


def stopped(worker: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> int:
    worker.send_signal(number)
    return worker.wait(BOUND_S)


def nap(id: str, seconds: float) -> dict[str, Any]:
    return {"id": id, "handler": "nap", "payload": {"seconds": seconds}}


@each
def test_it_does_what_can_be_done_and_reports_what_cannot(rig: Rig, command: list[str]) -> None:
    tasks = [{"id": f"t{i}", "handler": "default", "payload": {"n": i}} for i in range(30)]
    rig.server.enqueue(
        *tasks,
        {"id": "fails", "handler": "fail", "max_retries": 1},
        {"id": "unknown", "handler": "nobody", "max_retries": 0},
    )
    worker = rig.work(command)
    for task in rig.server.all_finished(ids(tasks)):
        assert (task["status"], task["attempts"]) == ("done", 1)
        assert str(task["payload"]["n"]) in str(task["result"])
    failed = rig.server.finished("fails")
    assert (failed["status"], failed["failures"], failed["lost"]) == ("failed", 2, 0)
    assert failed["last_error"]["message"] == "this one always fails"
    unknown = rig.server.finished("unknown")
    assert (unknown["status"], unknown["attempts"], unknown["lost"]) == ("failed", 0, 0)
    assert unknown["last_error"]["type"] == "unknown_handler"
    assert "nobody" in unknown["last_error"]["message"]
    assert stopped(worker, signal.SIGINT) == 0


@each
def test_no_payload_and_no_id_confuses_it(rig: Rig, command: list[str]) -> None:
    leased = '","priority":0,"status":"running","lease_id":"x","lease_until":"y"}]}'
    payload = {"text": f'a "b"\\\n\té\u0001{leased}', "priority": 0, "status": "running", "lease_id": "x"}
    rig.server.enqueue({"id": 'an "id" \\ é', "handler": "default", "payload": payload})
    worker = rig.work(command)
    (task,) = until("it is done", lambda: rig.server.ask("/tasks?status=done"))
    assert task["payload"] == payload
    assert "running" in str(task["result"])
    assert stopped(worker) == 0


@each
def test_a_stop_finishes_what_runs_and_leaves_the_rest(rig: Rig, command: list[str]) -> None:
    rig.server.enqueue(nap("runs", 1.5))
    worker = rig.work(command)
    rig.running("runs")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(BOUND_S) == 0
    task = rig.server.task("runs")
    assert (task["status"], task["attempts"]) == ("done", 1)
    rig.server.enqueue(nap("later", 0))
    assert rig.server.ask("/tasks/later?wait=0.2")["attempts"] == 0


@each
def test_heartbeats_keep_a_task_that_is_longer_than_its_lease(rig: Rig, command: list[str]) -> None:
    rig.server.enqueue(nap("long", LEASE_S + 2))
    worker = rig.work(command)
    task = rig.server.finished("long")
    assert (task["status"], task["attempts"], task["lost"]) == ("done", 1, 0)
    assert stopped(worker) == 0


@each
def test_a_cancelled_task_is_given_up_with_the_next_heartbeat(rig: Rig, command: list[str]) -> None:
    rig.server.enqueue(nap("cancelled", 60))
    worker = rig.work(command)
    rig.running("cancelled")
    rig.server.ask("/tasks/cancelled/cancel", {})
    assert rig.server.finished("cancelled")["status"] == "cancelled"
    assert stopped(worker) == 0


@each
def test_it_survives_a_killed_server_and_settles_after_its_restart(rig: Rig, command: list[str]) -> None:
    rig.server.enqueue(nap("runs", 1))
    worker = rig.work(command)
    rig.running("runs")
    rig.server.kill()
    # Its handler ends while there is no server.
    until("the outage is seen", lambda: re.search(b"connect|ECONN", rig.log.read_bytes()))
    rig.server = rig.server.again()
    rig.server.enqueue(nap("after", 0))
    for task in rig.server.all_finished(["runs", "after"]):
        assert (task["status"], task["attempts"], task["lost"]) == ("done", 1, 0)
    assert stopped(worker) == 0


@pytest.mark.parametrize("command", [NODE])
def test_thousands_of_tasks_through_a_restart_of_the_server(rig: Rig, command: list[str]) -> None:
    count = 5000
    rig.server.enqueue(*({"id": f"t{i}", "handler": "default"} for i in range(count)))
    worker = rig.work(command)
    until("some are done", lambda: rig.server.ask("/stats")["counts"]["done"] > 100)
    assert rig.server.stop() == 0
    rig.server = rig.server.again()
    until("all are done", lambda: rig.server.ask("/stats")["counts"]["done"] == count)
    assert stopped(worker) == 0
