"""Rules with real processes: what an app and a file say holds from the first task on, and over kills."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import programs
import pytest
from programs import Server, until

from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

APP = """
import time
from jobpipe import App

app = App(release=2)
app.queue("mail", concurrency=2)

@app.handler(key="to", queue="mail")
def send(to: str) -> str:
    began = time.time()
    time.sleep(0.05)
    return f"{began} {time.time()}"
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(programs, "HERE", tmp_path)  # where servers are started, and look for both
    (tmp_path / "flowapp.py").write_text(APP)
    (tmp_path / "jobpipe.toml").write_text("[rules.slow]\nrate = { limit = 5, period = 1, burst = 1 }\n")
    return tmp_path


def most_at_once(tasks: list[dict[str, Any]]) -> int:
    """How many of the runs overlapped, as their handlers saw it."""
    spans = [tuple(map(float, task["result"].split())) for task in tasks]
    return max(sum(began <= at < ended for began, ended in spans) for at, _ in spans)


def mails(n: int, **fields: Any) -> list[dict[str, Any]]:
    queue = fields.get("queue", "mail")
    return [
        {
            "id": f"{queue}{i}",
            "handler": "send",
            "queue": "mail",
            "payload": {"to": f"k{i % 3}"},
            "key": f"k{i % 3}",
        }
        | fields
        for i in range(n)
    ]


def test_what_an_app_says_holds_over_processes_and_a_kill(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = (
        "flowapp:app",
        "--processes",
        "2",
        "--workers",
        "8",
        "--queue-size",
        "1000",
        "--store",
        "sqlite:///f.db",
    )
    server = Server(folder, *args).up()
    until("the app declared", lambda: server.ask("/queues"))
    queue = server.ask("/queues/mail")
    assert queue["declared"] == {"flowapp:app": {"concurrency": 2}}
    assert server.ask("/queues/slow")["declared"] == {
        "jobpipe.toml": {"rate": {"limit": 5, "period": 1.0, "burst": 1}}
    }
    server.enqueue(*mails(40))
    until("some ran", lambda: server.ask("/stats")["counts"]["done"] > 5)
    server.kill()
    server = server.again()
    try:
        tasks = server.all_finished([f"mail{i}" for i in range(40)])
        assert {task["status"] for task in tasks} == {"done"}
        assert most_at_once(tasks) <= 2
        server.enqueue(*mails(6, queue="slow"))
        starts = sorted(
            float(task["result"].split()[0]) for task in server.all_finished([f"slow{i}" for i in range(6)])
        )
        assert min(later - earlier for earlier, later in pairwise(starts)) > 0.1
        assert starts[-1] - starts[0] > 0.95
        _steer(server, capsys)
    finally:
        server.kill()


def _steer(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--server", server.url)

    def run(*words: str) -> str:
        assert main([*words, *at]) == 0
        return capsys.readouterr().out

    assert json.loads(run("queue", "pause", "mail", "--output", "json"))["paused"] is True
    server.enqueue({"id": "p1", "handler": "send", "queue": "mail", "payload": {"to": "ann"}, "key": "ann"})
    assert server.task("p1")["held"] == "paused"
    shown = run("queue", "set", "mail", "concurrency=none", "key_concurrency=1", "rate=100/m")
    assert "key_concurrency=1" in shown
    assert "declared by flowapp:app" in shown
    run("queue", "set", "mail", "concurrency=3", "--of", "ann")
    assert "0/3" in run("queue", "keys", "mail")
    run("queue", "unset", "mail", "--of", "ann")
    assert "0/1" in run("queue", "keys", "mail")
    assert "mail" in run("queue", "list")
    run("queue", "unset", "mail", "rate")
    run("queue", "resume", "mail")
    assert server.finished("p1")["status"] == "done"
    run("queue", "unset", "mail")
    assert server.ask("/queues/mail")["set"] is None
    assert main(["queue", "set", "mail", "concurrency", *at]) == 2
    assert main(["queue", "show", "nothing", *at]) != 0
