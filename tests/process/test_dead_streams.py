"""Logs that nobody can write or read: a server, its workers and `jobpipe worker` go on as if nothing were."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import HERE, until
from prove.ports import free_port

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ENV = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
SHELL = 'exec "$0" -m jobpipe "$@" '


class Run:
    """`jobpipe` under a shell that arranges its streams by `how`."""

    def __init__(self, how: str, *args: str, **more: Any) -> None:
        self.process = subprocess.Popen(
            ["bash", "-c", SHELL + how, sys.executable, *args],
            cwd=HERE,
            env=ENV | more.pop("env", {}),
            **more,
        )

    def end(self) -> int:
        self.process.terminate()
        return self.process.wait(30)


class Serving(Run):
    def __init__(self, how: str, *args: str, **more: Any) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        port = self.url.rpartition(":")[2]
        super().__init__(how, "serve", *args, "--port", port, "--store", "memory:", **more)
        until("it answers", self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None
        with contextlib.suppress(OSError):
            return bool(self.ask("/healthz"))
        return False

    def ask(self, path: str, body: Any = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data), timeout=30) as answer:
            got: bytes = answer.read()
            return got

    def do(self, handler: str, count: int, **payload: Any) -> None:
        """Enqueue and see all done."""
        tasks = [{"handler": handler, "payload": payload, "max_retries": 0} for _ in range(count)]
        for answer in json.loads(self.ask("/enqueue", tasks)):
            assert answer["status"] == 202, answer
            task = json.loads(self.ask(f"/tasks/{answer['task']['id']}?wait=30"))
            assert task["status"] == "done", task

    def lost(self) -> float:
        for line in self.ask("/metrics").decode().splitlines():
            if line.startswith("jobpipe_log_lines_lost_total"):
                return float(line.split()[1])
        raise AssertionError("no such metric")


Serve = Callable[..., Serving]


@pytest.fixture
def serve() -> Iterator[Serve]:
    started: list[Serving] = []

    def serve(how: str, *args: str, **more: Any) -> Serving:
        started.append(Serving(how, *args, **more))
        return started[-1]

    yield serve
    for server in started:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


DEAD = [
    "2> >(head -n 1 >/dev/null) 1>&2", "2>/dev/full 1>/dev/full", "2>/dev/full | true", "2>&- 1>&- 0<&-",
    "2</dev/null 1>&2",
]  # fmt: skip


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize("how", DEAD)
def test_a_server_and_its_handlers_outlive_the_reader_of_their_log(
    serve: Serve, how: str, processes: str
) -> None:
    server = serve(how, "talkers:app", "--processes", processes)
    server.do("says", 20, text="\u017e" * 100)
    server.do("logs", 20)
    if "&-" not in how:
        assert server.lost() >= 20
    assert server.end() == 0 or "|" in how


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize("how", ["2>&- 1>&- 0<&-", "2>/dev/null 1>&2"])
def test_a_handler_that_closes_the_descriptors_of_the_log_takes_nothing_down(
    serve: Serve, how: str, processes: str
) -> None:
    server = serve(how, "talkers:app", "--processes", processes)
    server.do("closes_descriptors", 1)
    server.do("says", 5, text="a")
    server.do("logs", 5)
    assert server.end() == 0


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_pipe_that_nobody_reads_stops_nothing_and_what_was_lost_is_told(
    serve: Serve, processes: str, log_format: str
) -> None:
    server = serve(
        "", "talkers:app", "--processes", processes, "--log-format", log_format, stderr=subprocess.PIPE
    )
    for _ in range(6):
        server.do("says", 50, text="x" * 10_000)
    until("lines of the workers are counted too", lambda: server.lost() > 100)
    assert server.process.stderr is not None
    os.set_blocking(server.process.stderr.fileno(), False)
    heard = b""

    def told() -> bool:
        nonlocal heard
        heard += server.process.stderr.read() or b""  # type: ignore[union-attr]
        server.do("logs", 1)
        return b"of the log could not be written" in heard

    until("it says what was lost", told)
    said = [line for line in heard.decode().splitlines() if "could not be written" in line]
    assert log_format == "text" or json.loads(said[0])["level"] == "WARNING"
    server.process.terminate()
    server.process.stderr.close()
    assert server.process.wait(30) == 0


def test_a_worker_elsewhere_goes_on_too(serve: Serve) -> None:
    server = serve("2>/dev/null", "--no-pool")
    for how in DEAD[:4]:
        worker = Run(how, "worker", "talkers:app", "--server", server.url, start_new_session=True)
        server.do("says", 5, text="\u017e")
        server.do("logs", 5)
        if "|" in how:
            os.killpg(worker.process.pid, signal.SIGTERM)
            worker.process.wait(30)
        else:
            assert worker.end() == 0


def test_a_child_that_makes_stderr_non_blocking_harms_nobody(serve: Serve) -> None:
    server = serve("", "talkers:app", stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    server.do("unblocks", 1)
    for _ in range(3):
        server.do("says", 50, text="x" * 10_000)
    server.process.kill()
    server.process.communicate()


def test_a_log_file_that_may_not_grow_is_lost_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    log = tmp_path / "log"
    with log.open("wb") as file:
        server = serve("", "talkers:app", stderr=file, stdout=file, preexec_fn=small)
        server.do("says", 50, text="x" * 1000)
        assert server.lost() > 20
        assert server.end() == 0


@pytest.mark.parametrize("how", ["2>/dev/full", "2>&-", "2> >(true)"])
def test_commands_do_what_they_do_without_a_place_for_their_words(serve: Serve, how: str) -> None:
    server = serve("2>/dev/null", "talkers:app")
    run = Run(
        how, "enqueue", "says", '{"text": "a"}', "--wait", "--server", server.url, stdout=subprocess.PIPE
    )
    out, _ = run.process.communicate(timeout=30)
    assert (run.process.returncode, out) == (0, b'"a"\n')
    refused = Run(how, "task", "show", "nobody", "--server", server.url, stdout=subprocess.PIPE)
    assert (refused.process.communicate(timeout=30)[0], refused.process.returncode) == (b"", 7)
    wrong = Run(how, "serve", "no.such:app", "--store", "memory:", "--port", "0")
    assert wrong.process.wait(30) == 3
