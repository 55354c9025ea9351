"""TaskQueue over a store in memory: waking, racing, draining. Nothing here waits by sleeping."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from jobpipe.core.errors import (
    AlreadyFinished,
    Draining,
    Invalid,
    LeaseLost,
    NotFound,
    QueueFull,
    StorageFull,
    TaskExists,
)
from jobpipe.core.lifecycle import Kind, Outcome, Policy
from jobpipe.core.retry import RetryPolicy
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import ManualClock, SystemClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import (
    Cancelled,
    ClaimAnswer,
    ClaimRequest,
    Extended,
    Settled,
)
from jobpipe.storage.contract import Storage

T = TypeVar("T")

DONE = Outcome(Kind.DONE, result=b'"ok"')
FAILED = Outcome(Kind.FAILED, error_type="ValueError", message="no")
FOR_GOOD = Outcome(Kind.FAILED, retryable=False)
AT_ONCE = Outcome(Kind.FAILED, retry_in=0.0)
RELEASED = Outcome(Kind.RELEASED)


class Spy:
    """A storage that counts looks for due tasks, and holds calls back or fails them when told to."""

    def __init__(self, inner: Storage) -> None:
        self._inner = inner
        self.looks = 0
        self.fail: Exception | None = None
        """Raised by the next claim, in place of asking."""
        self._gates: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._gates:
            return method

        async def held(*arguments: Any) -> Any:
            answer = await method(*arguments)
            return await self._hold(name, answer)

        return held

    async def claim(self, request: ClaimRequest, now: int) -> ClaimAnswer:
        self.looks += 1
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        return await self._hold("claim", await self._inner.claim(request, now))

    def hold(self, name: str) -> tuple[asyncio.Event, asyncio.Event]:
        """Hold back the answers of a method, which are stored by then: (one is held, let them go)."""
        self._gates[name] = (asyncio.Event(), asyncio.Event())
        return self._gates[name]

    async def _hold(self, name: str, answer: T) -> T:
        if name in self._gates:
            held, go = self._gates[name]
            held.set()
            await go.wait()
        return answer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def spy(clock: ManualClock) -> Spy:
    return Spy(open_storage("memory:", capacity=100, clock=clock))


@pytest.fixture
async def queue(spy: Spy, clock: ManualClock) -> AsyncIterator[TaskQueue]:
    policy = Policy(retry=RetryPolicy(base=0.01, jitter=0.0))
    queue = TaskQueue(spy, policy=policy, clock=clock, random=lambda: 0.0)  # type: ignore[arg-type]
    await queue.open()
    yield queue
    await queue.close()


async def quiet(queue: TaskQueue) -> None:
    """Until every call that was handed in before has been served and answered."""
    for _ in range(4):
        await queue.counts()


async def soon(awaitable: Awaitable[T]) -> T:
    return await asyncio.wait_for(awaitable, 5)


async def enqueue(queue: TaskQueue, /, *ids: str, **fields: Any) -> None:
    answers = await queue.enqueue([NewTask(id_, "h", **fields) for id_ in ids])
    assert all(isinstance(answer, Task) for answer in answers), answers


async def claim_one(queue: TaskQueue, /, **wishes: Any) -> Claim:
    (claim,) = await queue.claim("w", 1, **wishes)
    return claim


async def start(queue: TaskQueue, id: str, /, **fields: Any) -> Claim:
    await enqueue(queue, id, **fields)
    return await claim_one(queue)


async def settle(queue: TaskQueue, claim: Claim, outcome: Outcome = DONE) -> object:
    (answer,) = await queue.settle([Report(claim.task.id, claim.lease_id, outcome)])
    return answer


async def get(queue: TaskQueue, id: str) -> Task:
    (task,) = await queue.get([id])
    assert task is not None
    return task


class Waiting:
    """A worker that waits for a task, and whether it was given one."""

    def __init__(self, queue: TaskQueue, *queues: str, limit: int = 1, wait: float | None = None) -> None:
        chosen = frozenset(queues) if queues else None
        self.task = asyncio.ensure_future(queue.claim("w", limit, queues=chosen, wait=wait))

    @property
    def done(self) -> bool:
        return self.task.done()

    async def ids(self) -> list[str]:
        return [claim.task.id for claim in await soon(self.task)]

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


async def line(queue: TaskQueue, n: int, *queues: str) -> list[Waiting]:
    """`n` workers that have looked, in this order, and sleep."""
    workers = []
    for _ in range(n):
        workers.append(Waiting(queue, *queues))
        await quiet(queue)
    return workers


async def send_home(workers: list[Waiting]) -> None:
    for worker in workers:
        await worker.cancel()


# --- claims that wait ---


async def test_a_waiting_worker_gets_a_task_as_it_is_enqueued(queue: TaskQueue) -> None:
    (worker,) = await line(queue, 1)
    assert not worker.done
    await enqueue(queue, "a")
    assert await worker.ids() == ["a"]


async def test_workers_are_served_in_the_order_of_their_arrival(queue: TaskQueue) -> None:
    workers = await line(queue, 4)
    for i, worker in enumerate(workers):
        await enqueue(queue, f"t{i}")
        assert await worker.ids() == [f"t{i}"]
        assert not any(later.done for later in workers[i + 1 :])


async def test_one_due_task_wakes_one_worker_and_not_the_crowd(queue: TaskQueue, spy: Spy) -> None:
    workers = await line(queue, 10)
    looks = spy.looks
    await enqueue(queue, "a")
    await workers[0].ids()
    await quiet(queue)
    assert spy.looks - looks == 1
    await send_home(workers)


async def test_a_batch_wakes_as_many_workers_as_it_has_tasks(queue: TaskQueue) -> None:
    workers = await line(queue, 5)
    await enqueue(queue, "a", "b", "c")
    await soon(asyncio.gather(*(worker.task for worker in workers[:3])))
    await quiet(queue)
    assert [worker.done for worker in workers] == [True, True, True, False, False]
    await send_home(workers)


async def test_what_a_woken_worker_leaves_goes_to_the_next(queue: TaskQueue) -> None:
    big = Waiting(queue, limit=2)
    await quiet(queue)
    small = await line(queue, 2)
    await enqueue(queue, "a", "b", "c", "d")
    assert await big.ids() == ["a", "b"]
    assert sorted([*(await small[0].ids()), *(await small[1].ids())]) == ["c", "d"]


async def test_only_workers_of_the_queue_are_woken(queue: TaskQueue, spy: Spy) -> None:
    (a,) = await line(queue, 1, "a")
    (b,) = await line(queue, 1, "b", "c")
    looks = spy.looks
    await enqueue(queue, "t", queue="c")
    assert await b.ids() == ["t"]
    assert not a.done
    assert spy.looks - looks == 1
    await send_home([a])


async def test_a_task_enqueued_between_look_and_sleep_is_seen(queue: TaskQueue, spy: Spy) -> None:
    held, go = spy.hold("claim")
    worker = Waiting(queue)
    await soon(held.wait())  # it looked and found nothing, and does not know it yet
    await enqueue(queue, "a")
    go.set()
    assert await worker.ids() == ["a"]


async def test_a_claim_that_does_not_wait_answers_at_once(queue: TaskQueue) -> None:
    assert await queue.claim("w", 1) == []
    await enqueue(queue, "a", run_at=10**15)
    assert await queue.claim("w", 1) == []


async def test_a_claim_waits_no_longer_than_asked() -> None:
    queue = TaskQueue(open_storage("memory:"))
    await queue.open()
    began = SystemClock().monotonic()
    assert await soon(queue.claim("w", 1, wait=0.05)) == []
    assert SystemClock().monotonic() - began >= 0.04
    await queue.close()


async def test_a_future_task_is_given_when_it_is_due(queue: TaskQueue, clock: ManualClock) -> None:
    workers = await line(queue, 2)
    await enqueue(queue, "a", run_at=clock.now() + 5)
    clock.advance(0.005)
    assert await workers[0].ids() == ["a"]
    await send_home(workers)


async def test_a_worker_that_comes_later_also_learns_of_the_future_task(
    queue: TaskQueue, clock: ManualClock
) -> None:
    await enqueue(queue, "a", run_at=clock.now() + 5)
    (worker,) = await line(queue, 1)
    clock.advance(0.005)
    assert await worker.ids() == ["a"]


async def test_a_future_task_that_falls_due_wakes_one_worker_and_not_the_crowd(
    queue: TaskQueue, spy: Spy, clock: ManualClock
) -> None:
    workers = await line(queue, 20)
    await enqueue(queue, "a", run_at=clock.now() + 5)
    looks = spy.looks
    held, go = spy.hold("claim")
    clock.advance(0.005)
    await soon(held.wait())  # one looks, and the disk is slow
    await asyncio.wait([workers[1].task], timeout=0.03)  # real time, for the timer to do what it should not
    go.set()
    assert await workers[0].ids() == ["a"]
    await quiet(queue)
    assert spy.looks - looks <= 2
    assert sum(worker.done for worker in workers) == 1
    await send_home(workers)


async def test_two_future_tasks_that_fall_due_together_are_both_given(
    queue: TaskQueue, clock: ManualClock
) -> None:
    workers = await line(queue, 3)
    await enqueue(queue, "a", "b", run_at=clock.now() + 5)
    clock.advance(0.005)
    assert sorted([*(await workers[0].ids()), *(await workers[1].ids())]) == ["a", "b"]
    await send_home(workers)


async def test_a_task_that_falls_due_while_a_worker_looks_is_not_slept_over(
    queue: TaskQueue, spy: Spy, clock: ManualClock
) -> None:
    await enqueue(queue, "a", run_at=clock.now() + 5)
    held, go = spy.hold("claim")
    worker = Waiting(queue)
    await soon(held.wait())  # nothing is due yet, it is about to be told
    clock.advance(0.005)
    go.set()
    assert await worker.ids() == ["a"]


async def test_what_one_worker_leaves_reaches_one_who_takes_its_queue(
    queue: TaskQueue, clock: ManualClock
) -> None:
    (everything,) = await line(queue, 1)
    others = await line(queue, 5, "z")
    (x,) = await line(queue, 1, "x")
    await enqueue(queue, "a", "b", queue="x", run_at=clock.now() + 5)
    clock.advance(0.005)
    assert sorted([*(await everything.ids()), *(await x.ids())]) == ["a", "b"]
    assert not any(other.done for other in others)
    await send_home(others)


@pytest.mark.parametrize("how", ["released", "failed", "retried", "backoff"])
async def test_a_task_that_comes_back_is_given_to_who_waits(
    queue: TaskQueue, clock: ManualClock, how: str
) -> None:
    first = await start(queue, "a")
    (worker,) = await line(queue, 1)
    if how == "released":
        await settle(queue, first, RELEASED)
    elif how == "failed":
        await settle(queue, first, AT_ONCE)
    elif how == "retried":
        await settle(queue, first, FOR_GOOD)
        await queue.retry(["a"])
    else:
        await settle(queue, first, FAILED)
        clock.advance(0.01)
    assert await worker.ids() == ["a"]


async def test_a_woken_worker_that_went_away_passes_its_wake_on(queue: TaskQueue) -> None:
    first, second = await line(queue, 2)
    await enqueue(queue, "a")  # the first is woken, but has not looked yet
    first.task.cancel()
    assert await second.ids() == ["a"]
    task = await get(queue, "a")
    assert (task.status, task.attempts) == (Status.RUNNING, 1)


async def test_a_wake_passed_on_reaches_one_who_takes_the_queue(queue: TaskQueue) -> None:
    (everything,) = await line(queue, 1)
    others = await line(queue, 5, "z")
    (x,) = await line(queue, 1, "x")
    await enqueue(queue, "a", queue="x")  # the first is woken, but has not looked yet
    everything.task.cancel()
    assert await x.ids() == ["a"]
    await send_home(others)


async def test_a_woken_worker_whose_look_fails_passes_its_wake_on(queue: TaskQueue, spy: Spy) -> None:
    first, second = await line(queue, 2)
    spy.fail = StorageFull()
    await enqueue(queue, "a")
    with pytest.raises(StorageFull):
        await soon(first.task)
    assert await second.ids() == ["a"]


async def test_a_caller_that_goes_away_after_the_commit_leaves_a_task_that_is_found(
    queue: TaskQueue, spy: Spy
) -> None:
    (worker,) = await line(queue, 1)
    held, go = spy.hold("insert")
    posting = asyncio.ensure_future(enqueue(queue, "a"))
    await soon(held.wait())
    posting.cancel()
    go.set()
    assert await worker.ids() == ["a"]


async def test_a_retry_whose_caller_goes_away_still_wakes_a_worker(queue: TaskQueue, spy: Spy) -> None:
    await settle(queue, await start(queue, "a"), FOR_GOOD)
    (worker,) = await line(queue, 1)
    held, go = spy.hold("retry")
    retrying = asyncio.ensure_future(queue.retry(["a"]))
    await soon(held.wait())
    retrying.cancel()
    go.set()
    assert await worker.ids() == ["a"]


async def test_a_settle_whose_caller_goes_away_still_tells_everybody(queue: TaskQueue, spy: Spy) -> None:
    a, b = await start(queue, "a"), await start(queue, "b")
    (worker,) = await line(queue, 1)
    waiting = asyncio.ensure_future(queue.wait_finished("a", 60))
    await quiet(queue)
    held, go = spy.hold("settle")
    reports = [Report("a", a.lease_id, DONE), Report("b", b.lease_id, RELEASED)]
    settling = asyncio.ensure_future(queue.settle(reports))
    await soon(held.wait())
    settling.cancel()
    go.set()
    assert await worker.ids() == ["b"]
    assert await soon(waiting) == await get(queue, "a")


async def test_a_cancel_whose_caller_goes_away_still_reaches_the_worker(queue: TaskQueue, spy: Spy) -> None:
    claim = await start(queue, "a")
    told: asyncio.Queue[str] = asyncio.Queue()
    queue.listen_to_cancels(lambda id_, lease_id: told.put_nowait(lease_id))
    held, go = spy.hold("cancel")
    cancelling = asyncio.ensure_future(queue.cancel(["a"]))
    await soon(held.wait())
    cancelling.cancel()
    go.set()
    assert await soon(told.get()) == claim.lease_id


# --- claims that are cancelled ---


async def test_a_claim_cancelled_in_the_middle_gives_back_what_it_claimed(queue: TaskQueue, spy: Spy) -> None:
    await enqueue(queue, "a", "b")
    held, go = spy.hold("claim")
    first = Waiting(queue, limit=2)
    await soon(held.wait())
    assert (await queue.counts())[Status.RUNNING] == 2
    await first.cancel()
    second = Waiting(queue, limit=2)
    go.set()
    ids = await second.ids()
    while len(ids) < 2:
        ids += await Waiting(queue).ids()
    assert sorted(ids) == ["a", "b"]
    for id_ in ids:
        task = await get(queue, id_)
        assert (task.attempts, task.failures, task.lost) == (1, 0, 0)


async def test_a_claim_cancelled_while_it_sleeps_leaves_nothing_behind(queue: TaskQueue, spy: Spy) -> None:
    (worker,) = await line(queue, 1)
    await worker.cancel()
    looks = spy.looks
    await enqueue(queue, "a")
    await quiet(queue)
    assert spy.looks == looks
    assert (await get(queue, "a")).status is Status.QUEUED


async def test_what_a_cancelled_claim_took_is_free_again_after_a_stop(tmp_path: Path) -> None:
    """A drain cancels the pool's claim; no attempt may be burnt by that."""
    url = f"sqlite:///{tmp_path / 'jobpipe.db'}"
    queue = TaskQueue(open_storage(url))
    await queue.open()
    await enqueue(queue, "a")
    worker = Waiting(queue)
    await asyncio.sleep(0)  # the claim is handed in
    await worker.cancel()
    await queue.close()
    again = TaskQueue(storage := open_storage(url))
    await again.open()
    assert await storage.lost(10) == []
    task = await get(again, "a")
    assert (task.status, task.attempts) == (Status.QUEUED, 0)
    await again.close()


