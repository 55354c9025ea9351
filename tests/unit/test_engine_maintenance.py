"""Rescuing, pruning, and the alarm that drives them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from jobpipe.core.errors import LeaseLost, StorageError
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine import maintenance
from jobpipe.engine.maintenance import Alarm, Pruner, Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import LostClaim, Settled
from jobpipe.storage.contract import Storage

DONE = Outcome(Kind.DONE)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def storage(clock: ManualClock) -> Storage:
    return open_storage("memory:", capacity=10_000, clock=clock)


@pytest.fixture
async def queue(storage: Storage, clock: ManualClock) -> AsyncIterator[TaskQueue]:
    queue = TaskQueue(storage, clock=clock, default_timeout=3600.0, random=lambda: 0.0)
    await queue.open()
    yield queue
    await queue.close()


@pytest.fixture
def rescuer(queue: TaskQueue, storage: Storage) -> Rescuer:
    return Rescuer(queue, storage)


async def get(queue: TaskQueue, id: str) -> Task:
    (task,) = await queue.get([id])
    assert task is not None
    return task


async def lease(
    queue: TaskQueue, *ids: str, lease_s: float = 30.0, timeout: float | None = None
) -> list[Claim]:
    await queue.enqueue([NewTask(id_, "h", timeout=timeout) for id_ in ids])
    return await queue.claim("w", len(ids), lease_s=lease_s, local=False)


# --- the rescuer ---


async def test_nothing_is_rescued_while_every_lease_holds(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    assert await rescuer.run_once(clock.now()) is None
    await lease(queue, "a", lease_s=30)
    assert await rescuer.run_once(clock.now()) == pytest.approx(30)
    assert (await get(queue, "a")).status is Status.RUNNING
    assert rescuer.rescued == 0


async def test_a_lease_that_ran_out_is_a_loss_and_its_holder_learns_it(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    (claim,) = await lease(queue, "a", lease_s=30)
    clock.advance(30)
    assert await rescuer.run_once(clock.now()) is None
    task = await get(queue, "a")
    assert (task.status, task.lost, task.failures, task.attempts) == (Status.QUEUED, 1, 0, 1)
    assert task.last_error is not None
    assert task.last_error.type == "worker_lost"
    (answer,) = await queue.settle([Report("a", claim.lease_id, DONE)])
    assert isinstance(answer, LeaseLost)
    assert rescuer.rescued == 1


async def test_the_first_loss_is_due_at_once_and_the_next_with_backoff(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    await lease(queue, "a", lease_s=30)
    clock.advance(30)
    await rescuer.run_once(clock.now())
    assert len(await queue.claim("w", 1, lease_s=30, local=False)) == 1
    clock.advance(30)
    await rescuer.run_once(clock.now())
    assert (await get(queue, "a")).run_at == clock.now() + 200
    clock.advance(0.2)
    (claim,) = await queue.claim("w", 1, lease_s=30, local=False)
    assert claim.alone  # it took two workers with it
    clock.advance(30)
    await rescuer.run_once(clock.now())
    task = await get(queue, "a")
    assert (task.status, task.lost, task.attempts) == (Status.FAILED, 3, 3)


@pytest.mark.parametrize(
    ("timeout", "kind"), [(20.0, "timed_out"), (None, "worker_lost"), (31.0, "worker_lost")]
)
async def test_a_run_that_used_up_its_time_is_timed_out_not_lost(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock, timeout: float | None, kind: str
) -> None:
    await lease(queue, "a", lease_s=30, timeout=timeout)
    clock.advance(30)
    await rescuer.run_once(clock.now())
    task = await get(queue, "a")
    assert task.last_error is not None
    assert task.last_error.type == kind
    assert (task.failures, task.lost) == ((1, 0) if kind == "timed_out" else (0, 1))


@pytest.mark.parametrize("days", [-1, 1])
async def test_a_jump_of_the_wall_clock_neither_expires_nor_times_out(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock, days: int
) -> None:
    await lease(queue, "a", lease_s=30)
    clock.jump(days * 86_400)
    assert await rescuer.run_once(clock.now()) == pytest.approx(30)
    clock.advance(30)
    await rescuer.run_once(clock.now())
    assert (await get(queue, "a")).lost == 1


async def test_a_task_whose_cancelling_was_requested_ends_as_cancelled(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    await lease(queue, "a")
    await queue.cancel(["a"])
    clock.advance(30)
    await rescuer.run_once(clock.now())
    task = await get(queue, "a")
    assert (task.status, task.lost, task.attempts) == (Status.CANCELLED, 0, 1)


async def test_many_losses_are_rescued_in_slices_with_a_pause_between(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "RESCUE_SLICE", 4)
    await lease(queue, *(f"t{i}" for i in range(10)))
    clock.advance(30)
    pauses = [await rescuer.run_once(clock.now()) for _ in range(3)]
    assert pauses == [maintenance.PAUSE_S, maintenance.PAUSE_S, None]
    assert rescuer.rescued == 10
    assert (await queue.counts())[Status.QUEUED] == 10


async def test_a_rescue_wakes_a_worker_that_waits(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    await lease(queue, "a")
    waiting = asyncio.ensure_future(queue.claim("w2", 1, wait=None))
    await queue.counts()
    clock.advance(30)
    await rescuer.run_once(clock.now())
    (claim,) = await asyncio.wait_for(waiting, 5)
    assert (claim.task.id, claim.task.attempts) == ("a", 2)


async def test_a_heartbeat_keeps_a_claim_from_the_rescuer(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    (claim,) = await lease(queue, "a", lease_s=30)
    for _ in range(10):
        clock.advance(29)
        await queue.extend([Heartbeat("a", claim.lease_id, 30)])
        assert await rescuer.run_once(clock.now()) == pytest.approx(30)
    (answer,) = await queue.settle([Report("a", claim.lease_id, DONE)])
    assert answer == Settled(Status.DONE)


async def test_heartbeats_do_not_keep_a_run_beyond_its_timeout_and_one_lease(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    (claim,) = await lease(queue, "a", lease_s=30, timeout=60)
    for _ in range(20):
        clock.advance(10)
        await queue.extend([Heartbeat("a", claim.lease_id, 30)])
        await rescuer.run_once(clock.now())
        if (await get(queue, "a")).status is not Status.RUNNING:
            break
    task = await get(queue, "a")
    assert task.last_error is not None
    assert (task.last_error.type, task.failures, task.lost) == ("timed_out", 1, 0)
    assert clock.monotonic() - 1000 <= 60 + 30


async def test_a_claim_settled_between_the_look_and_the_rescue_was_not_lost(
    rescuer: Rescuer, queue: TaskQueue, storage: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = await lease(queue, "a")
    clock.advance(30)
    look = storage.lost
    told: list[object] = []
    rescuer.on_rescue = told.append

    async def settled_meanwhile(limit: int) -> list[LostClaim]:
        lost = await look(limit)
        await queue.settle([Report("a", claim.lease_id, DONE)])
        return lost

    monkeypatch.setattr(storage, "lost", settled_meanwhile)
    await rescuer.run_once(clock.now())
    task = await get(queue, "a")
    assert (task.status, task.lost) == (Status.DONE, 0)
    assert (rescuer.rescued, told) == (0, [])


async def test_the_failure_that_ends_a_task_tells_who_waits_for_it(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    await queue.enqueue([NewTask("a", "h", max_retries=0, timeout=5)])
    await queue.claim("w", 1, lease_s=30, local=False)
    waiting = asyncio.ensure_future(queue.wait_finished("a", 10))
    await queue.counts()
    clock.advance(30)
    await rescuer.run_once(clock.now())
    task = await asyncio.wait_for(waiting, 5)
    assert task is not None
    assert task.status is Status.FAILED


# --- the pruner ---


async def finish(queue: TaskQueue, id: str, kind: Kind = Kind.DONE) -> None:
    await queue.enqueue([NewTask(id, "h")])
    (claim,) = await queue.claim("w", 1)
    await queue.settle([Report(id, claim.lease_id, Outcome(kind, retryable=False))])


async def ids(queue: TaskQueue, *asked: str) -> list[str]:
    return [task.id for task in await queue.get(asked) if task is not None]


async def test_each_kind_is_kept_for_its_own_retention(
    queue: TaskQueue, storage: Storage, clock: ManualClock
) -> None:
    pruner = Pruner(storage, retention=100, retention_failed=1000)
    await finish(queue, "done")
    await finish(queue, "failed", Kind.FAILED)
    await queue.enqueue([NewTask("cancelled", "h")])
    await queue.cancel(["cancelled"])
    everything = ("done", "failed", "cancelled")
    clock.advance(99.999)
    await pruner.run_once(clock.now())
    assert len(await ids(queue, *everything)) == 3
    clock.advance(0.001)
    await pruner.run_once(clock.now())
    assert await ids(queue, *everything) == ["failed"]
    clock.advance(899.999)
    await pruner.run_once(clock.now())
    assert await ids(queue, *everything) == ["failed"]
    clock.advance(0.001)
    await pruner.run_once(clock.now())
    assert await ids(queue, *everything) == []
    assert pruner.pruned == 3


async def test_infinite_retention_keeps_everything_and_never_asks_to_be_called(
    queue: TaskQueue, storage: Storage, clock: ManualClock
) -> None:
    pruner = Pruner(storage, float("inf"), float("inf"))
    await finish(queue, "done")
    await finish(queue, "failed", Kind.FAILED)
    clock.advance(10**9)
    assert await pruner.run_once(clock.now()) is None
    assert pruner.pruned == 0


async def test_no_retention_keeps_nothing_finished(
    queue: TaskQueue, storage: Storage, clock: ManualClock
) -> None:
    pruner = Pruner(storage, 0, 0)
    await finish(queue, "done")
    await finish(queue, "failed", Kind.FAILED)
    assert await pruner.run_once(clock.now()) is None
    assert await ids(queue, "done", "failed") == []


async def test_the_pruner_asks_to_be_called_when_the_next_task_is_old_enough(
    queue: TaskQueue, storage: Storage, clock: ManualClock
) -> None:
    pruner = Pruner(storage, retention=100, retention_failed=20)
    assert await pruner.run_once(clock.now()) is None
    await finish(queue, "done")
    clock.advance(50)
    await finish(queue, "failed", Kind.FAILED)
    for _ in range(2):
        pause = await pruner.run_once(clock.now())
        assert pause is not None
        before = len(await ids(queue, "done", "failed"))
        clock.advance(pause)
        await pruner.run_once(clock.now())
        assert len(await ids(queue, "done", "failed")) == before - 1
    assert await pruner.run_once(clock.now()) is None


async def test_many_tasks_are_pruned_in_slices_with_a_pause_between(
    queue: TaskQueue, storage: Storage, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "PRUNE_SLICE", 4)
    pruner = Pruner(storage, 10, 10)
    for i in range(10):
        await finish(queue, f"t{i}")
    clock.advance(10)
    pauses = [await pruner.run_once(clock.now()) for _ in range(3)]
    assert pauses == [maintenance.PAUSE_S, maintenance.PAUSE_S, None]
    assert pruner.pruned == 10


async def test_a_queue_tells_when_something_finished_for_the_pruner(queue: TaskQueue) -> None:
    told: list[bool] = []
    queue.listen_to_ends(lambda: told.append(True))
    await finish(queue, "done")
    assert len(told) == 1
    await queue.enqueue([NewTask("a", "h")])
    await queue.cancel(["a"])
    assert len(told) == 2


# --- the alarm ---


class Chore:
    """Something to do, which tells when it ran and answers or raises what it is told to."""

    def __init__(self) -> None:
        self.runs: asyncio.Queue[int] = asyncio.Queue()
        self.answer: float | Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def run_once(self, now: int) -> float | None:
        self.runs.put_nowait(now)
        await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def ran(self) -> int:
        return await asyncio.wait_for(self.runs.get(), 5)


@pytest.fixture
def chore() -> Chore:
    return Chore()


@pytest.fixture
async def alarm(chore: Chore, clock: ManualClock) -> AsyncIterator[Alarm]:
    alarm = Alarm("chore", chore.run_once, clock)
    yield alarm
    await alarm.stop()


async def asleep(alarm: Alarm) -> None:
    """Until the alarm has nothing to do but to sleep: it runs again whenever it is rung."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_first_run_is_at_once_with_the_time_of_the_clock(
    alarm: Alarm, chore: Chore, clock: ManualClock
) -> None:
    alarm.start()
    assert await chore.ran() == clock.now()


