"""`jobpipe migrate` and the start of `jobpipe serve` on PostgreSQL, as scripts meet them: an exit code and one line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from prove.cluster import running
from prove.ports import free_port

import postgres
from jobpipe.storage.postgres import migrations

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

MIGRATE = ("migrate",)
SERVE = ("serve", "--no-pool", "--port", "0")


def ran(*command: str, store: str) -> tuple[int, str, str]:
    """Exit code and what was said, of a command that is to end by itself."""
    ran = subprocess.run(
        [sys.executable, "-m", "jobpipe", *command, "--store", store],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stdout, ran.stderr


def refusal(*command: str, store: str) -> str:
    """The one line of a command that cannot use its store."""
    code, out, err = ran(*command, store=store)
    assert (code, out) == (4, ""), err
    assert err.startswith("jobpipe: error: ")
    assert err.count("\n") == 1, err
    return err


@pytest.fixture
def cluster() -> postgres.Cluster:
    postgres.require()
    return postgres.shared_cluster()


@pytest.fixture
def fresh(cluster: postgres.Cluster) -> Iterator[str]:
    """The URL of a database with nothing in it."""
    cluster.run("CREATE DATABASE commanded")
    yield cluster.url("commanded")
    cluster.run("DROP DATABASE commanded WITH (FORCE)")


def version(cluster: postgres.Cluster) -> tuple[int, int]:
    (row,) = cluster.run("SELECT schema, oldest FROM jobpipe.version", "commanded")
    return row["schema"], row["oldest"]


def test_migrate_makes_the_schema_and_changes_nothing_when_called_again(
    cluster: postgres.Cluster, fresh: str
) -> None:
    assert ran(*MIGRATE, store=fresh)[0] == 0
    made = version(cluster)
    assert made[0] == len(migrations.scripts())
    cluster.run("INSERT INTO jobpipe.summaries (minute, server, data) VALUES (1, 's', '')", "commanded")
    code, _, said = ran(*MIGRATE, store=fresh)
    assert code == 0
    assert "is up to date" in said
    assert said.count("\n") == 1
    assert version(cluster) == made
    assert len(cluster.run("SELECT FROM jobpipe.summaries", "commanded")) == 1
    assert ran(*MIGRATE, "--quiet", store=fresh) == (0, "", "")


@pytest.mark.parametrize("command", [MIGRATE, SERVE])
def test_a_schema_of_a_newer_program_is_refused_and_left_as_it_is(
    cluster: postgres.Cluster, fresh: str, command: tuple[str, ...]
) -> None:
    assert ran(*MIGRATE, store=fresh)[0] == 0
    newer = len(migrations.scripts()) + 1
    cluster.run(f"UPDATE jobpipe.version SET schema = {newer}, oldest = {newer}", "commanded")
    assert "upgrade jobpipe" in refusal(*command, store=fresh)
    assert version(cluster) == (newer, newer)


@pytest.mark.parametrize("command", [MIGRATE, SERVE])
def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(command: tuple[str, ...]) -> None:
    said = refusal(*command, store=f"postgresql://me:secret@127.0.0.1:{free_port()}/x")
    assert "cannot reach PostgreSQL at 127.0.0.1" in said
    assert "secret" not in said


def test_a_server_that_may_lose_what_it_acknowledged_is_refused_unless_told() -> None:
    postgres.require()
    with running(fsync="off") as unsafe:
        for command in (MIGRATE, SERVE):
            assert "fsync=off" in refusal(*command, store=unsafe.url())
        assert ran(*MIGRATE, store=f"{unsafe.url()}?allow_unsafe=true")[0] == 0
