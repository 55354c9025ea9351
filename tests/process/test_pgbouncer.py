"""Servers behind PgBouncer: in transaction mode with a direct way for wake-ups, without one, and over its restart; in
session mode as it comes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from programs import until
from prove.cluster import new_folder
from prove.fleet import Fleet, fleet
from prove.ports import free_port

import postgres
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres.address import parse
from jobpipe.storage.postgres.hosts import Hosts
from jobpipe.storage.postgres.lineage import Lineage

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
INI = """
[databases]
real = host=127.0.0.1 port={there}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {here}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
max_client_conn = 100
ignore_startup_parameters = {ignored}
unix_socket_dir =
"""


class Bouncer:
    """A PgBouncer before the tests' PostgreSQL."""

    def __init__(
        self, folder: Path, mode: str = "transaction", ignored: str = "extra_float_digits", size: int = 6
    ) -> None:
        self.mode = mode
        self.port = free_port()
        self._ini = folder / "pgbouncer.ini"
        there = postgres.shared_cluster().port
        # One user for all, whoever asks: `any` keeps no list of users.
        text = INI.format(there=there, here=self.port, mode=mode, ignored=ignored, size=size).replace(
            f"port={there}", f"port={there} user=postgres"
        )
        self._ini.write_text(text)
        self._ini.chmod(0o644)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        as_nobody = (
            ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.geteuid() == 0 else []
        )
        self._process = subprocess.Popen(
            [*as_nobody, str(PROGRAM), "-q", str(self._ini)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def url(self) -> str:
        pooled = "&pgbouncer=true" if self.mode == "transaction" else ""
        return f"postgresql://postgres@127.0.0.1:{self.port}/real?sslmode=disable{pooled}"


@contextlib.contextmanager
def started(**settings: Any) -> Iterator[Bouncer]:
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    postgres.empty_store("real")
    folder = new_folder()
    bouncer = Bouncer(folder, **settings)
    bouncer.start()
    try:
        yield bouncer
    finally:
        bouncer.kill()
        shutil.rmtree(folder)


@pytest.fixture
def bouncer() -> Iterator[Bouncer]:
    with started() as bouncer:
        yield bouncer


@pytest.fixture(
    params=["", "extra_float_digits,statement_timeout,jit,options"], ids=["as it comes", "ignoring"]
)
def session(request: pytest.FixtureRequest) -> Iterator[Bouncer]:
    """In session mode, with and without the usual list of parameters that are silently dropped."""
    with started(mode="session", ignored=request.param, size=30) as bouncer:
        yield bouncer


def run(whole: Fleet, name: str, count: int = 200) -> None:
    """Tasks enqueued at every server, and done by all workers, once each."""
    for n, server in enumerate(whole.servers):
        with server.connected() as client:
            tasks = [{"id": f"{name}-{n}-{i}", "handler": "work"} for i in range(count)]
            assert {item["status"] for item in client.post("/enqueue", tasks)} == {202}
    whole.all_ended(60)
    ran = [run.task for run in whole.begun() if run.task.startswith(f"{name}-")]
    assert len(ran) == len(set(ran)) == count * len(whole.servers)


@pytest.mark.parametrize("direct", [True, False], ids=["wake-ups on a direct way", "wake-ups by polling"])
def test_two_servers_behind_pgbouncer_are_one_queue(tmp_path: Path, bouncer: Bouncer, direct: bool) -> None:
    way = f"&direct={quote(postgres.shared_cluster().url('real'), safe='')}" if direct else ""
    with fleet(tmp_path, bouncer.url() + way, servers=2, workers=2) as whole:
        run(whole, "first")
        one, two = whole.servers
        with one.connected() as here, two.connected() as there:
            here.post("/enqueue", {"id": "x", "delay": 999})
            assert there.ask("POST", "/tasks/x/cancel").status == 200
            assert here.get("/tasks/x?wait=10")["status"] == "cancelled"


def test_a_restart_of_pgbouncer_is_outlived(tmp_path: Path, bouncer: Bouncer) -> None:
    with fleet(tmp_path, bouncer.url(), servers=2, workers=2) as whole:
        run(whole, "before", 20)
        bouncer.kill()
        bouncer.start()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connected()) for server in whole.servers]
            until("both are ready", lambda: {c.ask("GET", "/readyz").status for c in clients} == {200}, 20)
        run(whole, "after", 20)


