"""The FastAPI example, run by uvicorn as its page says: the queue lives and ends with the application."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOUND_S = 60.0

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]


class Application:
    """A started `uvicorn examples.fastapi_app.app:api`."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        store, outbox = f"sqlite:///{folder / 'tasks.db'}", str(folder / "outbox")
        command = [sys.executable, "-m", "uvicorn", "examples.fastapi_app.app:api", "--port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, stderr=log, stdout=log,
                env={**os.environ, "STORE": store, "OUTBOX": outbox},
            )  # fmt: skip
        self.url = self._url()

    def _url(self) -> str:
        """Where it listens, once it says so."""
        deadline = time.monotonic() + BOUND_S
        while True:
            said = self.log.read_text()
            if found := re.search(r"running on (http://\S+)", said):
                return found[1]
            assert self.process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=BOUND_S) as answer:
            return json.load(answer)

    def post(self, path: str, value: Any) -> Any:
        body, kind = json.dumps(value).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, kind)) as answer:
            return json.load(answer)

    def sign_up(self, name: str, **more: Any) -> str:
        accepted = self.post("/signups", {"address": f"{name}@example.org", "name": name.title(), **more})
        assert accepted["url"] == f"/jobs/tasks/{accepted['task']}"
        return str(accepted["task"])

    def end(self, number: int) -> None:
        self.process.send_signal(number)
        self.process.wait(BOUND_S)


def refusal(call: Callable[[], Any]) -> tuple[int, Any]:
    """The status and body with which a call is refused."""
    with pytest.raises(urllib.error.HTTPError) as refused:
        call()
    with refused.value as answer:
        return answer.code, json.load(answer)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def application(folder: Path) -> Iterator[Application]:
    application = Application(folder)
    yield application
    application.process.kill()
    application.process.wait()


def test_a_route_enqueues_and_a_handler_in_the_same_process_does_it(
    application: Application, folder: Path
) -> None:
    id = application.sign_up("ann")
    task = application.get(f"/jobs/tasks/{id}?wait=30")
    assert (task["status"], task["queue"], task["max_retries"]) == ("done", "mail", 5)
    assert (folder / "outbox" / "ann@example.org.txt").read_text() == "Welcome, Ann!"
    assert application.get("/jobs/stats")["counts"]["done"] == 1
    assert application.get("/jobs/readyz")


def test_what_does_not_fit_is_refused_by_the_route_and_by_the_mounted_api(application: Application) -> None:
    assert refusal(lambda: application.post("/signups", {"address": "nobody", "name": "x"}))[0] == 422
    status, problem = refusal(lambda: application.post("/jobs/enqueue", {"handlr": "welcome"}))
    assert (status, problem["code"]) == (400, "invalid")
    status, problem = refusal(lambda: application.get("/jobs/tasks/unknown"))
    assert (status, problem["code"]) == (404, "not_found")


def test_the_mounted_api_takes_tasks_of_other_programs(application: Application, folder: Path) -> None:
    payload = {"address": "bob@example.org", "name": "Bob"}
    accepted = application.post("/jobs/enqueue", {"id": "a/b", "handler": "welcome", "payload": payload})
    assert accepted["status"] == "queued"
    assert application.get("/jobs/tasks/a%2Fb?wait=30")["result"] == "bob@example.org"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_promised_before_its_end_is_done_after_the_next_start(folder: Path, number: int) -> None:
    first = Application(folder)
    try:
        id = first.sign_up("cid", wait=1.5)
        first.end(number)
    finally:
        first.process.kill()
    assert not (folder / "outbox" / "cid@example.org.txt").exists()
    second = Application(folder)
    try:
        assert second.get(f"/jobs/tasks/{id}?wait=30")["status"] == "done"
        second.end(signal.SIGTERM)
    finally:
        second.process.kill()
    assert "Application shutdown complete" in second.log.read_text()
    assert (folder / "outbox" / "cid@example.org.txt").exists()
