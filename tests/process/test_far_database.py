"""A real server whose PostgreSQL is far away, every connection of it, that for the others' news included."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import pytest
from programs import Server, until
from prove.distance import far_from

import postgres

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

STOP_S = 20.0
"""10 s for what is still to be written, 5 s to take leave, and the end of the process."""
HANDLERS = ("--simulate-min", "0", "--simulate-max", "0", "--simulate-failures", "0")


@pytest.mark.parametrize("ms", [5, 60, 200])
def test_a_server_far_from_its_database_answers_and_stops_in_time(tmp_path: Path, ms: int) -> None:
    trip = 2 * ms / 1000
    postgres.require()
    with postgres.own_database("far"), far_from(postgres.shared_cluster().port, ms / 1000) as way:
        store = f"{postgres.shared_cluster().url('far', port=way.port)}?sslmode=disable"
        (tmp_path / "other").mkdir()
        server, other = (
            Server(folder, "--store", store, "--queue-size", "1000", *flags)
            for folder, flags in ((tmp_path, HANDLERS), (tmp_path / "other", ("--no-pool",)))
        )
        try:
            server.up()
            other.up()
            # What is accepted at one server runs at the other, which is told of it and does not look by chance.
            other.enqueue({"id": "told", "handler": "simulate"})
            began = time.monotonic()
            assert other.finished("told")["status"] == "done"
            assert time.monotonic() - began < 20 * trip + 3
            server.enqueue(*({"id": f"t{n}", "handler": "simulate"} for n in range(40)))
            server.all_finished(f"t{n}" for n in range(0, 40, 4))
            for path in ("/stats", "/tasks?limit=100"):
                began = time.monotonic()
                assert server.ask(path)
                assert time.monotonic() - began < 10 * trip + 2, path
            assert ready(server)
            assert until("all are done", lambda: server.ask("/stats")["counts"]["done"] == 41)
            for one in (server, other):
                began = time.monotonic()
                assert one.stop() == 0
                assert time.monotonic() - began < STOP_S
        finally:
            for one in (server, other):
                if one.alive():
                    one.kill()


def ready(server: Server) -> bool:
    with urllib.request.urlopen(f"{server.url}/readyz", timeout=15) as answer:
        return bool(answer.status == 200)
