"""SQLite: what a new process finds, after a stop and after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from desk import CANCELLED, DONE, FAILED, FAILED_FOR_GOOD, LOST, RELEASED, Desk, OpenDesk, expect, ids_of, new

from jobpipe.core.errors import LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, Status
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Cancelled, Extended, Settled


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobpipe.db"


@pytest.fixture
def url(path: Path) -> str:
    return f"sqlite:///{path}"


class Commits:
    """The commits of a connection, counted, and held back while `hold` is on."""

    def __init__(self, connection: apsw.Connection) -> None:
        self.n = 0
        self._reached = threading.Event()
        self._go = threading.Event()
        self._go.set()
        connection.set_commit_hook(self._hook)

    def hold(self) -> None:
        self._reached.clear()
        self._go.clear()

    async def held(self) -> None:
        """Sleep until a commit is held back."""
        assert await asyncio.to_thread(self._reached.wait, 10)

    def release(self) -> None:
        self._go.set()

    def _hook(self) -> bool:
        self.n += 1
        self._reached.set()
        self._go.wait(10)
        return False


@pytest.fixture
def commits(desk: Desk, writers: list[apsw.Connection]) -> Iterator[Commits]:
    watched = Commits(writers[0])
    yield watched
    watched.release()


@pytest.fixture
async def desk(writers: list[apsw.Connection], open_desk: OpenDesk) -> Desk:
    return await open_desk()


async def all_kinds(desk: Desk) -> None:
    await desk.finish("done", Outcome(Kind.DONE, result=b"1.10"), payload=b"[1e999]")
    await desk.finish("failed", FAILED_FOR_GOOD, timeout=0.1)
    await desk.settle(await desk.start("retrying"), FAILED)
    await desk.accept(new("queued", payload=rb'"\u0000"', priority=7), new("future", run_at=desk.now + 9000))
    await desk.accept("cancelled")
    await desk.cancel("cancelled")
    claim = await desk.start("stopped")
    await desk.cancel("stopped")
    await desk.settle(claim, CANCELLED, task=await desk.get("stopped"))


async def test_everything_is_there_again_after_a_stop(desk: Desk, open_desk: OpenDesk) -> None:
    await all_kinds(desk)
    tasks = await desk.listed()
    counts, queues = await desk.store.counts(), await desk.store.queues(desk.now)
    await desk.store.close()
    again = await open_desk()
    assert await again.listed() == tasks
    assert await again.store.counts() == counts
    assert await again.store.queues(desk.now) == queues
    assert await again.store.next_prunable() == (desk.now, desk.now)
    await again.assert_counts_are_true()


async def test_claims_go_on_in_the_same_order_after_a_stop(desk: Desk, open_desk: OpenDesk) -> None:
    await desk.accept("a", new("late", run_at=desk.now + 5000), new("c", priority=5), "b", queue="q")
    await desk.store.close()
    again = await open_desk()
    (later,) = await again.accept("d")
    assert later.seq > 4
    answer = await again.ask(10)
    assert (ids_of(answer.claims), answer.next_due) == (["c", "a", "b", "d"], desk.now + 5000)


async def test_ids_and_bounds_hold_after_a_stop(desk: Desk, open_desk: OpenDesk) -> None:
    await desk.accept("a", "b")
    await desk.finish("done")
    await desk.store.close()
    again = await open_desk(capacity=3, max_queues=2)
    answers = await again.insert("a", "done", "c", "d", new("e", queue="third"))
    assert [getattr(answer, "code", "task") for answer in answers] == [
        "task_exists", "task_exists", "task", "queue_full", "too_many_queues",
    ]  # fmt: skip


@pytest.mark.parametrize("outcome", [DONE, FAILED, FAILED_FOR_GOOD, RELEASED])
async def test_the_same_settle_gets_the_same_answer_after_a_stop(
    desk: Desk, open_desk: OpenDesk, outcome: Outcome
) -> None:
    claim = await desk.start("a")
    status = expect(Settled, await desk.settle(claim, outcome)).status
    await desk.store.close()
    again = await open_desk()
    assert await again.settle(claim, outcome) == Settled(status, repeated=True)


async def test_a_rescued_holder_is_told_so_after_a_stop_too(desk: Desk, open_desk: OpenDesk) -> None:
    claim = await desk.start("a")
    await desk.settle(claim, LOST, rescue=True)
    await desk.store.close()
    again = await open_desk()
    expect(LeaseLost, await again.settle(claim, DONE))


# --- claims of an earlier boot ---


@pytest.mark.parametrize("lease_s", [None, 30.0])
async def test_a_local_claim_of_an_earlier_boot_is_lost_at_once(
    desk: Desk, open_desk: OpenDesk, lease_s: float | None
) -> None:
    await desk.accept("a")
    claim = await desk.claim_one(lease_s=lease_s)
    assert await desk.store.lost(10) == []
    await desk.store.close()
    again = await open_desk()
    assert await again.store.next_expiry() == 0
    (lost,) = await again.store.lost(10)
    assert (lost.task, lost.lease_id, lost.orphaned) == (claim.task, claim.lease_id, True)
    assert await again.settle(lost, LOST, rescue=True) == Settled(Status.QUEUED)
    assert await again.store.lost(10) == []
    task = (await again.claim_one()).task
    assert (task.attempts, task.failures, task.lost) == (2, 0, 1)


async def test_a_local_claim_of_this_boot_is_not_lost(desk: Desk, open_desk: OpenDesk) -> None:
    await desk.store.close()
    again = await open_desk()
    await again.start("a")
    assert await again.store.lost(10) == []


async def test_a_remote_claim_gets_one_full_fresh_lease_after_a_restart(
    desk: Desk, clock: ManualClock, open_desk: OpenDesk
) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote(lease_s=30)
    clock.advance(29)
    await desk.store.close()
    clock.advance(3600)  # the server is away for longer than the lease
    again = await open_desk()
    assert await again.store.lost(10) == []
    assert await again.store.next_expiry() == pytest.approx(30)
    clock.advance(29.9)
    assert await again.store.lost(10) == []
    clock.advance(0.1)
    (lost,) = await again.store.lost(10)
    assert (lost.lease_id, lost.orphaned) == (claim.lease_id, False)


async def test_a_remote_holder_extends_and_settles_over_a_restart(desk: Desk, open_desk: OpenDesk) -> None:
    await desk.accept("a", "b")
    a, b = await desk.claim_remote(2)
    await desk.cancel("b")
    await desk.store.close()
    again = await open_desk()
    assert expect(Extended, await again.extend(a)).cancel_requested is False
    assert expect(Extended, await again.extend(b)).cancel_requested is True
    assert await again.settle(a, DONE) == Settled(Status.DONE)
    running = await again.get("b")
    assert await again.settle(b, CANCELLED, task=running) == Settled(Status.CANCELLED)
    await again.assert_counts_are_true()


async def test_a_remote_claim_without_end_is_not_kept_for_ever_by_a_restart(
    desk: Desk, open_desk: OpenDesk
) -> None:
    await desk.accept("a")
    await desk.claim(lease_s=None, local=False)
    await desk.store.close()
    again = await open_desk()
    assert [lost.task.id for lost in await again.store.lost(10)] == ["a"]


async def test_a_running_task_can_be_cancelled_after_a_restart(desk: Desk, open_desk: OpenDesk) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote()
    await desk.store.close()
    again = await open_desk()
    (answer,) = await again.cancel("a")
    assert expect(Cancelled, answer).lease_id == claim.lease_id


async def test_a_lease_id_is_new_over_restarts(desk: Desk, open_desk: OpenDesk) -> None:
    seen: set[str] = set()
    await desk.accept("a")
    for _ in range(4):
        claim = await desk.claim_one()
        seen.add(claim.lease_id)
        await desk.settle(claim, RELEASED)
        await desk.store.close()
        desk = await open_desk()
    assert len(seen) == 4


async def test_orphans_come_before_leases_that_ran_out(
    desk: Desk, clock: ManualClock, open_desk: OpenDesk
) -> None:
    await desk.accept("remote", "local")
    await desk.claim_remote(1, lease_s=5)
    await desk.claim(1)
    await desk.store.close()
    again = await open_desk()
    clock.advance(6)
    assert [lost.task.id for lost in await again.store.lost(10)] == ["local", "remote"]
    assert [lost.task.id for lost in await again.store.lost(1)] == ["local"]


# --- crashes ---


async def crash_image(path: Path, folder: Path, claims: bytes | None = None) -> Desk:
    """A store over the files as a kill at this moment would leave them, perhaps with another log of claims."""
    folder.mkdir()
    for suffix in ("", "-wal", "-claims"):
        shutil.copy(f"{path}{suffix}", folder)
    if claims is not None:
        (folder / f"{path.name}-claims").write_bytes(claims)
    clock = ManualClock()
    store = open_storage(f"sqlite:///{folder / path.name}", capacity=10**6, clock=clock)
    await store.open()
    return Desk(store, clock)


async def test_a_kill_before_the_first_checkpoint_loses_nothing_that_was_answered(
    desk: Desk, path: Path, tmp_path: Path
) -> None:
    await all_kinds(desk)
    await desk.claim(1)
    tasks = await desk.listed()
    image = await crash_image(path, tmp_path / "image")
    assert await image.listed() == tasks
    await image.assert_counts_are_true()
    await image.store.close()


async def test_a_kill_within_a_commit_leaves_all_that_was_answered_and_true_counts(
    desk: Desk, commits: Commits, path: Path, tmp_path: Path
) -> None:
    for i in range(20):
        await desk.accept(f"answered{i}")
    claims = await desk.claim(3)
    await desk.settle(claims[0], DONE)
    commits.hold()
    unanswered = [asyncio.ensure_future(desk.insert(f"unanswered{i}")) for i in range(5)]
    await commits.held()
    image = await crash_image(path, tmp_path / "image")
    assert not any(call.done() for call in unanswered)
    commits.release()
    await asyncio.gather(*unanswered)
    tasks = {task.id: task.status for task in await image.listed()}
    assert {f"answered{i}" for i in range(20)} <= set(tasks)
    assert tasks["answered0"] is Status.DONE
    assert sorted(lost.task.id for lost in await image.store.lost(10)) == ["answered1", "answered2"]
    await image.assert_counts_are_true()
    await image.store.close()


async def test_claims_that_the_version_before_had_noted_are_read(
    desk: Desk, commits: Commits, path: Path, tmp_path: Path
) -> None:
    """Its lines end with the attempts: there were no random parts in the ids of leases."""
    await desk.accept("a", "b", "c")
    commits.hold()
    await desk.claim(2)
    (line,) = map(json.loads, Path(f"{path}-claims").read_bytes().rstrip(b"\0").splitlines())
    old = json.dumps(line[:7]).encode() + b"\n"
    image = await crash_image(path, tmp_path / "image", old)
    none = await crash_image(path, tmp_path / "none", b"")
    commits.release()
    assert {task.id: (task.status, task.attempts) for task in await image.listed()} == {
        "a": (Status.RUNNING, 1), "b": (Status.RUNNING, 1), "c": (Status.QUEUED, 0)
    }  # fmt: skip
    lost = await image.store.lost(10)
    assert sorted(one.task.id for one in lost) == ["a", "b"]
    assert len({one.lease_id for one in lost}) == 2
    await image.assert_counts_are_true()
    assert {task.status for task in await none.listed()} == {Status.QUEUED}, "it was in the log alone"
    await image.store.close()
    await none.store.close()


KILLED = """
import asyncio, itertools, sys
from jobpipe.core.task import NewTask
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest

