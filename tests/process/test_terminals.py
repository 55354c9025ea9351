"""What surrounds a start and an end: a terminal that closes, the variables of an orchestrator, a key with a newline."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import HERE, Program, Server, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(90)]

Start = Callable[..., Server]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Server] = []

    def start(*args: str) -> Server:
        started.append(Server(tmp_path, *args, "--store", f"sqlite:///{tmp_path}/a.db"))
        return started[-1].up()

    yield start
    for server in started:
        if server.alive():
            server.kill()


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_hang_up_is_a_stop_in_order_however_often_it_comes(start: Start, processes: str) -> None:
    server = start("faults:app", "--processes", processes)
    server.enqueue({"id": "run", "handler": "innocent", "payload": {"seconds": 1}})
    server.running("run")
    for child in server.children():
        child.send_signal(signal.SIGHUP)  # a terminal tells all that it had
    server.signal(signal.SIGHUP)
    until("it stops", lambda: "stopping" in server.said)
    server.signal(signal.SIGHUP)
    assert server.ended() == 0
    again = server.again("--no-pool", *server.args[-2:])
    task = again.task("run")
    assert (task["status"], task["attempts"], task["lost"]) == ("done", 1, 0)
    again.kill()


def test_a_worker_elsewhere_stops_so_too(start: Start, tmp_path: Path) -> None:
    server = start("--no-pool")
    worker = Program(tmp_path, "worker", "worker", "faults:app", "--server", server.url)
    server.enqueue({"id": "run", "handler": "innocent", "payload": {"seconds": 1}})
    server.running("run")
    worker.signal(signal.SIGHUP)
    assert worker.ended() == 0
    assert server.task("run")["status"] == "done"


@pytest.mark.parametrize(
    "command", [["serve", "--port", "0", "--store", "memory:"], ["worker", "faults:app"]]
)
def test_under_nohup_a_hang_up_changes_nothing(tmp_path: Path, command: list[str]) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["nohup", sys.executable, "-m", "jobpipe", *command], cwd=HERE, stdout=file, stderr=file,
            env=os.environ | {"JOURNAL": str(tmp_path / "journal")},
        )  # fmt: skip
    until("it works", lambda: "listening" in log.read_text() or "workers for" in log.read_text())
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert log.read_text().count("stopping") == 1
    assert "stopping now" not in log.read_text()


def jobpipe(*args: str, **variables: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-m", "jobpipe", *args], env=os.environ | variables, text=True, capture_output=True,
        timeout=60, check=False,
    )  # fmt: skip
    return run.returncode, run.stdout + run.stderr


def test_commands_go_to_their_server_and_through_no_proxy_of_the_environment(start: Start) -> None:
    server = start("--no-pool")
    proxy = "http://127.0.0.1:9"  # nobody is there
    code, said = jobpipe("stats", JOBPIPE_URL=server.url, HTTP_PROXY=proxy, http_proxy=proxy, ALL_PROXY=proxy)
    assert code == 0, said


@pytest.mark.parametrize("link", ["tcp://10.96.12.34:8080", "udp://[fd00::1]:53"])
def test_the_address_of_a_service_called_jobpipe_is_no_setting(link: str) -> None:
    code, said = jobpipe("config", JOBPIPE_PORT=link)
    assert code == 0
    assert "JOBPIPE_PORT is the address of a service" in said
    assert [line.split() for line in said.splitlines() if line.startswith("port ")] == [
        ["port", "8080", "default"]
    ]
    assert jobpipe("openapi", JOBPIPE_PORT=link)[1].startswith("{"), "who needs no settings is not told"


def test_a_port_that_is_none_is_still_refused() -> None:
    assert jobpipe("config", JOBPIPE_PORT="tcp://")[0] == 2


@pytest.mark.parametrize("command", [["stats"], ["worker", "faults:app"]])
def test_a_key_with_a_newline_is_told_by_the_name_of_its_variable(command: list[str]) -> None:
    code, said = jobpipe(*command, JOBPIPE_KEY="secret\n")
    assert code == 2
    assert said == "jobpipe: error: JOBPIPE_KEY: a key is printable ASCII\n"
    code, said = jobpipe(*command, "--key", "secret\n")
    assert (code, said) == (2, "jobpipe: error: --key: a key is printable ASCII\n")
    code, said = jobpipe(*command, JOBPIPE_URL="nowhere")
    assert code == 2
    assert said.startswith("jobpipe: error: JOBPIPE_URL: ")
