"""SQLite: a claim of the server's own workers is answered at once and written a moment later, or with its end."""

from __future__ import annotations

import asyncio
import errno
import shutil
from pathlib import Path

import apsw
import pytest
from desk import (
    CANCELLED,
    DONE,
    FAILED,
    FAILED_FOR_GOOD,
    LOST,
    RELEASED,
    Desk,
    OpenDesk,
    expect,
    new,
    settlement,
)
from test_sqlite_recovery import crash_image

from jobpipe.core.errors import LeaseLost, QueueFull, StorageError, StorageFull
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Cancelled, Settled
from jobpipe.storage.sqlite import claimlog, state, store, writer
from jobpipe.storage.sqlite.claimlog import SIZE

WAIT_S = 5.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


def in_file(path: Path) -> dict[str, tuple[int, int]]:
    """Status and attempts of each task, as another program reads them."""
    with apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY) as db:
        return {
            id_: (status, attempts)
            for id_, status, attempts in db.execute("SELECT id, status, attempts FROM tasks")
        }


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a moment may be over before the test has looked."""
    for module in (state, store, writer):
        monkeypatch.setattr(module, "KEEP_S", 60.0)


@pytest.fixture
async def desk(writers: list[apsw.Connection], open_desk: OpenDesk) -> Desk:
    return await open_desk()


async def in_file_becomes(path: Path, found: dict[str, tuple[int, int]]) -> None:
    async with asyncio.timeout(WAIT_S):
        while in_file(path) != found:
            await asyncio.sleep(0.001)


async def ended(desk: Desk, claim: Claim) -> None:
    expect(Settled, await desk.settle(claim, DONE))


async def test_a_claim_is_answered_before_it_is_written_and_is_written_within_a_moment(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    await desk.accept("a")
    claim = await desk.claim_one()
    assert (claim.task.status, claim.task.attempts, claim.task.started_at) == (Status.RUNNING, 1, desk.now)
    assert in_file(path) == {"a": (0, 0)}
    await in_file_becomes(path, {"a": (1, 1)})
    assert await desk.get("a") == claim.task


async def test_a_run_that_succeeds_at_once_is_written_with_its_end(desk: Desk, path: Path) -> None:
    await desk.accept("a")
    claim = await desk.claim_one()
    await ended(desk, claim)
    assert in_file(path) == {"a": (2, 1)}
    task = await desk.get("a")
    assert (task.status, task.attempts, task.worker) == (Status.DONE, 1, "w")
    assert (task.started_at, task.finished_at) == (desk.now, desk.now)
    await desk.assert_counts_are_true()
    assert await desk.settle(claim, DONE) == Settled(Status.DONE, repeated=True)


async def test_who_asks_for_a_task_sees_its_claim_and_then_it_is_in_the_file(desk: Desk, path: Path) -> None:
    await desk.accept("a", "b")
    claims = await desk.claim(2)
    assert await desk.get("a") == claims[0].task
    assert in_file(path) == {"a": (1, 1), "b": (0, 0)}


async def test_who_lists_tasks_sees_all_claims_and_then_they_are_in_the_file(desk: Desk, path: Path) -> None:
    await desk.accept("a", "b", "c")
    claims = await desk.claim(2)
    assert (await desk.listed())[1:] == [claims[1].task, claims[0].task]
    assert in_file(path) == {"a": (1, 1), "b": (1, 1), "c": (0, 0)}


async def test_claims_that_are_not_in_the_file_are_counted_as_running(desk: Desk, path: Path) -> None:
    await desk.accept("a", "b", "c", queue="q")
    await desk.claim(2)
    counts = await desk.store.counts()
    (queue,) = await desk.store.queues(desk.now)
    assert (counts[Status.QUEUED], counts[Status.RUNNING]) == (1, 2)
    assert (queue.by_status[Status.QUEUED], queue.by_status[Status.RUNNING]) == (1, 2)
    assert in_file(path) == dict.fromkeys("abc", (0, 0))


@pytest.mark.parametrize("outcome", [FAILED, RELEASED, LOST], ids=lambda outcome: outcome.kind.value)
async def test_a_run_that_does_not_succeed_is_accounted_for_as_ever(desk: Desk, outcome: Outcome) -> None:
    await desk.accept("a")
    claim = await desk.claim_one()
    expect(Settled, await desk.settle(claim, outcome, rescue=outcome is LOST))
    task = await desk.get("a")
    assert (task.status, task.worker) == (Status.QUEUED, None)
    assert task.attempts == task.failures + task.lost == (0 if outcome is RELEASED else 1)
    (attempt,) = expect(list, await desk.store.attempts("a"))
    assert (attempt.outcome, attempt.worker, attempt.started_at) == (outcome.kind, "w", claim.task.started_at)
    await desk.assert_counts_are_true()


async def test_no_task_is_handed_out_twice(desk: Desk) -> None:
    await desk.accept(*(f"t{i}" for i in range(30)))
    claims = [claim for n in (1, 4, 10, 20) for claim in await desk.claim(n)]
    assert [claim.task.id for claim in claims] == [f"t{i}" for i in range(30)]
    assert await desk.claim(5) == []
    assert len(await desk.claim_remote(5)) == 0


async def test_a_task_that_is_handed_out_leaves_its_place_in_a_full_queue(open_desk: OpenDesk) -> None:
    desk = await open_desk(capacity=2)
    await desk.accept("a", "b")
    expect(QueueFull, (await desk.insert("c"))[0])
    await desk.claim(1)
    taken, refused = await desk.insert("c", "d")
    expect(Task, taken)
    expect(QueueFull, refused)


async def test_cancelling_a_task_that_is_handed_out_tells_its_worker(desk: Desk) -> None:
    await desk.accept("a")
    claim = await desk.claim_one()
    (answer,) = await desk.cancel("a")
    assert expect(Cancelled, answer).lease_id == claim.lease_id
    assert (await desk.get("a")).cancel_requested


async def test_an_earlier_lease_is_lost_when_the_task_is_handed_out_again(desk: Desk) -> None:
    await desk.accept("a")
    first = await desk.claim_one()
    await desk.settle(first, FAILED)
    desk.clock.advance(60)
    second = await desk.claim_one()
    expect(LeaseLost, await desk.settle(first, FAILED))
    await ended(desk, second)


async def test_a_claim_of_a_worker_elsewhere_is_in_the_file_when_it_is_answered(
    desk: Desk, path: Path
) -> None:
    await desk.accept("a")
    await desk.claim_remote()
    assert in_file(path) == {"a": (1, 1)}


# --- giving back ---


async def test_what_is_given_back_at_once_keeps_its_place(desk: Desk) -> None:
    await desk.accept("a", "b", "c")
    desk.clock.advance(5)
    claims = await desk.claim(2)
    answers = await desk.write(*(settlement(claim, RELEASED, desk.now) for claim in claims))
    assert answers == [Settled(Status.QUEUED)] * 2
    assert [claim.task.id for claim in await desk.claim(5)] == ["a", "b", "c"]
    await desk.assert_counts_are_true()


# --- faults ---


async def test_a_killed_server_leaves_a_mark_of_each_claim_that_it_had_not_written(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("a", "b", "c", "d", "e")
    done, failed = await desk.claim(2)
    await desk.settle(done, DONE)
    await desk.settle(failed, FAILED_FOR_GOOD)
    claims = await desk.claim(2)
    assert in_file(path) == {"a": (2, 1), "b": (3, 1), "c": (0, 0), "d": (0, 0), "e": (0, 0)}
    image = await crash_image(path, tmp_path / "image")
    lost = await image.store.lost(5)
    assert [(claim.task.id, claim.lease_id, claim.orphaned) for claim in lost] == [
        (claim.task.id, claim.lease_id, True) for claim in claims
    ]
    assert [claim.task for claim in lost] == [claim.task for claim in claims]
    assert (await image.claim_one()).task.id == "e"
    await image.assert_counts_are_true()
    await image.store.close()


async def test_a_task_that_kills_its_server_again_and_again_is_lost_each_time(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("killer")
    await desk.claim_one()
    for n in range(1, 4):
        desk = await crash_image(path, tmp_path / f"image{n}")
        path = tmp_path / f"image{n}" / path.name
        (claim,) = await desk.store.lost(5)
        await desk.settle(claim, LOST, rescue=True)
        task = await desk.get("killer")
        assert (task.lost, task.attempts) == (n, n)
        if n < 3:
            desk.clock.advance(60)
            await desk.claim_one()
    assert task.status is Status.FAILED


async def test_a_reader_that_has_the_file_between_two_starts_takes_no_mark_away(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("a")
    await desk.claim_one()
    image = tmp_path / "image"
    image.mkdir()
    for suffix in ("", "-wal", "-claims"):
        shutil.copy(f"{path}{suffix}", image)
    with apsw.Connection(
        str(image / path.name)
    ) as meddler:  # the last one that closes folds the log into the file
        assert meddler.execute("SELECT count(*) FROM tasks").get == 1
    meddler.close()
    assert not Path(f"{image / path.name}-wal").exists()
    store = open_storage(f"sqlite:///{image / path.name}", capacity=10, clock=ManualClock())
    await store.open()
    assert [claim.task.id for claim in await store.lost(5)] == ["a"]
    await store.close()


async def test_claims_that_were_given_back_rescued_or_retried_are_none_after_a_kill(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("released", "rescued", "retried", "released and claimed")
    for id_ in ("released", "released and claimed"):
        await desk.accept(new(f"{id_} before", queue="other"))
    released, rescued, retried, again = await desk.claim(4)
    lost = await desk.start("lost and retried")
    await desk.cancel("lost and retried")
    await desk.settle(lost, CANCELLED, rescue=True, task=await desk.get("lost and retried"))
    await desk.retry("lost and retried")
    await desk.settle(released, RELEASED)
    await desk.settle(again, RELEASED)
    await desk.settle(rescued, LOST, rescue=True)
    await desk.settle(retried, FAILED_FOR_GOOD)
    await desk.retry("retried")
    image = await crash_image(path, tmp_path / "image0")
    assert await image.store.lost(9) == []
    await image.store.close()
    claims = {claim.task.id: claim for claim in await desk.claim(9)}
    await desk.settle(claims["released"], RELEASED)
    image = await crash_image(path, tmp_path / "image1")
    assert {claim.task.id for claim in await image.store.lost(9)} == claims.keys() - {"released"}
    assert (await image.get("rescued")).attempts == 2
    await image.assert_counts_are_true()
    await image.store.close()


async def test_the_log_of_claims_does_not_grow_and_what_counts_stands_in_it(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept(*(new(f"t{n}", queue="long" if n < 3 else "short") for n in range(3_000)))
    await desk.claim(3, queues=["long"], worker="w" * 200)
    given_back = await desk.claim(2, queues=["short"])
    await desk.write(*(settlement(claim, RELEASED, desk.now) for claim in given_back))
    ends = 0
    while claims := await desk.claim(2, queues=["short"], worker="v" * 200):
        await desk.write(*(settlement(claim, DONE, desk.now) for claim in claims))
        ends += len(claims)
    assert ends == 2_997
    assert Path(f"{path}-claims").stat().st_size <= SIZE
    image = await crash_image(path, tmp_path / "image")
    assert [claim.task.id for claim in await image.store.lost(9)] == ["t0", "t1", "t2"]
    await image.assert_counts_are_true()
    await image.store.close()


@pytest.mark.parametrize("torn", [b"", b"[", b'["x",1]\n', b"\x00" * 100, b'\xff\n[]\n{"a":1}\n'])
async def test_a_torn_log_of_claims_is_read_as_far_as_it_goes(
    desk: Desk, path: Path, tmp_path: Path, torn: bytes
) -> None:
    await desk.accept("a", "b")
    await desk.claim(1)
    log = Path(f"{path}-claims")
    log.write_bytes(log.read_bytes() + torn)
    image = await crash_image(path, tmp_path / "image")
    assert [claim.task.id for claim in await image.store.lost(5)] == ["a"]
    await image.store.close()


async def test_after_a_power_cut_a_claim_that_was_not_written_may_be_forgotten_and_its_task_waits(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("a")
    await desk.claim(1)
    Path(f"{path}-claims").write_bytes(b"")
    image = await crash_image(path, tmp_path / "image")
    assert await image.store.lost(5) == []
    assert (await image.claim_one()).task.attempts == 1
    await image.store.close()


async def test_a_stop_leaves_all_claims_in_the_file_and_no_log_of_them(desk: Desk, path: Path) -> None:
    await desk.accept("a", "b")
    await desk.claim(1)
    await desk.store.close()
    assert in_file(path) == {"a": (1, 1), "b": (0, 0)}
    assert not Path(f"{path}-claims").exists()


async def test_a_claim_that_cannot_be_noted_is_written_before_it_is_answered(
    desk: Desk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.accept("a")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(claimlog, "_write_at", full)
    await desk.claim_one()
    assert in_file(path) == {"a": (1, 1)}


async def test_while_the_disk_is_full_claims_that_are_not_written_are_still_told(
    desk: Desk, writers: list[apsw.Connection]
) -> None:
    await desk.accept("a", "b")
    claim = await desk.claim_one()
    pages = writers[-1].execute("PRAGMA page_count").get
    writers[-1].execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StorageFull):
        await desk.insert("c", payload=b" " * 2**20)
    assert await desk.get("a") == claim.task
    assert [task.id for task in await desk.listed()] == ["b", "a"]
    writers[-1].execute("PRAGMA max_page_count = 1000000").fetchall()
    assert (await desk.listed())[1] == claim.task


async def test_a_commit_that_fails_leaves_the_claims_as_they_were(
    desk: Desk, writers: list[apsw.Connection]
) -> None:
    await desk.accept("a", "b", "c")
    claims = await desk.claim(2)
    big = Outcome(Kind.DONE, result=b'"' + b"x" * 2**20 + b'"')
    pages = writers[-1].execute("PRAGMA page_count").get
    writers[-1].execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StorageFull):
        await desk.write(*(settlement(claim, big, desk.now) for claim in claims))
    writers[-1].execute("PRAGMA max_page_count = 1000000").fetchall()
    assert [claim.task.id for claim in await desk.claim(5)] == ["c"]
    assert (
        await desk.write(*(settlement(claim, big, desk.now) for claim in claims))
        == [Settled(Status.DONE)] * 2
    )
    await desk.assert_counts_are_true()


async def test_a_store_that_fails_hands_nothing_out_that_it_cannot_write(
    desk: Desk, writers: list[apsw.Connection]
) -> None:
    await desk.accept("a")
    pages = writers[-1].execute("PRAGMA page_count").get
    writers[-1].execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StorageFull):
        await desk.insert("b", payload=b" " * 2**20)
    writers[-1].set_authorizer(_deny_updates)
    with pytest.raises(StorageError):
        await desk.claim(1)
    writers[-1].set_authorizer(None)
    assert [claim.task.id for claim in await desk.claim(1)] == ["a"]


def _deny_updates(operation: int, *_: object) -> int:
    return apsw.SQLITE_DENY if operation == apsw.SQLITE_UPDATE else apsw.SQLITE_OK