# --- draining ---


async def test_a_drain_answers_everybody_who_waits_and_refuses_what_is_new(queue: TaskQueue) -> None:
    running = await start(queue, "running")
    workers = await line(queue, 5)
    finish = asyncio.ensure_future(queue.wait_finished("running", 60))
    await quiet(queue)
    queue.drain()
    for worker in workers:
        assert await worker.ids() == []
    assert (await soon(finish)) == running.task
    with pytest.raises(Draining):
        await enqueue(queue, "b")
    with pytest.raises(Draining):
        await queue.check()
    assert queue.draining


async def test_while_draining_no_task_is_given_and_none_waited_for(queue: TaskQueue) -> None:
    await enqueue(queue, "a")
    queue.drain()
    assert await queue.claim("w", 1, wait=None) == []
    task = await soon(queue.wait_finished("a", 60))
    assert task is not None
    assert task.status is Status.QUEUED


async def test_settles_extends_and_steering_are_served_while_draining(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    other = await start(queue, "b")
    queue.drain()
    (extended,) = await queue.extend([Heartbeat("a", claim.lease_id, 30)])
    assert isinstance(extended, Extended)
    assert await settle(queue, claim) == Settled(Status.DONE)
    (cancelled,) = await queue.cancel(["b"])
    assert isinstance(cancelled, Cancelled)
    assert await settle(queue, other, FAILED) == Settled(Status.CANCELLED)


async def test_a_look_under_way_when_the_drain_begins_does_not_go_to_sleep(
    queue: TaskQueue, spy: Spy
) -> None:
    held, go = spy.hold("claim")
    worker = Waiting(queue)
    await soon(held.wait())
    queue.drain()
    go.set()
    assert await worker.ids() == []


async def test_close_is_safe_twice_and_without_open() -> None:
    queue = TaskQueue(open_storage("memory:"))
    await soon(queue.close())
    queue = TaskQueue(open_storage("memory:"))
    await queue.open()
    await soon(queue.close())
    await soon(queue.close())


# --- waiting for an end ---


async def test_an_end_that_was_before_is_answered_at_once(queue: TaskQueue) -> None:
    await settle(queue, await start(queue, "a"))
    assert await soon(queue.wait_finished("a", 60)) == await get(queue, "a")


ENDS: dict[str, Callable[[TaskQueue, Claim], Awaitable[object]]] = {
    "done": lambda queue, claim: settle(queue, claim, DONE),
    "failed": lambda queue, claim: settle(queue, claim, FOR_GOOD),
    "lost": lambda queue, claim: queue.rescue(
        [Report("a", claim.lease_id, Outcome(Kind.TIMED_OUT, retryable=False))]
    ),
}


@pytest.mark.parametrize("end", ENDS)
async def test_an_end_that_comes_while_waiting_is_told_as_it_is_stored(queue: TaskQueue, end: str) -> None:
    claim = await start(queue, "a", payload=b"[1]")
    waiting = [asyncio.ensure_future(queue.wait_finished("a", 60)) for _ in range(2)]
    await quiet(queue)
    await ENDS[end](queue, claim)
    stored = await get(queue, "a")
    assert stored.finished
    assert await soon(asyncio.gather(*waiting)) == [stored, stored]


@pytest.mark.parametrize("running", [False, True])
async def test_a_cancelled_task_is_told_as_it_is_stored(queue: TaskQueue, running: bool) -> None:
    claim = await start(queue, "a")
    if not running:
        await settle(queue, claim, RELEASED)
    waiting = asyncio.ensure_future(queue.wait_finished("a", 60))
    await quiet(queue)
    await queue.cancel(["a"])
    if running:
        await settle(queue, claim, Outcome(Kind.CANCELLED))
    stored = await get(queue, "a")
    assert stored.status is Status.CANCELLED
    assert await soon(waiting) == stored


async def test_an_end_that_comes_during_the_first_look_is_not_missed(queue: TaskQueue, spy: Spy) -> None:
    claim = await start(queue, "a")
    held, go = spy.hold("get")
    waiting = asyncio.ensure_future(queue.wait_finished("a", 60))
    await soon(held.wait())  # it saw the task run, and does not know it yet
    await settle(queue, claim)
    go.set()
    task = await soon(waiting)
    assert task is not None
    assert task.status is Status.DONE


async def test_an_attempt_that_fails_is_no_end(queue: TaskQueue, clock: ManualClock) -> None:
    claim = await start(queue, "a")
    waiting = asyncio.ensure_future(queue.wait_finished("a", 60))
    await quiet(queue)
    await settle(queue, claim, FAILED)
    await quiet(queue)
    assert not waiting.done()
    clock.advance(1)
    await settle(queue, await claim_one(queue))
    assert await soon(waiting) == await get(queue, "a")


async def test_a_wait_that_runs_out_gives_the_task_as_it_is_then(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    assert await soon(queue.wait_finished("a", 0.01)) == claim.task
    assert await soon(queue.wait_finished("a", 0)) == claim.task


async def test_an_unknown_task_is_not_waited_for(queue: TaskQueue) -> None:
    assert await soon(queue.wait_finished("nobody", 60)) is None


async def test_a_waiter_that_goes_away_leaves_the_others_waiting(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    gone, staying = [asyncio.ensure_future(queue.wait_finished("a", 60)) for _ in range(2)]
    await quiet(queue)
    gone.cancel()
    await settle(queue, claim)
    assert await soon(staying) == await get(queue, "a")


# --- cancelling what runs ---


@pytest.fixture
def told(queue: TaskQueue) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    queue.listen_to_cancels(lambda id_, lease_id: calls.append((id_, lease_id)))
    return calls


async def test_a_run_may_end_as_cancelled_before_its_server_hears_of_the_cancel_at_another(
    queue: TaskQueue, spy: Spy, clock: ManualClock
) -> None:
    await queue.enqueue([NewTask("a", "h")])
    (claim,) = await queue.claim("w", 1)
    await spy.cancel(["a"], clock.now())  # as another server does
    (answer,) = await queue.settle([Report("a", claim.lease_id, Outcome(Kind.CANCELLED))])
    assert answer == Settled(Status.CANCELLED)


async def test_cancelling_a_running_task_tells_every_listener_its_lease(
    queue: TaskQueue, told: list[tuple[str, str]]
) -> None:
    also: list[str] = []
    queue.listen_to_cancels(lambda id_, lease_id: also.append(lease_id))
    claim = await start(queue, "a")
    await enqueue(queue, "b")
    await queue.cancel(["b", "a", "nobody"])
    assert told == [("a", claim.lease_id)]
    assert also == [claim.lease_id]


@pytest.mark.parametrize(
    "outcome", [FAILED, RELEASED, FOR_GOOD, Outcome(Kind.CANCELLED), Outcome(Kind.TIMED_OUT)]
)
async def test_after_a_cancel_everything_but_done_is_cancelled(queue: TaskQueue, outcome: Outcome) -> None:
    claim = await start(queue, "a")
    await queue.cancel(["a"])
    assert await settle(queue, claim, outcome) == Settled(Status.CANCELLED)
    task = await get(queue, "a")
    assert (task.attempts, task.failures, task.lost) == (1, 0, 0)


async def test_after_a_cancel_done_stays_done(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    await queue.cancel(["a"])
    assert await settle(queue, claim) == Settled(Status.DONE)


async def test_a_settle_is_decided_again_when_a_cancel_came_between(queue: TaskQueue, spy: Spy) -> None:
    claim = await start(queue, "a")
    # Another door to the same storage: this queue does not learn of it.
    await spy.cancel(["a"], 0)
    assert await settle(queue, claim, FAILED) == Settled(Status.CANCELLED)
    task = await get(queue, "a")
    assert (task.status, task.failures, task.attempts) == (Status.CANCELLED, 0, 1)


async def test_only_the_settles_that_a_cancel_touched_are_decided_again(queue: TaskQueue, spy: Spy) -> None:
    claims = [await start(queue, id_) for id_ in "abc"]
    await spy.cancel(["b"], 0)
    answers = await queue.settle([Report(claim.task.id, claim.lease_id, AT_ONCE) for claim in claims])
    assert answers == [Settled(Status.QUEUED), Settled(Status.CANCELLED), Settled(Status.QUEUED)]
    assert (await get(queue, "a")).failures == 1


async def test_a_cancelled_outcome_that_nobody_asked_for_is_invalid_and_changes_nothing(
    queue: TaskQueue,
) -> None:
    claim, other = await start(queue, "a"), await start(queue, "b")
    cancelled = Outcome(Kind.CANCELLED)
    answers = await queue.settle([Report("a", claim.lease_id, cancelled), Report("b", other.lease_id, DONE)])
    assert isinstance(answers[0], Invalid)
    assert answers[1] == Settled(Status.DONE)
    assert await get(queue, "a") == claim.task
    assert await settle(queue, claim) == Settled(Status.DONE)


async def test_a_cancel_that_comes_before_the_claim_is_answered_reaches_its_worker(
    queue: TaskQueue, spy: Spy
) -> None:
    """Its listeners cannot find a run that the worker does not know of yet."""
    await enqueue(queue, "a")
    known: set[str] = set()
    reached: list[str] = []
    queue.listen_to_cancels(lambda id_, lease_id: reached.append(lease_id) if lease_id in known else None)
    held, go = spy.hold("claim")
    worker = Waiting(queue)
    await soon(held.wait())
    await queue.cancel(["a"])
    go.set()
    (claim,) = await soon(worker.task)
    known.add(claim.lease_id)
    await quiet(queue)
    assert claim.task.cancel_requested or reached == [claim.lease_id]


async def test_cancelling_what_is_finished_is_refused(queue: TaskQueue, told: list[tuple[str, str]]) -> None:
    await settle(queue, await start(queue, "a"))
    done, unknown = await queue.cancel(["a", "b"])
    assert isinstance(done, AlreadyFinished)
    assert isinstance(unknown, NotFound)
    assert told == []


# --- settling ---


async def test_a_settle_of_another_lease_is_lost_and_changes_nothing(queue: TaskQueue) -> None:
    old = await start(queue, "a")
    await settle(queue, old, RELEASED)
    claim = await claim_one(queue)
    for outcome in (DONE, FAILED, RELEASED):
        assert isinstance(await settle(queue, old, outcome), LeaseLost)
    assert await get(queue, "a") == claim.task
    assert await settle(queue, claim) == Settled(Status.DONE)


async def test_a_lease_of_one_task_does_not_settle_another(queue: TaskQueue) -> None:
    a, b = await start(queue, "a"), await start(queue, "b")
    (answer,) = await queue.settle([Report("a", b.lease_id, DONE)])
    assert isinstance(answer, LeaseLost)
    assert await get(queue, "a") == a.task
    assert await settle(queue, b, AT_ONCE) == Settled(Status.QUEUED)
    assert await settle(queue, a) == Settled(Status.DONE)


async def test_the_same_report_twice_gets_the_same_answer(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    assert await settle(queue, claim, AT_ONCE) == Settled(Status.QUEUED)
    assert await settle(queue, claim, AT_ONCE) == Settled(Status.QUEUED, repeated=True)
    assert (await get(queue, "a")).failures == 1


async def test_the_same_report_twice_in_one_call_gets_the_same_answer_twice(queue: TaskQueue) -> None:
    claim = await start(queue, "a")
    report = Report("a", claim.lease_id, AT_ONCE)
    first, second = await queue.settle([report, report])
    assert (first, second) == (Settled(Status.QUEUED), Settled(Status.QUEUED, repeated=True))
    assert (await get(queue, "a")).failures == 1


async def test_reports_are_answered_in_order_each_for_itself(queue: TaskQueue) -> None:
    a, b = await start(queue, "a"), await start(queue, "b")
    answers = await queue.settle(
        [
            Report("nobody", "x.1.1", DONE),
            Report("b", b.lease_id, FOR_GOOD),
            Report("a", "x.1.1", DONE),
            Report("a", a.lease_id, DONE),
        ]
    )
    assert [type(answer) for answer in answers] == [NotFound, Settled, LeaseLost, Settled]
    assert (await queue.settle([])) == []


async def test_a_repeated_settle_counts_and_tells_once(queue: TaskQueue) -> None:
    ends: list[int] = []
    queue.listen_to_ends(lambda: ends.append(1))
    claim = await start(queue, "a")
    for _ in range(3):
        await settle(queue, claim)
    assert len(ends) == 1
    assert queue.rates().finished == 1


async def test_rates_count_what_this_queue_did(queue: TaskQueue) -> None:
    for i in range(4):
        await settle(queue, await start(queue, f"t{i}"), DONE if i else FOR_GOOD)
    await queue.enqueue([NewTask("t1", "h")])
    rates = queue.rates()
    assert (rates.enqueued, rates.finished, rates.failed) == (4, 4, 1)


async def test_a_task_that_took_two_workers_with_it_is_claimed_to_run_alone(
    queue: TaskQueue, clock: ManualClock
) -> None:
    claim = await start(queue, "a")
    for lost in range(2):
        assert not claim.alone
        await queue.rescue([Report("a", claim.lease_id, Outcome(Kind.LOST))])
        clock.advance(10)
        claim = await claim_one(queue)
        assert claim.task.lost == lost + 1
    assert claim.alone


async def test_the_end_of_a_task_is_logged_once_without_its_message(
    queue: TaskQueue, caplog: pytest.LogCaptureFixture
) -> None:
    claim = await start(queue, "a")
    with caplog.at_level(logging.INFO, "jobpipe.tasks"):
        secret = Outcome(Kind.FAILED, error_type="ValueError", message="secret", retryable=False)
        await settle(queue, claim, secret)
        await settle(queue, claim, secret)
    assert [record.getMessage() for record in caplog.records] == [
        "task a failed (ValueError) after 0.000 s, attempt 1"
    ]


# --- entering ---


async def test_refused_items_are_answered_beside_accepted_ones(queue: TaskQueue) -> None:
    await enqueue(queue, *(f"t{i}" for i in range(99)))
    answers = await queue.enqueue([NewTask(id_, "h") for id_ in ("t0", "a", "b")])
    assert [type(answer) for answer in answers] == [TaskExists, Task, QueueFull]


# --- heartbeats ---


async def test_a_heartbeat_tells_of_a_cancel(queue: TaskQueue, clock: ManualClock) -> None:
    await enqueue(queue, "a")
    claim = await claim_one(queue, lease_s=30.0, local=False)
    assert claim.lease_until == clock.now() + 30_000
    clock.advance(10)
    beat = Heartbeat("a", claim.lease_id, 30)
    assert await queue.extend([beat]) == [Extended(clock.now() + 30_000, cancel_requested=False)]
    await queue.cancel(["a"])
    assert await queue.extend([beat]) == [Extended(clock.now() + 30_000, cancel_requested=True)]


async def test_heartbeats_are_answered_in_order_each_for_itself(queue: TaskQueue) -> None:
    claims = [await start(queue, id_) for id_ in "ab"]
    answers = await queue.extend(
        [
            Heartbeat("b", claims[1].lease_id, 30),
            Heartbeat("a", claims[1].lease_id, 30),
            Heartbeat("nobody", "", 30),
            Heartbeat("a", claims[0].lease_id, 30),
        ]
    )
    assert [type(answer) for answer in answers] == [Extended, LeaseLost, LeaseLost, Extended]


async def test_a_heartbeat_of_an_old_lease_is_lost_and_disturbs_no_run(queue: TaskQueue) -> None:
    old = await start(queue, "a")
    await settle(queue, old, RELEASED)
    claim = await claim_one(queue)
    for _ in range(2):
        (answer,) = await queue.extend([Heartbeat("a", old.lease_id, 30, timeout=1e-9)])
        assert isinstance(answer, LeaseLost)
    assert queue.claims_of("w") == [("a", claim.lease_id)]
    assert await settle(queue, claim) == Settled(Status.DONE)
    assert queue.claims_of("w") == []


async def test_a_lease_is_extended_to_the_timeout_and_one_lease_at_most(
    queue: TaskQueue, clock: ManualClock
) -> None:
    await enqueue(queue, "a", timeout=60.0)
    claim = await claim_one(queue, lease_s=30.0, local=False)
    start_ms = clock.now()
    beat = Heartbeat("a", claim.lease_id, 30)
    for seconds, until in ((25, 55_000), (25, 80_000), (20, 90_000), (15, 90_000)):
        clock.advance(seconds)
        (answer,) = await queue.extend([beat])
        assert isinstance(answer, Extended)
        assert answer.lease_until == pytest.approx(start_ms + until, abs=1)
    clock.advance(5)
    (answer,) = await queue.extend([beat])
    assert isinstance(answer, LeaseLost)


@pytest.mark.parametrize(
    ("own", "handlers", "over_after"), [(10.0, 50.0, 10), (None, 50.0, 50), (None, None, 3600)]
)
async def test_the_tasks_own_timeout_comes_before_the_handlers_and_that_before_the_servers(
    queue: TaskQueue, clock: ManualClock, own: float | None, handlers: float | None, over_after: float
) -> None:
    claim = await start(queue, "a", timeout=own)
    await queue.extend([Heartbeat("a", claim.lease_id, 30, timeout=handlers)])
    clock.advance(over_after - 0.001)
    assert not queue.overran("a", claim.lease_id)
    clock.advance(0.002)
    assert queue.overran("a", claim.lease_id)
