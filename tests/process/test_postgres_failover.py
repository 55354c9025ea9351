"""A primary that hangs, is replaced by its standby, and comes back: servers find the one that is to be written to."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import until
from prove.client import Client
from prove.cluster import Cluster, new_folder, running
from prove.fleet import fleet

import postgres
from jobpipe.core.errors import StorageRefused
from jobpipe.storage import open_storage

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

BOUND_S = 30.0
"""From the promotion to an enqueue that is accepted: a call's 15 s, the hosts' 5 s each, and some."""
SLOTS = {"wal_level": "replica", "max_wal_senders": "5", "hot_standby": "on"}


@pytest.fixture
def pair() -> Iterator[tuple[Cluster, Cluster]]:
    """A primary and its streaming standby."""
    postgres.require()
    folder = new_folder()
    with running(**SLOTS) as primary:
        standby = Cluster(folder, **SLOTS)
        try:
            standby.follow(primary)
            standby.start()
            yield primary, standby
        finally:
            with contextlib.suppress(OSError):
                primary.thaw()
            with contextlib.suppress(OSError, ValueError):
                standby.kill()
            shutil.rmtree(folder, ignore_errors=True)


def both(one: Cluster, other: Cluster) -> str:
    return f"postgresql://postgres@127.0.0.1:{one.port},127.0.0.1:{other.port}/postgres?sslmode=disable"


def accepted(client: Client, id_: str) -> bool:
    return client.ask("POST", "/enqueue", {"id": id_}).status in (202, 409)


def caught_up(primary: Cluster) -> bool:
    rows = primary.run("SELECT replay_lsn = pg_current_wal_lsn() AS so FROM pg_stat_replication")
    return bool(rows) and rows[0]["so"]


def test_after_a_primary_that_hangs_its_standby_is_found_within_seconds(
    tmp_path: Path, pair: tuple[Cluster, Cluster]
) -> None:
    primary, standby = pair
    with (
        fleet(tmp_path, both(primary, standby), servers=1, workers=0) as whole,
        whole.servers[0].connected() as client,
    ):
        assert accepted(client, "before")
        until("the standby has it", lambda: caught_up(primary))
        primary.freeze()
        standby.promote()
        began = time.monotonic()
        until("it is accepted again", lambda: accepted(client, "after"), BOUND_S)
        print(f"accepted again {time.monotonic() - began:.1f} s after the promotion")
        until("it is ready", lambda: client.ask("GET", "/readyz").status == 200)
        assert client.get("/stats")["counts"]["queued"] == 2
        primary.thaw()
        time.sleep(6)  # long enough for each connection to have been used again
        assert accepted(client, "later")
        there = {row["id"] for row in standby.run("SELECT id FROM jobpipe.tasks")}
        here = {row["id"] for row in primary.run("SELECT id FROM jobpipe.tasks")}
        assert there == {"before", "after", "later"}
        assert here == {"before"}
        # The old primary takes writes again, and is the first of the URL: a server that knows nothing finds out.
        assert whole.servers[0].stop() == 0
        whole.restart(0)
        with whole.servers[0].connected() as again:
            assert accepted(again, "anew")
        assert {row["id"] for row in primary.run("SELECT id FROM jobpipe.tasks")} == {"before"}
        assert "fence it off" in whole.servers[0].tail()


def test_a_server_leaves_a_primary_whose_standby_was_promoted_beside_it(
    tmp_path: Path, pair: tuple[Cluster, Cluster]
) -> None:
    primary, standby = pair
    with (
        fleet(tmp_path, both(primary, standby), servers=1, workers=0) as whole,
        whole.servers[0].connected() as client,
    ):
        assert accepted(client, "before")
        until("the standby has it", lambda: caught_up(primary))
        standby.promote()  # and nobody has fenced the primary off

        def moved() -> bool:
            accepted(client, "beacon")
            return bool(standby.run("SELECT FROM jobpipe.tasks WHERE id = 'beacon'"))

        until("it went to the new one", moved, BOUND_S)
        assert accepted(client, "after")
        assert not primary.run("SELECT FROM jobpipe.tasks WHERE id = 'after'")
        assert "was promoted" in whole.servers[0].log.read_text()


def test_two_databases_that_know_nothing_of_each_other_are_not_chosen_between() -> None:
    postgres.require()
    with running(in_memory=True) as one, running(in_memory=True) as other:
        for cluster in (one, other):
            asyncio.run(_opened(cluster.url()))
        with pytest.raises(StorageRefused, match=r"both take writes, and of .* another cluster"):
            asyncio.run(_opened(both(one, other)))
        other.run("UPDATE jobpipe.lineage SET (system, mark) = ('', 'x')")
        asyncio.run(_opened(one.url()))


async def _opened(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()
