"""Lifespans and enqueueing from handlers, in the server's own process and in its worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Server, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

HERE, CHILDREN = "0", "2"


@pytest.fixture(params=[HERE, CHILDREN], ids=["in the server", "in worker processes"])
def processes(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(tmp_path: Path, processes: str) -> Iterator[Server]:
    server = Server(tmp_path, "lifespans:good", "--processes", processes, "--store", "memory:").up()
    yield server
    server.kill()


def test_handlers_enqueue_in_every_way(server: Server) -> None:
    server.enqueue({"id": "first", "handler": "first", "payload": 4})
    assert server.finished("first")["result"] == "deps"
    second = server.finished("second")
    assert (second["result"], second["queue"], second["max_retries"]) == (4, "mail", 7)
    assert server.finished("threaded")["result"] == 4
    assert server.finished("last")["result"] == 5


def test_each_process_enters_the_lifespan_before_its_first_task_and_leaves_it_at_the_stop(
    server: Server, processes: str
) -> None:
    count = max(1, int(processes))
    until("every process began", lambda: server.journal.read_text().count("begin") == count)
    server.enqueue({"id": "first", "handler": "first", "payload": 4})
    # What it enqueued as well: a server that stops takes nothing new, and a handler that asks is told to wait.
    server.all_finished(["first", "second", "threaded"])
    server.finished("last")
    assert server.stop() == 0
    noted = [tuple(line.split()) for line in server.journal.read_text().splitlines()]
    pids = {pid for _, pid in noted}
    assert len(pids) == count
    for pid in pids:
        own = [what for what, who in noted if who == pid]
        assert own in (["begin", "end"], ["begin", "first", "end"])
    assert [what for what, _ in noted].count("first") == 1


def test_a_lifespan_that_cannot_begin_stops_the_start_with_one_line(tmp_path: Path, processes: str) -> None:
    store = tmp_path / "tasks.db"
    server = Server(tmp_path, "lifespans:bad", "--processes", processes, "--store", f"sqlite:///{store}")
    assert server.ended() == 3
    said = [line for line in server.said.splitlines() if "error:" in line]
    assert len(said) == 1, server.said
    assert "the app's lifespan did not begin: ConnectionError: the database is away (" in said[0]
    assert "Traceback" not in server.said
    assert not store.exists()


def test_a_lifespan_that_cannot_end_is_told_and_the_stop_goes_on(tmp_path: Path) -> None:
    server = Server(tmp_path, "lifespans:sad", "--processes", HERE, "--store", "memory:").up()
    assert server.stop() == 0
    assert "the app's lifespan did not end: ConnectionError: the database went away" in server.said
    assert "Traceback" not in server.said
