"""A schema that goes away under servers that run: said once, not ready; healed when it comes back, while one that was
made anew is another database, which servers take when they are started anew."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import pytest
from programs import Server, until
from test_postgres_field import status

import postgres
from jobpipe.storage import open_storage

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


async def migrated(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()


@pytest.mark.parametrize("back", [True, False], ids=["restored", "made anew"])
def test_a_schema_that_goes_away_is_said_once_and_served_once_it_is_back(tmp_path: Path, back: bool) -> None:
    with postgres.own_database("dropped") as url:
        (tmp_path / "other").mkdir()
        flags = ("--store", url, "--simulate-min", "0", "--simulate-max", "0", "--simulate-failures", "0")
        servers = [Server(tmp_path, *flags), Server(tmp_path / "other", *flags)]
        try:
            for server in servers:
                server.up().enqueue({"handler": "simulate"})
            away = "ALTER SCHEMA jobpipe RENAME TO kept" if back else "DROP SCHEMA jobpipe CASCADE"
            postgres.shared_cluster().run(away, "dropped")
            for server in servers:
                until("it is not ready", lambda at=server: status(at, "/readyz") == 503, 20)
                for _ in range(5):
                    assert status(server, "/enqueue", [{"handler": "simulate"}]) == 503
                assert server.alive()
            time.sleep(2)
            for server in servers:
                said = Counter(
                    line.partition(" ")[2] for line in server.said.splitlines() if " does not " in line
                )
                assert said, server.said
                # Each of the four connections that tasks take, and each kind of upkeep, says so once.
                assert max(said.values()) <= 4, said
            if back:
                postgres.shared_cluster().run("ALTER SCHEMA kept RENAME TO jobpipe", "dropped")
            else:
                asyncio.run(migrated(url))
                for n, server in enumerate(servers):
                    until("it says what to do", lambda at=server: "restart this server" in at.said, 40)
                    assert status(server, "/readyz") == 503
                    assert server.stop() == 0
                    servers[n] = server.again()
            for n, server in enumerate(servers):
                until("it is ready again", lambda at=server: status(at, "/readyz") == 200, 40)
                server.enqueue({"id": f"after-{n}", "handler": "simulate"})
                assert server.finished(f"after-{n}")["status"] == "done"
            # What the other server did may be a tenth of a second old.
            expected = {"queued": 0, "running": 0, "done": 4 if back else 2}
            until(
                "counts are right", lambda: servers[0].ask("/stats")["counts"].items() >= expected.items(), 10
            )
            for server in servers:
                assert server.stop() == 0
        finally:
            for server in servers:
                if server.alive():
                    server.kill()
