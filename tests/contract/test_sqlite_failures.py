"""SQLite: commits that fail acknowledge nothing, lose nothing that was acknowledged, and heal when they can."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import apsw
import pytest
from desk import DONE, Desk, OpenDesk, codes_of, ids_of

from jobpipe.core.errors import StorageBroken, StorageError, StorageFull
from jobpipe.core.task import Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Settled

MIB = 2**20


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'jobpipe.db'}"


@pytest.fixture
async def desk(writers: list[apsw.Connection], open_desk: OpenDesk) -> Desk:
    return await open_desk()


class Disk:
    """A bound on the pages of the file, which SQLite answers as it answers a disk without space."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection

    def fill(self) -> None:
        pages = self._db.execute("PRAGMA page_count").get
        self._db.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    def free(self) -> None:
        self._db.execute("PRAGMA max_page_count = 1000000").fetchall()


@pytest.fixture
def disk(desk: Desk, writers: list[apsw.Connection]) -> Disk:
    return Disk(writers[0])


async def test_a_full_disk_is_told_as_such_and_loses_nothing_acknowledged(desk: Desk, disk: Disk) -> None:
    await desk.accept("a", "b")
    before = await desk.listed()
    disk.fill()
    with pytest.raises(StorageFull):
        await desk.insert("c", payload=b" " * MIB)
    assert await desk.listed() == before
    await desk.assert_counts_are_true()


async def test_a_store_that_was_full_heals_when_there_is_space(desk: Desk, disk: Disk) -> None:
    await desk.accept("a")
    disk.fill()
    for _ in range(3):
        with pytest.raises(StorageFull):
            await desk.insert("c", payload=b" " * MIB)
    disk.free()
    assert codes_of(await desk.insert("c", payload=b" " * MIB)) == ["task"]
    await desk.store.check()
    assert ids_of(await desk.claim(5)) == ["a", "c"]
    await desk.assert_counts_are_true()


async def test_what_fails_for_fullness_happened_in_no_part(desk: Desk, disk: Disk) -> None:
    running = await desk.start("running")
    await desk.accept("waiting")
    disk.fill()
    answers = await asyncio.gather(
        desk.insert("big", payload=b" " * MIB), desk.settle(running), desk.claim(5), desk.cancel("waiting"),
        return_exceptions=True,
    )  # fmt: skip
    assert isinstance(answers[0], StorageFull)
    for answer in answers[1:]:
        assert not isinstance(answer, BaseException) or isinstance(answer, StorageFull)
    disk.free()
    await desk.assert_counts_are_true()
    settled = await desk.settle(running, DONE)
    assert isinstance(settled, Settled)
    assert settled.repeated is not isinstance(answers[1], StorageFull)
    task = await desk.get("waiting")
    if isinstance(answers[2], StorageFull) and isinstance(answers[3], StorageFull):
        assert task.status is Status.QUEUED
        assert ids_of(await desk.claim(5)) == ["waiting"]


async def test_claims_leases_and_flags_are_as_before_after_a_failed_commit(desk: Desk, disk: Disk) -> None:
    await desk.accept("a", "b", "c")
    a, b = await desk.claim_remote(2, lease_s=30)
    pages = b" " * MIB
    disk.fill()
    # One call each, so that each of them stands in a commit of its own that fails with the big insert beside it.
    for call in (desk.settle(a), desk.cancel("b"), desk.claim(1), desk.cancel("c")):
        answers = await asyncio.gather(desk.insert("big", payload=pages), call, return_exceptions=True)
        assert isinstance(answers[0], StorageFull)
        if not isinstance(answers[1], StorageFull):
            pytest.skip("the calls were not gathered into one commit")
    disk.free()
    assert await desk.settle(a) == Settled(Status.DONE)
    assert await desk.settle(b) == Settled(Status.DONE)  # decided without the cancel, which never happened
    assert ids_of(await desk.claim(5)) == ["c"]
    assert await desk.store.next_expiry() is None
    await desk.assert_counts_are_true()


async def test_an_id_of_a_failed_insert_is_free(desk: Desk, disk: Disk) -> None:
    disk.fill()
    with pytest.raises(StorageFull):
        await desk.insert("a", queue="other", payload=b" " * MIB)
    disk.free()
    assert list(await desk.store.queues(desk.now)) == []
    assert codes_of(await desk.insert("a", queue="another")) == ["task"]