async def post(store, i):
    await store.insert([NewTask(f"t{i}", "h", b"1" * (i % 3000))], 0)
    print(f"t{i}", flush=True)

async def main():
    store = open_storage(sys.argv[1], capacity=10**9)
    await store.open()
    for i in itertools.count(0, 20):
        await asyncio.gather(*(post(store, i + n) for n in range(20)), store.claim(ClaimRequest(3, "w"), 0))

asyncio.run(main())
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("answered", [1, 900])
async def test_a_killed_process_leaves_every_answered_task_and_no_lock(
    url: str, open_desk: OpenDesk, answered: int
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(answered)]
    process.send_signal(signal.SIGKILL)
    told += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    ids = [line.decode().strip() for line in told if line.endswith(b"\n")]
    assert len(ids) >= answered
    desk = await open_desk()
    assert None not in await desk.store.get(ids)
    await desk.assert_counts_are_true()
    running = (await desk.store.counts())[Status.RUNNING]
    lost = await desk.store.lost(10**6)
    assert len(lost) == running
    assert all(claim.orphaned for claim in lost)
    claims: list[Claim] = await desk.claim(10**6)
    assert len(claims) + running == len(await desk.listed())


# --- one commit for all that wait ---


async def test_fifty_calls_that_wait_are_one_commit(desk: Desk, commits: Commits) -> None:
    claim = await desk.start("running")
    before = commits.n
    commits.hold()
    first = asyncio.ensure_future(desk.insert("first"))
    await commits.held()
    waiting = [asyncio.ensure_future(desk.insert(f"t{i}")) for i in range(50)]
    waiting.append(asyncio.ensure_future(desk.settle(claim)))
    waiting.append(asyncio.ensure_future(desk.claim(10)))
    waiting.append(asyncio.ensure_future(desk.cancel("t7")))
    await asyncio.sleep(0)
    commits.release()
    await asyncio.gather(first, *waiting)
    assert commits.n - before == 2
    await desk.assert_counts_are_true()


async def test_no_answer_goes_out_before_its_commit(desk: Desk, commits: Commits) -> None:
    commits.hold()
    inserting = asyncio.ensure_future(desk.insert("a"))
    await commits.held()
    assert await desk.listed() == []
    assert not inserting.done()
    commits.release()
    await inserting
    assert ids_of(await desk.listed()) == ["a"]


async def test_an_idle_store_commits_a_single_call_by_itself(desk: Desk, commits: Commits) -> None:
    for i in range(5):
        await desk.accept(f"t{i}")
        assert commits.n == i + 1


async def test_reading_commits_nothing(desk: Desk, commits: Commits) -> None:
    await desk.accept("a")
    (claim,) = await desk.claim_remote()
    before = commits.n
    await desk.extend(claim)
    await desk.get("a")
    await desk.listed()
    await desk.store.counts()
    await desk.store.queues(desk.now)
    await desk.store.lost(5)
    await desk.store.next_prunable()
    await desk.store.check()
    assert commits.n == before
