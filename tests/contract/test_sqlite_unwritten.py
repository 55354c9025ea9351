"""SQLite: a claim of the server's own workers is answered at once and written a moment later, or with its end."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import apsw
import pytest
from desk import DONE, FAILED, LOST, RELEASED, Desk, OpenDesk, expect, settlement
from test_sqlite_recovery import crash_image

from jobpipe.clock import ManualClock
from jobpipe.core.errors import LeaseLost, QueueFull, StorageError, StorageFull
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status, Task
from jobpipe.storage import open_storage
from jobpipe.storage.base import Cancelled, Settled

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
    desk: Desk, path: Path
) -> None:
    await desk.accept("a")
    claim = await desk.claim_one()
    assert (claim.task.status, claim.task.attempts, claim.task.started_at) == (Status.RUNNING, 1, desk.now)
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
    await desk.settle(first, RELEASED)
    second = await desk.claim_one()
    expect(LeaseLost, await desk.settle(first, RELEASED))
    await ended(desk, second)


async def test_a_claim_of_a_worker_elsewhere_is_in_the_file_when_it_is_answered(
    desk: Desk, path: Path
) -> None:
    await desk.accept("a")
    await desk.claim_remote()
    assert in_file(path) == {"a": (1, 1)}


# --- faults ---


async def test_what_a_killed_server_had_not_written_waits_and_runs_again(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("a", "b")
    await desk.claim(1)
    await desk.get("a")
    claim = await desk.claim_one()
    image = await crash_image(path, tmp_path / "image")
    assert [lost.task.id for lost in await image.store.lost(5)] == ["a"]
    await image.assert_counts_are_true()
    again = await image.claim_one()
    assert (again.task.id, again.task.attempts) == (claim.task.id, 1)
    await image.store.close()


async def test_after_a_kill_what_waited_is_written_before_it_runs(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    """It may be what killed the server, and would do it for ever if its runs were never counted."""
    await desk.accept("a")
    image = await crash_image(path, tmp_path / "image")
    await image.claim_one()
    assert in_file(tmp_path / "image" / path.name) == {"a": (1, 1)}
    await image.accept("b", "c")
    await image.claim_one()  # which shows that no more of before comes first
    await image.claim_one()
    assert in_file(tmp_path / "image" / path.name) == {"a": (1, 1), "b": (1, 1), "c": (0, 0)}
    await image.store.close()


async def test_a_task_of_before_a_kill_that_comes_due_later_is_written_before_it_runs(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("later", run_at=desk.now + 1000)
    image = await crash_image(path, tmp_path / "image")
    await image.accept("a", "b")
    await image.claim_one()
    await image.claim_one()
    image.clock.advance(10)
    await image.accept("c")
    assert [claim.task.id for claim in await image.claim(2)] == ["later", "c"]
    found = in_file(tmp_path / "image" / path.name)
    assert (found["later"], found["c"]) == ((1, 1), (1, 1))
    await image.assert_counts_are_true()
    await image.store.close()


async def test_after_a_kill_another_claim_beside_those_that_waited_takes_them_all_in_order(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await desk.accept("old1", "old2")
    image = await crash_image(path, tmp_path / "image")
    await image.accept("new")
    assert [claim.task.id for claim in await image.claim(5)] == ["old1", "old2", "new"]
    await image.assert_counts_are_true()
    await image.store.close()


async def test_after_a_stop_nothing_is_suspect(desk: Desk, path: Path, tmp_path: Path) -> None:
    await desk.accept("a", "b")
    await desk.claim(1)
    await desk.store.close()
    assert in_file(path) == {"a": (1, 1), "b": (0, 0)}
    shutil.copy(path, tmp_path / "again.db")
    store = open_storage(f"sqlite:///{tmp_path / 'again.db'}", capacity=10, clock=ManualClock())
    await store.open()
    again = Desk(store, ManualClock())
    await again.claim_one()
    assert in_file(tmp_path / "again.db") == {"a": (1, 1), "b": (0, 0)}
    await store.close()


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