async def test_a_full_store_does_not_say_that_it_is_broken(desk: Desk, disk: Disk) -> None:
    waiting = asyncio.ensure_future(desk.store.wait_broken())
    disk.fill()
    with pytest.raises(StorageFull):
        await desk.insert("a", payload=b" " * MIB)
    await desk.store.counts()
    assert not waiting.done()
    waiting.cancel()


# --- a real disk without space ---


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("needs Linux and the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def on_small_disk(small_disk: Path) -> AsyncIterator[Desk]:
    clock = ManualClock()
    store = open_storage(f"sqlite:///{small_disk / 'jobpipe.db'}", capacity=10**6, clock=clock)
    await store.open()
    yield Desk(store, clock)
    await store.close()


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return filler


async def test_a_disk_without_space_is_told_by_the_check_until_there_is_some(
    on_small_disk: Desk, small_disk: Path
) -> None:
    desk = on_small_disk
    acknowledged = ids_of(await desk.accept("a", "b"))
    filler = fill(small_disk)
    refused = 0
    for i in range(40):  # what is left of the log's last block may take a few
        try:
            acknowledged += ids_of(await desk.accept(f"t{i}", payload=b" " * 3000))
        except StorageFull:
            refused += 1
    assert refused >= 30
    for _ in range(3):
        with pytest.raises(StorageError):
            await desk.store.check()
    assert sorted(ids_of(await desk.listed())) == sorted(acknowledged)
    filler.unlink()
    await desk.store.check()
    acknowledged += ids_of(await desk.accept("after"))
    assert sorted(ids_of(await desk.listed())) == sorted(acknowledged)
    await desk.assert_counts_are_true()


# --- a store that must not be trusted ---


async def test_a_file_that_disagrees_with_memory_is_told_as_broken_and_served_no_more(
    desk: Desk, tmp_path: Path
) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote()
    waiting = asyncio.ensure_future(desk.store.wait_broken())
    meddler = apsw.Connection(str(tmp_path / "jobpipe.db"))
    meddler.execute("UPDATE tasks SET lease_id = 'another'").fetchall()
    meddler.close()
    with pytest.raises(StorageBroken):
        await desk.settle(claim)
    assert isinstance(await asyncio.wait_for(waiting, 5), StorageBroken)
    with pytest.raises(StorageError):
        await desk.insert("b")
    with pytest.raises(StorageError):
        await desk.claim()
    with pytest.raises(StorageError):
        await desk.store.check()


IO_ERROR = """
import asyncio, resource, sys
from jobpipe.core.errors import StorageBroken, StorageError, StorageFull
from jobpipe.core.task import NewTask
from jobpipe.storage import open_storage

async def told(store, id_, size):
    try:
        await store.insert([NewTask(id_, "h", b" " * size)], 0)
        print("acknowledged", id_)
    except StorageError as error:
        print(type(error).__name__, id_)

async def main():
    store = open_storage(sys.argv[1], capacity=10**6)
    await store.open()
    await told(store, "before", 10)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    await told(store, "big", 1_000_000)
    print("wait_broken", type(await asyncio.wait_for(store.wait_broken(), 5)).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await told(store, "later", 10)
    await store.close()

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
async def test_after_an_error_of_the_disk_nothing_is_acknowledged_any_more(
    url: str, open_desk: OpenDesk
) -> None:
    answer = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", IO_ERROR, url], capture_output=True, text=True, timeout=30
    )
    said = answer.stdout.splitlines()
    assert said[:3] == ["acknowledged before", "StorageBroken big", "wait_broken StorageBroken"], (
        answer.stderr
    )
    assert said[3:] == ["StorageBroken later"]
    desk = await open_desk()
    assert ids_of(await desk.listed()) == ["before"]


async def test_closing_a_store_that_cannot_be_closed_cleanly_still_ends(desk: Desk, disk: Disk) -> None:
    disk.fill()
    with pytest.raises(StorageFull):
        await desk.insert("a", payload=b" " * MIB)
    await asyncio.wait_for(desk.store.close(), 5)
