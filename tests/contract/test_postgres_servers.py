"""Several servers on one database: they are one queue, to those who enqueue, who work and who wait."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from desk import (
    DONE,
    FAILED_FOR_GOOD,
    LOST,
    RELEASED,
    Desk,
    OpenDesk,
    OpenStore,
    codes_of,
    expect,
    ids_of,
    new,
)

import postgres
from jobpipe.core.errors import LeaseLost
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import Claim, NewTask, Status, Task
from jobpipe.engine.maintenance import Rescuer
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Heartbeat, Report
from jobpipe.runtime.clock import ManualClock, SystemClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import Settled
from jobpipe.storage.postgres.counts import FRESH_S

OpenQueue = Callable[..., Awaitable[TaskQueue]]
PROMISED_S = 0.01


@pytest.fixture
def url() -> str:
    return postgres.empty_store()


@pytest.fixture
async def desks(open_desk: OpenDesk) -> list[Desk]:
    return [await open_desk() for _ in range(3)]


@pytest.fixture
async def open_queue() -> AsyncIterator[OpenQueue]:
    """Opens queues on one database that goes by the machine's clock."""
    url = postgres.empty_store("real")
    opened: list[TaskQueue] = []

    async def open_(capacity: int = 10**6) -> TaskQueue:
        queue = TaskQueue(open_storage(url, capacity=capacity, clock=SystemClock()))
        await queue.open()
        opened.append(queue)
        return queue

    yield open_
    for queue in opened:
        await queue.close()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.001)


async def assert_all_count(desks: list[Desk]) -> None:
    """Every server counts right, as soon as what it knows of the others is not older than allowed."""
    await asyncio.sleep(FRESH_S)
    for desk in desks:
        await desk.assert_counts_are_true()


# --- one store, whoever is asked ------------------------------------------------------------------------------------


async def test_what_one_server_accepted_another_gives_claims_settles_and_steers(desks: list[Desk]) -> None:
    one, two, three = desks
    (task,) = await one.accept("a")
    assert await two.get("a") == task
    claim = await three.claim_one()
    assert codes_of(await two.cancel("a")) == ["cancelled"]
    assert await one.settle(claim, DONE, task=await one.get("a")) == Settled(Status.DONE)
    assert codes_of(await two.delete("a")) == ["task"]
    assert await three.store.get(["a"]) == [None]
    await assert_all_count(desks)


async def test_how_long_the_oldest_task_waits_is_told_by_a_server_that_never_claimed(
    desks: list[Desk],
) -> None:
    one, two, _ = desks
    (task,) = await one.accept("a")
    await asyncio.sleep(FRESH_S)
    assert [counts.oldest_ready for counts in await two.store.queues(two.now)] == [task.run_at]


async def test_servers_that_claim_at_once_never_share_a_task(desks: list[Desk]) -> None:
    await desks[0].accept(*(new(f"t{i}", queue=f"q{i % 3}", priority=i % 2) for i in range(400)))
    claims: list[Claim] = []

    async def work(desk: Desk) -> None:
        while len(claims) < 400:
            claims.extend(await desk.claim(7))

    async with asyncio.timeout(20):
        await asyncio.gather(*(work(desk) for desk in desks for _ in range(3)))
    assert len({claim.task.id for claim in claims}) == len({claim.lease_id for claim in claims}) == 400


async def test_an_id_posted_to_all_servers_at_once_is_one_task(desks: list[Desk]) -> None:
    source = random.Random(1)
    batches = [source.sample([f"t{i}" for i in range(50)], 15) for _ in range(30)]
    answers = await asyncio.gather(*(desks[i % 3].insert(*batch) for i, batch in enumerate(batches)))
    accepted = [answer.id for batch in answers for answer in batch if isinstance(answer, Task)]
    assert sorted(accepted) == sorted({id_ for batch in batches for id_ in batch})
    await assert_all_count(desks)


async def test_an_id_is_never_free_while_its_task_moves_to_the_finished_ones(desks: list[Desk]) -> None:
    """A settle raced against the reuse of its id: whichever comes first, there is one task."""
    one, two, three = desks
    for i in range(40):
        claim = await one.start(f"t{i}")
        _, first, second = await asyncio.gather(
            one.settle(claim, DONE), two.insert(f"t{i}"), three.insert(f"t{i}")
        )
        assert codes_of(first + second) == ["task_exists", "task_exists"]
    await assert_all_count(desks)
    assert (await two.store.counts())[Status.DONE] == 40


