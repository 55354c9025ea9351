"""`jobpipe schedule` against a live server: what it prints, what it changes, and how it ends."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import Server

from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

NIGHTLY = {
    "cron": "30 2 * * *",
    "timezone": "Europe/Berlin",
    "task": {"handler": "report", "queue": "reports", "payload": {"n": 1.10}},
}

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), "--no-pool", "--store", "memory:").up()
        yield server
        server.kill()


@pytest.fixture
def run(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("JOBPIPE_URL", server.url)
    monkeypatch.delenv("JOBPIPE_KEY", raising=False)

    def run(*args: str, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return main(["schedule", *args]), *capsys.readouterr()

    return run


def names(server: Server) -> list[str]:
    return [schedule["name"] for schedule in server.ask("/schedules")]


def test_put_reads_a_file_or_the_input_and_show_gives_what_can_be_put_again(
    run: Run, server: Server, tmp_path: Path
) -> None:
    (file := tmp_path / "nightly.json").write_text(json.dumps(NIGHTLY))
    code, out, _ = run("put", "nightly", str(file))
    assert code == 0
    assert "At 02:30 every day" in out
    assert server.ask("/schedules/nightly")["task"] == NIGHTLY["task"]
    code, shown, _ = run("show", "nightly", "-o", "json")
    assert code == 0
    code, out, _ = run("put", "copied", "-", "-o", "json", stdin=shown)
    assert json.loads(out)["name"] == "copied"
    assert code == 0
    copied = server.ask("/schedules/copied")
    assert {name: copied[name] for name in NIGHTLY} == NIGHTLY


def test_list_tells_when_each_comes(run: Run, server: Server) -> None:
    server.ask("/schedules/listed", {"every": 90, "task": {}}, "PUT")
    code, out, _ = run("list")
    assert code == 0
    assert any("listed" in line and "every 90 s" in line for line in out.splitlines())
    code, out, _ = run("list", "-o", "json")
    assert [one["name"] for one in json.loads(out)] == names(server)


def test_pause_resume_and_run(run: Run, server: Server) -> None:
    server.ask("/schedules/steered", NIGHTLY, "PUT")
    for verb, paused in (("pause", True), ("pause", True), ("resume", False)):
        assert run(verb, "steered")[0] == 0
        assert server.ask("/schedules/steered")["paused"] is paused
    code, out, _ = run("run", "steered")
    assert code == 0
    task: Any = server.task(out.strip())
    assert (task["schedule"], task["queue"]) == ("steered", "reports")
    code, out, _ = run("run", "steered", "-o", "json")
    assert json.loads(out)["id"].startswith("steered@run-")


def test_delete_asks_first_unless_told_not_to(run: Run, server: Server) -> None:
    server.ask("/schedules/doomed", NIGHTLY, "PUT")
    code, _, _ = run("delete", "doomed", stdin="")
    assert code != 0
    assert "doomed" in names(server)
    code, _, err = run("delete", "doomed", "--yes")
    assert (code, "doomed" in names(server)) == (0, False)
    assert "deleted" in err


@pytest.mark.parametrize("verb", ["show", "pause", "resume", "run"])
def test_one_that_is_not_there_is_told_by_its_name(run: Run, verb: str) -> None:
    code, out, err = run(verb, "nobody")
    assert (code, out) == (run("delete", "nobody", "--yes")[0], "")
    assert code not in (0, 2)
    assert "nobody" in err


def test_what_cannot_be_is_refused_with_the_field(run: Run, server: Server, tmp_path: Path) -> None:
    before = names(server)
    code, _, err = run("put", "wrong", "-", stdin=json.dumps(NIGHTLY | {"cron": "61 * * * *"}))
    assert code != 0
    assert "cron" in err
    assert run("put", "wrong", str(tmp_path / "none.json"))[0] == 2
    assert names(server) == before