def test_session_mode_needs_nothing(tmp_path: Path, session: Bouncer) -> None:
    with fleet(tmp_path, session.url(), servers=2, workers=2) as whole:
        run(whole, "first")
        session.kill()
        session.start()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.connected()) for server in whole.servers]
            until("both are ready", lambda: {c.ask("GET", "/readyz").status for c in clients} == {200}, 20)
        run(whole, "after", 20)


INHERITED = {
    "default_transaction_isolation": "'serializable'",
    "search_path": "traps, pg_catalog",
    "standard_conforming_strings": "off",
    "bytea_output": "'escape'",
    "statement_timeout": "250",
    "lock_timeout": "250",
    "idle_in_transaction_session_timeout": "250",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "jit": "on",
    "plan_cache_mode": "'force_custom_plan'",
}
"""What the role of the pooler's connections brings along, each against what we need."""


@pytest.fixture(params=["transaction", "session"])
def settled(request: pytest.FixtureRequest) -> Iterator[Bouncer]:
    """A pooler whose role has settings of its own."""
    with started(mode=request.param, size=30) as bouncer:
        cluster = postgres.shared_cluster()
        cluster.run(
            "CREATE SCHEMA IF NOT EXISTS traps; CREATE OR REPLACE FUNCTION traps.octet_length(bytea) RETURNS int"
            " LANGUAGE sql AS 'SELECT 1000000000'", "real",
        )  # fmt: skip
        for name, value in INHERITED.items():
            cluster.run(f"ALTER ROLE postgres IN DATABASE real SET {name} = {value}")
        try:
            yield bouncer
        finally:
            cluster.run("ALTER ROLE postgres IN DATABASE real RESET ALL")
            cluster.run("DROP SCHEMA traps CASCADE", "real")


def test_what_a_role_brings_along_changes_nothing_behind_a_pooler_either(
    tmp_path: Path, settled: Bouncer
) -> None:
    with fleet(tmp_path, settled.url(), servers=2, workers=2) as whole:
        run(whole, "first", 100)
        with whole.servers[0].connected() as client:
            assert len(client.get("/tasks?limit=100")) == 100, "a page ends by its bytes"
        # A statement waits for others' locks longer than the role says.
        asyncio.run(_accepted_behind_a_lock(whole))


async def _accepted_behind_a_lock(whole: Fleet) -> None:
    def enqueue() -> int:
        with whole.servers[1].connected() as client:
            return client.ask("POST", "/enqueue", {"id": "behind", "handler": "work"}).status

    holder = await asyncpg.connect(postgres.shared_cluster().url("real"))
    try:
        async with holder.transaction():
            await holder.execute("SET LOCAL statement_timeout = 0")
            await holder.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await holder.execute("LOCK TABLE jobpipe.ids IN EXCLUSIVE MODE")
            answer = asyncio.create_task(asyncio.to_thread(enqueue))
            await asyncio.sleep(1)
            assert not answer.done()
        assert await answer == 202
    finally:
        await holder.close()


async def _settled_in(bouncer: Bouncer) -> tuple[str, str, bool, int]:
    link = await Hosts(parse(bouncer.url()), Lineage()).connect()
    try:
        shown = [await link.value(f"SHOW {name}") for name in ("statement_timeout", "jit")]
        return (
            shown[0],
            shown[1],
            link.backend is None,
            link.pid - await link.value("SELECT pg_backend_pid()"),
        )
    finally:
        await link.close()


def test_behind_a_pooler_our_settings_hold_and_no_backend_is_taken_for_ours(session: Bouncer) -> None:
    until("it answers", lambda: _answers(session), 10)
    assert asyncio.run(_settled_in(session)) == ("12s", "off", True, 0)


def _answers(bouncer: Bouncer) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", bouncer.port), 1).close()
        return True
    return False


def test_the_number_of_a_process_that_is_somebody_elses_by_now_ends_nobody() -> None:
    cluster = postgres.shared_cluster()

    async def ask() -> tuple[int, bool]:
        link, other = (
            await Hosts(parse(cluster.url("real")), Lineage()).connect(),
            await Hosts(parse(cluster.url("real")), Lineage()).connect(),
        )
        assert other.backend is not None
        pid, began = other.backend
        try:
            found = await link.rows(sql.STILL_THERE, pid, began - timedelta(seconds=1))
            return len(found), await other.value("SELECT 1") == 1
        finally:
            await link.close()
            await other.close()

    assert asyncio.run(ask()) == (0, True)
