"""Servers behind PgBouncer in transaction mode: with a direct way for wake-ups, without one, and over its restart."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from programs import until
from prove.cluster import new_folder
from prove.fleet import Fleet, fleet
from prove.ports import free_port

import postgres

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
INI = """
[databases]
real = host=127.0.0.1 port={there}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {here}
auth_type = any
pool_mode = transaction
default_pool_size = 6
max_client_conn = 100
ignore_startup_parameters = extra_float_digits
unix_socket_dir =
"""


class Bouncer:
    """A PgBouncer before the tests' PostgreSQL."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._ini = folder / "pgbouncer.ini"
        there = postgres.shared_cluster().port
        # One user for all, whoever asks: `any` keeps no list of users.
        text = INI.format(there=there, here=self.port).replace(f"port={there}", f"port={there} user=postgres")
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
        return f"postgresql://postgres@127.0.0.1:{self.port}/real?sslmode=disable&pgbouncer=true"


@pytest.fixture
def bouncer() -> Iterator[Bouncer]:
    if PROGRAM is None:
        pytest.skip("PgBouncer is not installed")
    postgres.empty_store("real")
    folder = new_folder()
    bouncer = Bouncer(folder)
    bouncer.start()
    yield bouncer
    bouncer.kill()
    shutil.rmtree(folder)


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