async def test_an_id_deleted_at_one_server_goes_to_one_of_those_who_want_it(desks: list[Desk]) -> None:
    one, two, three = desks
    for i in range(30):
        await one.finish(f"t{i}")
        (deleted,), first, second = await asyncio.gather(
            one.delete(f"t{i}"), two.insert(f"t{i}"), three.insert(f"t{i}")
        )
        expect(Task, deleted)
        assert codes_of(first + second).count("task") <= 1
        tasks = [task for task in await one.listed() if task.id == f"t{i}"]
        assert len(tasks) == codes_of(first + second).count("task")


async def test_retry_delete_and_reuse_at_once_leave_one_task_or_none(desks: list[Desk]) -> None:
    one, two, three = desks
    for i in range(30):
        await one.finish(f"t{i}", FAILED_FOR_GOOD)
        await asyncio.gather(one.retry(f"t{i}"), two.delete(f"t{i}"), three.insert(f"t{i}"))
    ids = ids_of(await one.listed())
    assert len(ids) == len(set(ids))
    await assert_all_count(desks)


async def test_a_settle_and_a_rescue_at_two_servers_are_written_once(desks: list[Desk]) -> None:
    one, two, _ = desks
    for i in range(20):
        claim = await one.start(f"t{i}")
        answers = await asyncio.gather(one.settle(claim, DONE), two.settle(claim, LOST, rescue=True))
        task = await one.get(f"t{i}")
        assert (task.status, task.lost) in [(Status.DONE, 0), (Status.QUEUED, 1)]
        assert sum(isinstance(answer, Settled) and not answer.repeated for answer in answers) == 1
    await assert_all_count(desks)


async def test_a_queue_is_full_for_all_servers(open_desk: OpenDesk) -> None:
    one, two = await open_desk(capacity=10), await open_desk(capacity=10)
    assert codes_of(await one.insert(*(f"a{i}" for i in range(7)))).count("task") == 7
    await asyncio.sleep(FRESH_S)
    assert codes_of(await two.insert(*(f"b{i}" for i in range(7)))).count("task") == 3
    await asyncio.sleep(FRESH_S)
    assert codes_of(await one.insert("c")) == ["queue_full"]


async def test_priority_holds_over_what_all_servers_accepted(desks: list[Desk]) -> None:
    await desks[0].accept(new("low", priority=-1), new("mid"))
    assert ids_of(await desks[2].claim()) == ["mid"]
    await desks[1].accept(new("high", priority=9))
    desks[2].store._s.levels.distrust()  # type: ignore[attr-defined] # as the news of it does
    assert ids_of(await desks[2].claim(2)) == ["high", "low"]


# --- leases ---------------------------------------------------------------------------------------------------------


async def test_the_claims_of_a_servers_own_workers_are_lost_with_it_and_settled_no_more(
    open_desk: OpenDesk, open_store: OpenStore
) -> None:
    one, two = await open_desk(), await open_desk()
    claim = await one.start("a")
    assert await two.store.lost(10) == []
    two.clock.advance(16)  # the server gives no sign: its clock in this test is the machine's
    (lost,) = await two.store.lost(10)
    assert (lost.task.id, lost.orphaned) == ("a", True)
    assert await one.store.lost(10) == []  # it lives, as it knows
    await two.settle(lost, LOST, rescue=True)
    expect(LeaseLost, await one.settle(claim, DONE))


async def test_a_server_that_left_leaves_its_claims_at_once(open_desk: OpenDesk) -> None:
    one, two = await open_desk(), await open_desk()
    await one.start("a")
    expiry = await two.store.next_expiry()
    assert expiry is not None
    assert 0 < expiry <= 15
    await one.store.close()
    assert await two.store.next_expiry() == 0
    assert [lost.task.id for lost in await two.store.lost(10)] == ["a"]


@pytest.mark.parametrize(
    ("own", "handlers", "kind"),
    [
        (20.0, None, "timed_out"),
        (31.0, None, "worker_lost"),
        (None, 20.0, "timed_out"),
        (None, 31.0, "worker_lost"),
    ],
)
@pytest.mark.parametrize("holder", [0, 1])
async def test_a_run_past_its_timeout_is_timed_out_whichever_server_rescues_it(
    open_store: OpenStore,
    clock: ManualClock,
    holder: int,
    own: float | None,
    handlers: float | None,
    kind: str,
) -> None:
    stores = [await open_store() for _ in range(2)]
    queues = [TaskQueue(store, clock=clock, default_timeout=3600.0) for store in stores]
    await queues[0].enqueue([NewTask("a", "h", timeout=own)])
    (claim,) = await queues[holder].claim("w", 1, lease_s=30, local=False)
    if handlers is not None:  # a load balancer may carry any heartbeat to the server that will rescue
        await queues[0].extend([Heartbeat("a", claim.lease_id, 30, timeout=handlers)])
    clock.advance(30)
    rescuer = Rescuer(queues[0], stores[0])
    await rescuer.run_once(clock.now())
    (task,) = await stores[1].get(["a"])
    assert task is not None
    assert task.last_error is not None
    assert task.last_error.type == kind
    assert (task.failures, task.lost) == ((1, 0) if kind == "timed_out" else (0, 1))


