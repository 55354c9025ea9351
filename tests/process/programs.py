"""Real `jobpipe` processes for tests: started, asked over HTTP, signalled, and always ended.

Nothing here sleeps as a way to wait: `until` asks again until something is so, and fails loudly at a deadline.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil
from prove.ports import free_port

HERE = Path(__file__).parent
BOUND_S = 60.0


def until(what: str, is_so: Callable[[], Any], seconds: float = BOUND_S) -> Any:
    """What `is_so` gives, once that is true."""
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"not in {seconds:g} s: {what}"
        time.sleep(0.02)
    return answer


class Program:
    """One `jobpipe` command with its log."""

    def __init__(self, folder: Path, name: str, *args: str) -> None:
        self.log = folder / f"{name}.log"
        self.journal = folder / "journal"
        environ = {**os.environ, "JOURNAL": str(self.journal)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobpipe", *args], cwd=HERE, env=environ, stderr=log, stdout=log
            )

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def alive(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self, seconds: float = BOUND_S) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(seconds)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def runs(self) -> list[tuple[str, int, int]]:
        """All runs that handlers began, in order: task, attempt, pid."""
        if not self.journal.exists():
            return []
        lines = (line.split() for line in self.journal.read_text().splitlines())
        return [(task, int(attempt), int(pid)) for task, attempt, pid in lines if task != "import"]

    def runs_of(self, task: str) -> int:
        return sum(task == name for name, _, _ in self.runs())

    def run_counts(self) -> Counter[str]:
        return Counter(task for task, _, _ in self.runs())


class Server(Program):
    """`jobpipe serve`, on a port that it keeps over restarts."""

    def __init__(self, folder: Path, *args: str, port: int | None = None) -> None:
        self.folder = folder
        self.args = args
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(folder, "server", "serve", *args, "--port", str(self.port))

    def up(self) -> Server:
        """Once it answers."""
        until("the server answers", self._answers)
        return self

    def _answers(self) -> bool:
        assert self.alive(), self.said
        with contextlib.suppress(OSError):
            return bool(self.ask("/healthz"))
        return False

    def again(self, *args: str) -> Server:
        """The same server after its end."""
        return Server(self.folder, *(args or self.args), port=self.port).up()

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        with urllib.request.urlopen(request, timeout=BOUND_S) as answer:
            return json.loads(answer.read() or b"null")

    def enqueue(self, *tasks: dict[str, Any]) -> None:
        """Enqueue all, in order; none is refused."""
        for answer in self.ask("/enqueue", list(tasks)):
            assert answer["status"] == 202, answer

    def task(self, id: str) -> dict[str, Any]:
        task: dict[str, Any] = self.ask(f"/tasks/{id}")
        return task

    def finished(self, id: str) -> dict[str, Any]:
        """The task, once it has come to its end."""
        deadline = time.monotonic() + BOUND_S
        while True:
            task: dict[str, Any] = self.ask(f"/tasks/{id}?wait=30")
            if task["finished_at"] is not None:
                return task
            assert time.monotonic() < deadline, (task, self.said)

    def all_finished(self, ids: Iterable[str]) -> list[dict[str, Any]]:
        return [self.finished(id) for id in ids]

    def running(self, id: str) -> dict[str, Any]:
        """The task, once its handler has begun."""
        until(f"{id} runs", lambda: self.runs_of(id))
        return self.task(id)


def many(prefix: str, count: int, **fields: Any) -> list[dict[str, Any]]:
    """`count` innocent tasks, every second one in a thread."""
    return [
        {"id": f"{prefix}-{i}", "handler": ("innocent", "thread")[i % 2], "payload": {}} | fields
        for i in range(count)
    ]


def ids(tasks: Iterable[dict[str, Any]]) -> list[str]:
    return [task["id"] for task in tasks]


def pid_of(task: dict[str, Any]) -> int:
    """The process that runs or ran the task: its worker is called host:pid-number."""
    return int(task["worker"].rpartition(":")[2].partition("-")[0])
