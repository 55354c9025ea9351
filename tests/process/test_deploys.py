"""Deploys: tasks of handlers that the workers at hand lack wait for a worker that has them, and pay nothing for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Server, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

STORE = ("--store", "memory:")
OLD = """
from jobpipe import App
app = App()
@app.handler
def old() -> str:
    return "old"
"""
NEW = (
    OLD
    + """
@app.handler
def new() -> str:
    return "new"
"""
)


@pytest.fixture
def started() -> Iterator[list[Program]]:
    programs: list[Program] = []
    yield programs
    for program in reversed(programs):
        if program.alive():
            program.kill()


@pytest.fixture(autouse=True)
def apps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.py").write_text(OLD)
    (tmp_path / "new.py").write_text(NEW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def waiting(server: Server, id: str) -> dict[str, Any]:
    """The task, once a worker without its handler gave it back."""
    return until("it was given back", lambda: t if (t := server.task(id))["last_error"] else None)


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_servers_own_workers_give_back_what_they_cannot_run(
    tmp_path: Path, started: list[Program], processes: str
) -> None:
    server = Server(tmp_path, "old:app", "--processes", processes, "--handler-wait", "2", *STORE).up()
    started.append(server)
    begun = time.monotonic()
    server.enqueue({"id": "n", "handler": "new", "max_retries": 0}, {"id": "o", "handler": "old"})
    assert server.finished("o")["result"] == "old"
    task = waiting(server, "n")
    assert (task["status"], task["attempts"], task["failures"]) == ("queued", 0, 0)
    assert task["last_error"]["type"] == "unknown_handler"
    failed = server.finished("n")
    assert time.monotonic() - begun >= 2
    assert (failed["status"], failed["attempts"], failed["failures"]) == ("failed", 0, 0)
    assert failed["last_error"]["type"] == "unknown_handler"
    assert server.said.count("has the handler 'new'; such tasks wait for one, at most 2 s each") == 1


def test_a_new_worker_takes_what_the_old_one_gave_back(tmp_path: Path, started: list[Program]) -> None:
    server = Server(tmp_path, "--no-pool", *STORE).up()
    started.append(server)

    def work(app: str) -> Program:
        program = Program(tmp_path, app[:3], "worker", app, "--server", server.url)
        started.append(program)
        until("the worker is ready", lambda: "works as" in program.said or not program.alive())
        assert program.alive(), program.said
        return program

    old = work("old:app")
    server.enqueue({"id": "n", "handler": "new", "max_retries": 0})
    assert waiting(server, "n")["attempts"] == 0
    work("new:app")
    old.stop()
    done = server.finished("n")
    assert (done["status"], done["result"], done["attempts"]) == ("done", "new", 1)
