"""`jobpipe copy` between stores of both engines: whole, again after a kill, refused while a server uses the source."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
from programs import Server, until

import postgres
from jobpipe.core.lifecycle import Kind, Outcome, Policy, decide
from jobpipe.core.task import Claim, NewTask, Status
from jobpipe.storage import open_storage
from jobpipe.storage.base import (
    ClaimRequest,
    Record,
    Settlement,
    Summary,
)
from jobpipe.storage.contract import Storage

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

T = TypeVar("T")
NOW = 1_700_000_000_000
MANY = 50_000


def inside(url: str, use: Callable[[Storage], Coroutine[Any, Any, T]]) -> T:
    """Use a store as a server does, while none does."""

    async def opened() -> T:
        store = open_storage(url, capacity=10**6)
        await store.open()
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(opened())


async def fill(store: Storage, count: int) -> None:
    """Tasks in every state, a tenth of them run, and a summary of a minute."""
    for at in range(0, count, 5000):
        tasks = [NewTask(f"t{n}", "h", payload=b'{"n": 1.10}') for n in range(at, min(count, at + 5000))]
        await store.insert(tasks, NOW)
    for _ in range(0, count // 10, 1000):
        answer = await store.claim(ClaimRequest(min(1000, count // 10), "w"), NOW + 1)
        await store.settle([_end(claim, n) for n, claim in enumerate(answer.claims)], NOW + 2)
    await store.claim(ClaimRequest(10, "w"), NOW + 3)
    await store.cancel([f"t{count - 1}"], NOW + 3)
    await store.keep_summary(Summary(7, "s", b"{}"), 0)


def _end(claim: Claim, n: int) -> Settlement:
    outcome = Outcome((Kind.DONE, Kind.FAILED)[n % 2], retryable=False, error_type="E")
    to = decide(claim.task, outcome, NOW + 2, Policy(), lambda: 0.0)
    return Settlement(claim.task.id, claim.lease_id, to)


async def all_of(store: Storage) -> list[Record]:
    records: list[Record] = []
    while more := await store.export(records[-1].task.seq if records else 0, 5000, 1 << 40):
        records += more
    return records


async def _counts(store: Storage) -> dict[Status, int]:
    return await store.counts()


def command(source: str, destination: str, *args: str) -> list[str]:
    return [sys.executable, "-m", "jobpipe", "copy", source, destination, *args]


def copy(source: str, destination: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, destination, *args), capture_output=True, text=True, timeout=100, check=False
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'a.db'}"


def test_fifty_thousand_tasks_go_to_postgresql_and_back(file: str, tmp_path: Path) -> None:
    away, back = postgres.empty_store("real"), f"sqlite:///{tmp_path / 'back.db'}"
    inside(file, lambda store: fill(store, MANY))
    began = time.monotonic()
    there = copy(file, away)
    took = time.monotonic() - began
    print(f"{MANY / took:,.0f} tasks/s to PostgreSQL")
    assert there.returncode == 0, there.stderr
    assert "50,000 tasks copied, 0 tasks there already" in there.stderr
    assert "10 tasks ran when the server ended: released" in there.stderr
    assert copy(away, back).returncode == 0
    before, after = inside(file, all_of), inside(back, all_of)
    assert [record.task.id for record in after] == [record.task.id for record in before]
    for old, new in zip(before, after, strict=True):
        assert new.attempts == old.attempts
        if old.task.status is not Status.RUNNING:
            assert (new.task, new.error_group) == (old.task, old.error_group)
        else:
            assert (new.task.status, new.task.attempts) == (Status.QUEUED, 0)
    assert inside(back, lambda store: store.summaries(0, 100)) == [Summary(7, "s", b"{}")]  # type: ignore[arg-type]


def test_schedules_go_with_the_tasks_to_postgresql_and_back(file: str, tmp_path: Path) -> None:
    server = Server(tmp_path, "--store", file, "--no-pool").up()
    whole = {
        "cron": "30 2 * * *", "timezone": "Europe/Berlin", "overlap": "skip", "catch_up": "none", "jitter": 2.5,
        "starts": "2020-01-01T00:00:00.000Z",
        "task": {"handler": "report", "payload": {"n": 1}, "unique": "u", "expires": 60},
    }  # fmt: skip
    server.ask("/schedules/nightly", whole, "PUT")
    server.ask("/schedules/often", {"every": 3600, "paused": True, "task": {}}, "PUT")
    made = server.ask("/schedules/nightly/run", method="POST")["id"]
    before = server.ask("/schedules")
    assert server.stop() == 0
    away, back = postgres.empty_store("real"), f"sqlite:///{tmp_path / 'back.db'}"
    assert copy(file, away).returncode == 0
    assert copy(away, back).returncode == 0
    there = Server(tmp_path, "--store", back, "--no-pool").up()
    assert there.ask("/schedules") == before
    assert there.task(made)["schedule"] == "nightly"
    there.kill()


def test_a_copy_that_was_killed_goes_on_when_run_again(file: str) -> None:
    destination = postgres.empty_store("real")
    inside(file, lambda store: fill(store, MANY))
    running = subprocess.Popen(command(file, destination), stderr=subprocess.DEVNULL)

    def begun() -> bool:
        return postgres.shared_cluster().run("SELECT count(*) FROM jobpipe.ids", "real")[0][0] > 4000

    until("some are copied", begun)
    running.send_signal(signal.SIGKILL)
    running.wait()
    again = copy(file, destination)
    assert again.returncode == 0, again.stderr
    assert " 0 tasks there already" not in again.stderr
    counts, there = inside(file, _counts), inside(destination, _counts)
    assert sum(there.values()) == MANY
    assert there[Status.DONE] == counts[Status.DONE]
    assert there[Status.FAILED] == counts[Status.FAILED]
    assert there[Status.QUEUED] == counts[Status.QUEUED] + counts[Status.RUNNING]


def test_a_store_that_a_server_uses_is_not_copied(tmp_path: Path, file: str) -> None:
    server = Server(tmp_path, "--store", file, "--processes", "0").up()
    try:
        refused = copy(file, f"sqlite:///{tmp_path / 'b.db'}")
    finally:
        server.stop()
    assert refused.returncode == 4
    assert str(server.process.pid) in refused.stderr


def test_a_postgresql_store_that_a_server_uses_is_not_copied(tmp_path: Path) -> None:
    url = postgres.empty_store("real")
    server = Server(tmp_path, "--store", url, "--processes", "0").up()
    try:
        refused = copy(url, f"sqlite:///{tmp_path / 'b.db'}")
    finally:
        server.stop()
    assert refused.returncode == 4
    assert "other servers use the store" in refused.stderr


def test_a_killed_server_is_waited_for_and_until_when_is_said(tmp_path: Path) -> None:
    url, other = postgres.empty_store("real"), f"sqlite:///{tmp_path / 'b.db'}"
    server = Server(tmp_path, "--store", url, "--processes", "0").up()
    server.enqueue({"id": "a", "delay": 3600})
    server.kill()
    refused = copy(url, other)
    assert refused.returncode == 4
    assert (told := re.search(r"for (\d+) s more \(--wait \1 waits", refused.stderr)), refused.stderr
    assert 60 < int(told[1]) <= 75
    # A minute is long: the server was heard of for the last time that long ago.
    postgres.shared_cluster().run("UPDATE jobpipe.servers SET alive_until = alive_until - 70000", "real")
    waited = copy(url, other, "--wait", "20")
    assert waited.returncode == 0, waited.stderr
    assert "1 task copied" in waited.stderr


def test_a_server_that_stops_soon_is_waited_for(tmp_path: Path, file: str) -> None:
    server = Server(tmp_path, "--store", file, "--processes", "0").up()
    copying = subprocess.Popen(command(file, f"sqlite:///{tmp_path / 'b.db'}", "--wait", "30"))
    time.sleep(1.5)
    assert copying.poll() is None
    assert server.stop() == 0
    assert copying.wait(30) == 0


def test_an_id_that_another_task_has_is_named_and_the_rest_is_copied(tmp_path: Path, file: str) -> None:
    other = f"sqlite:///{tmp_path / 'b.db'}"
    inside(file, lambda store: fill(store, 100))
    inside(other, lambda store: _insert(store, NewTask("t7", "another")))
    done = copy(file, other)
    assert done.returncode == 4
    assert "not copied: t7" in done.stderr
    assert sum(inside(other, _counts).values()) == 100


async def _insert(store: Storage, task: NewTask) -> None:
    await store.insert([task], NOW)


def test_what_cannot_be_copied_is_said_in_a_line(tmp_path: Path, file: str) -> None:
    for source, destination in ((file, file), (f"sqlite:///{tmp_path / 'none.db'}", file), ("memory:", file)):
        refused = copy(source, destination)
        assert refused.returncode == 4
        assert refused.stderr.startswith("jobpipe: error: ")
        assert refused.stderr.count("\n") == 1
    assert not (tmp_path / "none.db").exists()
