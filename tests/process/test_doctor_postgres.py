"""`jobpipe doctor` on PostgreSQL: what keeps a server from its work, or holds a database back; and counts mended."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Server, until
from prove.cluster import Cluster, running

import postgres
from jobpipe.cli import main
from jobpipe.core.task import NewTask
from jobpipe.storage import open_storage
from jobpipe.storage.postgres import migrations

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


class Doctor:
    """Runs the doctor here, and keeps what it found."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.found: dict[str, tuple[str, str]] = {}

    def __call__(self, url: str, *args: str) -> int:
        self._capsys.readouterr()
        code = main(["doctor", "-o", "json", "--store", url, *args])
        findings = json.loads(self._capsys.readouterr().out)["findings"]
        self.found = {finding["check"]: (finding["state"], finding["text"]) for finding in findings}
        return code


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Doctor:
    monkeypatch.chdir(tmp_path)
    return Doctor(capsys)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres.own_database("examined") as url:
        yield url


def sql(text: str) -> None:
    postgres.shared_cluster().run(text, "examined")


async def fill(url: str, count: int) -> None:
    store = open_storage(url)
    await store.open()
    await store.insert([NewTask(f"t{n}", "h") for n in range(count)], 0)
    await store.close()


def test_a_database_that_is_well_has_nothing_but_ok(url: str, doctor: Doctor) -> None:
    asyncio.run(fill(url, 3))
    assert doctor(url, "--full") == 0, doctor.found
    for check in (
        "schema",
        "privileges",
        "counts",
        "encoding",
        "durability",
        "database clock",
        "replication slots",
    ):
        assert doctor.found[check][0] == "ok", doctor.found[check]


def test_counts_that_are_not_what_the_rows_say_are_told_and_made_true(url: str, doctor: Doctor) -> None:
    asyncio.run(fill(url, 64))
    sql("TRUNCATE jobpipe.tasks")
    assert doctor(url) == 1, doctor.found
    assert doctor.found["counts"] == (
        "problem",
        "queue 'default': 64 queued are counted, and 0 are there: repair with --repair",
    )
    assert doctor(url, "--repair") == 0
    assert doctor.found["counts"][0] == "ok"
    assert doctor(url) == 0


def test_counts_are_made_true_beside_a_server_that_works(tmp_path: Path, url: str, doctor: Doctor) -> None:
    server = Server(tmp_path, "--no-pool", "--store", url).up()
    try:
        server.enqueue(*({"id": f"t{n}"} for n in range(64)))
        sql("DELETE FROM jobpipe.tasks WHERE id <> 't7'; SELECT 1")
        assert doctor(url, "--repair") == 0, doctor.found
        until("it counts one", lambda: server.ask("/stats")["counts"]["queued"] == 1, 5)
        server.enqueue({"id": "new"})
        assert doctor(url, "--full") == 0
    finally:
        assert server.stop() == 0


def test_a_server_notices_by_itself_that_its_queue_is_full_of_nothing(tmp_path: Path, url: str) -> None:
    server = Server(tmp_path, "--no-pool", "--store", url).up()
    try:
        server.enqueue(*({"id": f"t{n}"} for n in range(64)))
        sql("TRUNCATE jobpipe.tasks")
        until(
            "tasks are taken", lambda: server.ask("/enqueue", [{"id": "new"}])[0]["status"] in (202, 409), 20
        )
        told = "64 queued are counted, and 0 are there; put right"
        until("it is told", lambda: told in server.said, 10)
    finally:
        assert server.stop() == 0


def test_a_schema_too_new_is_a_problem(url: str, doctor: Doctor) -> None:
    newer = len(migrations.scripts()) + 1
    sql(f"UPDATE jobpipe.version SET schema = {newer}, oldest = {newer}")
    assert doctor(url) == 1
    assert "upgrade jobpipe" in doctor.found["schema"][1]


def test_rights_that_are_missing_are_named(url: str, doctor: Doctor) -> None:
    cluster = postgres.shared_cluster()
    cluster.run("CREATE ROLE examiner LOGIN")
    sql("GRANT USAGE ON SCHEMA jobpipe TO examiner; GRANT SELECT ON ALL TABLES IN SCHEMA jobpipe TO examiner")
    try:
        assert doctor(url.replace("postgres@", "examiner@")) == 1
        state, text = doctor.found["privileges"]
        assert state == "problem"
        assert "INSERT on tasks" in text
        assert "USAGE on seqs" in text
    finally:
        sql("DROP OWNED BY examiner")
        cluster.run("DROP ROLE examiner")


def test_what_holds_vacuum_back_is_told(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobpipe.care import database

    postgres.require()
    monkeypatch.setattr(database, "LONG_OPEN_S", 0)
    with running(in_memory=True, wal_level="logical", max_prepared_transactions="2") as cluster:
        asyncio.run(fill(cluster.url(), 1))
        assert doctor(cluster.url()) == 0
        cluster.run("SELECT pg_create_physical_replication_slot('forgotten', true)")
        cluster.run("BEGIN; SELECT txid_current(); PREPARE TRANSACTION 'left'")
        assert doctor(cluster.url()) == 0
        assert doctor.found["replication slots"][0] == "warning"
        assert "forgotten (nobody reads it" in doctor.found["replication slots"][1]
        assert "prepared transaction left" in doctor.found["open transactions"][1]


def test_each_host_is_told_of(doctor: Doctor) -> None:
    postgres.require()
    settings = {"wal_level": "replica", "max_wal_senders": "5"}
    with running(**settings) as primary, contextlib.ExitStack() as stack:
        folder = postgres.new_folder()
        standby = Cluster(folder, **settings)
        standby.follow(primary)
        standby.start()
        stack.callback(standby.kill)
        asyncio.run(fill(primary.url(), 1))
        hosts = f"127.0.0.1:{standby.port},127.0.0.1:{primary.port}"
        url = f"postgresql://postgres@{hosts},127.0.0.1:1/postgres?sslmode=disable"
        assert doctor(url) == 0, doctor.found
        said = [doctor.found[f"host 127.0.0.1:{port}"] for port in (standby.port, primary.port, 1)]
        assert said[:2] == [("ok", "is a standby"), ("ok", "takes writes")]
        assert said[2][0] == "warning"
        standby.promote()
        assert doctor(url) == 1
        assert "fence off all but one" in doctor.found["hosts"][1]
