"""What commands show on a terminal of any width: whole numbers, every column that fits, and no flood."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Server, until
from terminal import Terminal

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

LONG = "a.handler.with.a.name." + "that.goes.on." * 8


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that holds 209 queues, a group of errors with a long handler's name, and a huge task."""
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder), "--no-pool", "--queue-size", "200000", "--store", "memory:").up()
        server.enqueue(*({"id": f"t{i}", "queue": f"q{i:03}", "delay": 86400} for i in range(209)))
        server.enqueue({"id": "huge", "payload": ["x" * 100] * 10_000, "delay": 86400})
        server.enqueue({"id": "broken", "handler": LONG, "queue": "errors", "max_retries": 0})
        (task,) = server.ask("/lease", {"worker_id": "w1", "queues": ["errors"], "total": 12})["tasks"]
        error = {"type": "CardDeclined", "message": "the bank said no to 17 orders"}
        body = [{"id": "broken", "lease_id": task["lease_id"], "outcome": "failed", "error": error}]
        server.ask("/settle", body)
        until("it failed", lambda: server.task("broken")["status"] == "failed")
        yield server
        server.kill()


def shown(server: Server, *args: str, columns: int = 80) -> str:
    with Terminal(*args, "--server", server.url, columns=columns) as terminal:
        assert terminal.ended() == 0
        return terminal.text


def piped(server: Server, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobpipe", *args, "--server", server.url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    "args",
    [
        ("task", "list", "--status", "bogus"),
        ("task", "list", "--queue", "no queue"),
        ("task", "list", "--error-group", "none"),
        ("task", "retry", "--status", "bogus", "--yes"),
        ("task", "list", "--limit", "5", "--created-after", "yesterday"),
        ("errors", "list", "--since", "yesterday"),
        ("errors", "list", "--limit", "5000000"),
        ("enqueue", "h", "--priority", "1000"),
        ("enqueue", "no handler"),
    ],
)
def test_what_cannot_be_is_exit_code_2_whoever_finds_out(server: Server, args: tuple[str, ...]) -> None:
    ran = piped(server, *args)
    assert (ran.returncode, ran.stdout) == (2, ""), ran.stderr


def test_errors_keep_their_type_and_message_at_80_columns(server: Server) -> None:
    text = shown(server, "errors", "list")
    assert "CardDecl" in text
    assert "the bank" in text
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("columns", [40, 60, 80, 200])
def test_top_cuts_no_number(server: Server, columns: int) -> None:
    with Terminal("top", "--interval", "0.2", "--server", server.url, columns=columns) as terminal:
        terminal.shows("q leaves")
        terminal.press("q")
        assert terminal.ended() == 0
    words = terminal.text.split()
    assert str(server.ask("/stats")["counts"]["queued"]) in words
    rows = [line.split() for line in terminal.text.splitlines() if line.startswith("q0")]
    assert rows
    assert {tuple(row[1:3]) for row in rows} == {("1", "0")}


def test_top_in_a_pipe_shows_the_busiest_and_says_how_many_more(server: Server) -> None:
    lines = piped(server, "top").stdout.splitlines()
    assert len(lines) < 60
    assert f"... {len(server.ask('/queues')) - 20} more" in lines
    assert len(json.loads(piped(server, "top", "-o", "json").stdout)["queues"]) >= 209


def test_a_huge_task_is_folded_on_a_terminal_and_whole_in_a_pipe(server: Server) -> None:
    text = shown(server, "task", "show", "huge")
    assert len(text) < 10_000
    assert "-o json shows all" in text
    assert len(piped(server, "task", "show", "huge").stdout) > 1_000_000


def test_ages_are_for_people_and_times_for_programs(server: Server) -> None:
    row = shown(server, "task", "list", "--queue", "errors", columns=200).splitlines()[1]
    assert row.split("  ")[-2].strip().endswith((" s", " m")) or " s  " in row
    assert "T" in piped(server, "task", "list", "--queue", "errors").stdout.splitlines()[1].split()[-2]


def test_stats_are_words_on_a_terminal(server: Server) -> None:
    queued = server.ask("/stats")["counts"]["queued"]
    assert f"{queued} queued" in shown(server, "stats", columns=200)
    assert "counts.queued" in piped(server, "stats").stdout


def test_watch_shows_what_is_asked_for_alone(server: Server, tmp_path: Path) -> None:
    log = tmp_path / "watched"
    command = [sys.executable, "-m", "jobpipe", "watch", "--queue", "seen", "-o", "ndjson"]
    with log.open("wb") as out, subprocess.Popen([*command, "--server", server.url], stdout=out) as watching:
        numbers = itertools.count()

        def told() -> bool:
            n = next(numbers)
            server.enqueue({"id": f"no{n}", "queue": "unseen"}, {"id": f"yes{n}", "queue": "seen"})
            return log.read_text().count("\n") >= 2

        try:
            until("two were shown", told)
        finally:
            watching.kill()
    assert {json.loads(line)["queue"] for line in log.read_text().splitlines()[:-1]} == {"seen"}