async def test_a_run_past_the_servers_timeout_is_timed_out_by_a_server_that_never_heard_of_it(
    open_store: OpenStore, clock: ManualClock
) -> None:
    stores = [await open_store() for _ in range(2)]
    holder, other = (TaskQueue(store, clock=clock, default_timeout=20.0) for store in stores)
    await holder.enqueue([NewTask("a", "h")])
    await holder.claim("w", 1, lease_s=30, local=False)
    clock.advance(30)
    await Rescuer(other, stores[1]).run_once(clock.now())
    (task,) = await stores[0].get(["a"])
    assert task is not None
    assert (task.failures, task.lost) == (1, 0)


async def test_a_lease_is_extended_and_lost_whichever_server_is_asked(desks: list[Desk]) -> None:
    one, two, three = desks
    await one.accept("a")
    (claim,) = await one.claim_remote(lease_s=30)
    one.clock.advance(20)
    await two.extend(claim, 30)
    one.clock.advance(29)
    assert await three.store.lost(10) == []
    one.clock.advance(1)
    assert [lost.task.id for lost in await three.store.lost(10)] == ["a"]
    assert await three.settle(claim, RELEASED) == Settled(Status.QUEUED)


# --- news -----------------------------------------------------------------------------------------------------------


@pytest.mark.alone
async def test_a_worker_that_waits_at_one_server_gets_what_another_accepts_at_once(
    open_queue: OpenQueue,
) -> None:
    one, two = await open_queue(), await open_queue()
    took: list[float] = []
    for i in range(30):
        waiting = asyncio.ensure_future(two.claim("w", 1, wait=10))
        await until(lambda: any(waiter.wake is not None for waiter in two._waiters._line))
        began = time.perf_counter()
        await one.enqueue([NewTask(f"t{i}", "h")])
        (claim,) = await waiting
        took.append(time.perf_counter() - began)
        await two.release([claim])
        (claim,) = await two.claim("w", 1)
        await two.settle([Report(claim.task.id, claim.lease_id, Outcome(Kind.DONE))])
    # The machine of the tests has other things to do: what it could do when it had not.
    assert sorted(took)[3] < 2 * PROMISED_S, took


async def test_a_caller_that_waits_at_one_server_learns_of_an_end_at_another(open_queue: OpenQueue) -> None:
    one, two = await open_queue(), await open_queue()
    await one.enqueue([NewTask("a", "h")])
    waiting = asyncio.ensure_future(one.wait_finished("a", 30))
    (claim,) = await two.claim("w", 1, wait=5)
    began = time.perf_counter()
    await two.settle([Report("a", claim.lease_id, Outcome(Kind.DONE, result=b"1"))])
    task = await waiting
    assert task is not None
    assert (task.status, task.result) == (Status.DONE, b"1")
    assert time.perf_counter() - began < 1


async def test_a_run_is_told_of_its_cancelling_at_another_server_once(open_queue: OpenQueue) -> None:
    one, two = await open_queue(), await open_queue()
    told: list[tuple[str, str]] = []
    two.listen_to_cancels(lambda *who: told.append(who))
    await one.enqueue([NewTask("a", "h")])
    (claim,) = await two.claim("w", 1, wait=5)
    await one.cancel(["a"])
    await until(lambda: told)
    await one.enqueue([NewTask("b", "h")])
    await two.claim("w", 1, wait=5)
    assert told == [("a", claim.lease_id)]
    (answer,) = await two.settle([Report("a", claim.lease_id, Outcome(Kind.CANCELLED))])
    assert answer == Settled(Status.CANCELLED)


async def test_what_a_server_publishes_reaches_the_others_and_not_itself(open_store: OpenStore) -> None:
    stores = [await open_store() for _ in range(3)]
    heard: list[list[bytes]] = [[], [], []]
    for store, ears in zip(stores, heard, strict=True):
        store.listen(lambda data, ears=ears: None if data is None else ears.append(data))
    await until(lambda: stores[0]._s.others)  # type: ignore[attr-defined]
    stores[0].publish(b'{"x":"\xc3\xa4"}')
    await until(lambda: heard[1] and heard[2])
    assert heard == [[], [b'{"x":"\xc3\xa4"}'], [b'{"x":"\xc3\xa4"}']]


async def test_a_server_that_is_alone_hears_and_tells_nothing(open_store: OpenStore) -> None:
    heard: list[bytes | None] = []
    store = await open_store()
    store.listen(heard.append)
    await store.insert([NewTask("a", "h")], 0)
    store.publish(b"x")
    await asyncio.sleep(0.05)
    assert heard == []