async def test_it_runs_again_when_it_said_that_there_may_be_more(alarm: Alarm, chore: Chore) -> None:
    chore.answer = 0.001
    alarm.start()
    for _ in range(4):
        await chore.ran()


async def test_it_sleeps_until_it_is_rung_when_there_will_be_nothing(alarm: Alarm, chore: Chore) -> None:
    alarm.start()
    await chore.ran()
    await asleep(alarm)
    assert chore.runs.empty()
    alarm.ring_within(0)
    await chore.ran()


async def test_an_earlier_ring_moves_the_next_run_forward_and_a_later_one_does_not_move_it_back(
    alarm: Alarm, chore: Chore
) -> None:
    chore.answer = 3600.0
    alarm.start()
    await chore.ran()
    await asleep(alarm)
    alarm.ring_within(0.002)
    alarm.ring_within(1800)
    await chore.ran()


async def test_a_ring_during_a_run_is_not_lost(alarm: Alarm, chore: Chore) -> None:
    chore.gate.clear()
    alarm.start()
    await chore.ran()
    alarm.ring_within(0)
    await asleep(alarm)
    chore.answer = 3600.0
    chore.gate.set()
    await chore.ran()


@pytest.mark.parametrize("error", [StorageError("full"), RuntimeError("a defect")])
async def test_a_run_that_fails_is_tried_again_and_told_in_the_log(
    alarm: Alarm,
    chore: Chore,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(maintenance, "FAILED_PAUSE_S", 0.001)
    chore.answer = error
    with caplog.at_level(logging.WARNING):
        alarm.start()
        for _ in range(3):
            await chore.ran()
    assert "chore" in caplog.text
    chore.answer = None
    await chore.ran()


async def test_stop_is_safe_twice_and_without_a_start(alarm: Alarm, chore: Chore) -> None:
    await alarm.stop()
    alarm.start()
    await chore.ran()
    await alarm.stop()
    await alarm.stop()
    alarm.ring_within(0)
    await asleep(alarm)
    assert chore.runs.empty()


async def test_stop_ends_a_run_that_is_under_way(alarm: Alarm, chore: Chore) -> None:
    chore.gate.clear()
    alarm.start()
    await chore.ran()
    await asyncio.wait_for(alarm.stop(), 5)


async def test_a_rescuer_driven_by_its_alarm_rings_earlier_for_a_shorter_lease(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    alarm = Alarm("rescue", rescuer.run_once, clock)
    queue.on_lease = alarm.ring_within
    alarm.start()
    await lease(queue, "long", lease_s=3600)
    await lease(queue, "short", lease_s=0.01)
    clock.advance(0.01)
    waiting = await asyncio.wait_for(queue.claim("w2", 1, wait=None), 5)
    assert [claim.task.id for claim in waiting] == ["short"]
    await alarm.stop()


async def test_a_worker_whose_lease_ran_out_is_not_given_its_task_back(
    rescuer: Rescuer, queue: TaskQueue, clock: ManualClock
) -> None:
    """It may be stopped, with its long poll still open; others come first."""
    (claim,) = await lease(queue, "a")
    assert claim.task.worker is not None
    same = asyncio.ensure_future(queue.claim(claim.task.worker, 1, lease_s=30, local=False, wait=60))
    other = asyncio.ensure_future(queue.claim("other", 1, lease_s=30, local=False, wait=60))
    await queue.counts()
    clock.advance(30)
    await rescuer.run_once(clock.now())
    assert await asyncio.wait_for(same, 5) == []
    (again,) = await asyncio.wait_for(other, 5)
    assert (again.task.id, again.task.lost) == ("a", 1)


async def test_a_stranger_under_the_id_of_an_own_worker_harms_it_not(
    queue: TaskQueue, rescuer: Rescuer, clock: ManualClock
) -> None:
    told: list[LostClaim] = []
    rescuer.on_rescue = told.append  # what kills the process
    await lease(queue, "strangers")
    assert queue.claims_of("w") == []  # nor is it lost with a process that ends
    clock.advance(31)
    await rescuer.run_once(clock.now())
    assert (await get(queue, "strangers")).lost == 1
    assert told == []
    await queue.enqueue([NewTask("own", "h")])
    (claim,) = await queue.claim("w", 1, lease_s=30.0, queues=None, local=True)
    assert queue.claims_of("w") == [(claim.task.id, claim.lease_id)]
    clock.advance(31)
    await rescuer.run_once(clock.now())
    assert [claim.task.id for claim in told] == [claim.task.id]
