"""Servers as a role that owns nothing: it serves when it may do all that is done, else it is told what it lacks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

import postgres
from jobpipe.core.errors import StorageRefused
from jobpipe.storage import open_storage
from jobpipe.storage.postgres.partitions import WIDTH_MS

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ROLES = """
CREATE ROLE lock_owner LOGIN; CREATE ROLE lock_server LOGIN;
CREATE DATABASE locked; REVOKE ALL ON DATABASE locked FROM PUBLIC;
GRANT CONNECT ON DATABASE locked TO lock_owner, lock_server
"""
GRANTS = """
GRANT USAGE ON SCHEMA jobpipe TO lock_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA jobpipe TO lock_server;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA jobpipe TO lock_server;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA jobpipe TO lock_server
"""
OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner) AS name FROM pg_class
 WHERE relnamespace = 'jobpipe'::regnamespace AND relname LIKE 'ended%'
"""


@pytest.fixture
def cluster() -> Iterator[postgres.Cluster]:
    """A database with a schema that its owner made, who may not make schemas."""
    postgres.require()
    cluster = postgres.shared_cluster()
    for part in ROLES.split(";"):
        cluster.run(part)
    cluster.run("CREATE SCHEMA jobpipe AUTHORIZATION lock_owner", "locked")
    try:
        yield cluster
    finally:
        cluster.run("DROP DATABASE locked WITH (FORCE)")
        for role in ("lock_owner", "lock_server"):
            with contextlib.suppress(Exception):
                cluster.run(f"DROP ROLE {role}")


def url(cluster: postgres.Cluster, role: str) -> str:
    return f"postgresql://{role}@127.0.0.1:{cluster.port}/locked?sslmode=disable"


async def opened(url: str) -> None:
    store = open_storage(url)
    await store.open()
    await store.close()


def refused(cluster: postgres.Cluster) -> str:
    with pytest.raises(StorageRefused) as error:
        asyncio.run(opened(url(cluster, "lock_server")))
    return str(error.value)


def test_an_owner_of_the_schema_needs_no_right_on_the_database(cluster: postgres.Cluster) -> None:
    (row,) = cluster.run("SELECT has_database_privilege('lock_owner', 'locked', 'CREATE') AS may")
    assert row["may"] is False
    asyncio.run(opened(url(cluster, "lock_owner")))


def test_a_role_with_grants_alone_is_refused_with_what_it_lacks_and_serves_once_it_has_all(
    cluster: postgres.Cluster,
) -> None:
    asyncio.run(opened(url(cluster, "lock_owner")))
    assert "permission denied" in refused(cluster)
    cluster.run(GRANTS, "locked")
    assert "lacks the role lock_owner, to make and drop partitions" in refused(cluster)
    cluster.run("GRANT lock_owner TO lock_server")
    cluster.run("REVOKE UPDATE ON jobpipe.counts FROM lock_server", "locked")
    asyncio.run(opened(url(cluster, "lock_server")))  # it has the owner's rights
    cluster.run("ALTER ROLE lock_server NOINHERIT")
    assert "UPDATE on counts" in refused(cluster)
    cluster.run("ALTER ROLE lock_server INHERIT")
    asyncio.run(partitions_come_and_go(url(cluster, "lock_server")))
    assert [row["name"] for row in cluster.run(OWNERS, "locked")] == ["lock_owner"]


async def partitions_come_and_go(url: str) -> None:
    store = open_storage(url)
    await store.open()
    try:
        upkeep, partitions = store._upkeep, store._partitions  # type: ignore[attr-defined]
        now = store._s.time.now()  # type: ignore[attr-defined]
        link = await upkeep.link()
        partitions._made_until = 0
        await partitions.prepare(link, now + 10 * WIDTH_MS)
        before = len(await partitions._names(link))
        async with link.transaction():
            assert await partitions.take_out(link, now + 20 * WIDTH_MS) is not None
        for _ in range(5):
            await partitions.sweep(link)
        assert not await partitions.sweep(link)
        assert len(await partitions._names(link)) == before - 1
    finally:
        await store.close()
