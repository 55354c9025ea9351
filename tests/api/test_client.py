"""Both clients and the worker's source against a live server: the contract from its other end."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from jobpipe.client import AsyncClient, Client, Settle, Task
from jobpipe.client.remote_source import RemoteSource
from jobpipe.core import errors
from jobpipe.core.keys import parse_entries
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.shape import error_group
from jobpipe.core.task import Status
from jobpipe.core.unique import Unique
from jobpipe.http.keys import Keyring
from jobpipe.runtime.clock import ManualClock
from jobpipe.work.app import App
from jobpipe.work.executor import Executor
from jobpipe.work.pool import Pool

from .conftest import Server, Start

Call = Callable[..., Any]


@pytest.fixture
def lane() -> str:
    """A client that blocks needs a server behind a socket."""
    return "live"


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(params=[Client, AsyncClient])
async def call(request: pytest.FixtureRequest, server: Server) -> AsyncIterator[Call]:
    """Calls a method of a client of either colour, and waits for what it gives."""
    client = request.param(url(server), retries=0)

    async def call(name: str, *args: Any, **options: Any) -> Any:
        if isinstance(client, AsyncClient):
            result = getattr(client, name)(*args, **options)
            return [item async for item in result] if name == "list" else await result

        def block() -> Any:
            result = getattr(client, name)(*args, **options)
            return list(result) if isinstance(result, Iterator) else result

        return await asyncio.to_thread(block)

    yield call
    closed = client.close()
    if closed is not None:
        await closed


async def test_a_task_goes_in_and_its_result_comes_out(server: Server, call: Call) -> None:
    task: Task = await call("enqueue", "greet", {"name": "Ada"}, priority=5, max_retries=1, timeout=9.5)
    assert (task.handler, task.payload, task.priority, task.max_retries) == ("greet", {"name": "Ada"}, 5, 1)
    assert (task.status, task.timeout, task.result) == (Status.QUEUED, 9.5, None)
    waiting = asyncio.create_task(call("wait", task.id, 20))
    await server.run_one(Kind.DONE, result=b'{"said":"hello"}')
    finished = await waiting
    assert (finished.status, finished.result, finished.finished) == (Status.DONE, {"said": "hello"}, True)
    assert isinstance(finished.finished_at, datetime)
    assert (await call("get", task.id)) == finished


async def test_waiting_has_an_end(call: Call) -> None:
    task = await call("enqueue")
    with pytest.raises(TimeoutError, match="queued"):
        await call("wait", task.id, 0.05)


async def test_a_task_can_be_put_off(server: Server, call: Call) -> None:
    run_at = datetime(2024, 1, 1, tzinfo=UTC)
    assert (await call("enqueue", run_at=run_at)).run_at == run_at
    delayed = await call("enqueue", delay=60)
    assert (delayed.run_at - delayed.created_at).total_seconds() == 60


async def test_ids_of_all_kinds_go_the_whole_way(call: Call) -> None:
    for id in ("a/b", "x?y#z", "100%", "é ü", "retry", "a+b", "..."):
        assert (await call("enqueue", id=id)).id == id
        assert (await call("get", id)).id == id
        assert (await call("cancel", id)).status is Status.CANCELLED


async def test_refusals_come_with_their_codes(call: Call) -> None:
    await call("enqueue", id="t1")
    for kind, name, *args in [
        (errors.NotFound, "get", "nobody"),
        (errors.NotRetryable, "retry", "t1"),
        (errors.NotFinished, "delete", "t1"),
    ]:
        with pytest.raises(kind):
            await call(name, *args)
    with pytest.raises(errors.TaskExists):
        await call("enqueue", id="t1")
    with pytest.raises(errors.Invalid) as error:
        await call("enqueue", priority=101)
    assert error.value.field == "priority"
    await call("cancel", "t1")
    with pytest.raises(errors.AlreadyFinished):
        await call("cancel", "t1")
    assert (await call("retry", "t1")).status is Status.QUEUED


async def test_many_tasks_each_have_their_answer(server: Server, call: Call) -> None:
    await call("enqueue", id="taken")
    answers = await call("enqueue_many", [{"id": "a", "payload": 1}, {"id": "taken"}, {"handler": "é"}, {}])
    kinds = [type(answer) for answer in answers]
    assert kinds == [Task, errors.TaskExists, errors.Invalid, Task]
    assert len(await server.ids()) == 3


async def test_a_full_queue_is_an_error_here_too(start: Start) -> None:
    server = await start(queue_size=1)
    async with AsyncClient(url(server), retries=0) as client:
        await client.enqueue()
        with pytest.raises(errors.QueueFull):
            await client.enqueue()


async def test_a_listing_goes_through_all_pages(server: Server, call: Call) -> None:
    ids = [f"t{n}" for n in range(5)]
    await call("enqueue_many", [{"id": id, "queue": "q", "delay": 9} for id in ids])
    await call("enqueue")
    assert [task.id for task in await call("list", 2, queue="q")] == ["t4", "t3"]
    assert [task.id for task in await call("list", queue="q", status=Status.QUEUED)] == ids[::-1]
    assert await call("list", created_after=datetime(2999, 1, 1, tzinfo=UTC)) == []


async def test_many_are_steered_at_once(server: Server, call: Call) -> None:
    await call("enqueue_many", [{"id": id} for id in "abc"])
    assert (await call("cancel_many", all=True, dry_run=True)).matched == 3
    assert (await call("cancel_many", ["a", "b"])).changed == 2
    assert (await call("retry_many", ["a"], status="cancelled")).changed == 1
    assert (await call("delete_many", status=Status.CANCELLED)).changed == 1
    assert sorted(await server.ids()) == ["a", "c"]
    with pytest.raises(errors.Invalid):
        await call("delete_many")


async def test_what_failed_alike_is_listed_and_retried_by_its_group(server: Server, call: Call) -> None:
    for id, message in {"a": "user 1 not found", "b": "user 2 not found", "c": "disk full"}.items():
        await server.enqueue(id=id, max_retries=0, handler="h")
        await server.run_one(Kind.FAILED, error_type="ValueError", message=message)
    group, _ = error_group("h", "ValueError", "user 3 not found")
    assert [task.id for task in await call("list", error_group=group)] == ["b", "a"]
    assert (await call("retry_many", error_group=group, status="failed")).changed == 2


async def test_a_server_shows_itself(call: Call) -> None:
    await call("enqueue", queue="mail")
    (queue,) = await call("queues")
    assert (queue.queue, queue.queued) == ("mail", 1)
    stats = await call("stats")
    assert (stats.counts["queued"], stats.status) == (1, "ok")
    assert await call("health") == "ok"


async def test_another_path_than_the_servers_is_named(server: Server) -> None:
    async with AsyncClient(f"{url(server)}/other") as client:
        with pytest.raises(errors.NotFound):
            await client.health()


# --- working ---


async def test_ones_own_loop_needs_three_calls(server: Server, call: Call) -> None:
    await call("enqueue_many", [{"id": "a", "payload": [1]}, {"id": "b"}])
    leases = await call("lease", "w1", max=5, lease=60)
    assert {lease.task.id: lease.task.payload for lease in leases} == {"a": [1], "b": None}
    await call("cancel", "b")
    answers = await call("extend", "w1", leases, lease=60)
    assert {answer.id: (answer.extended, answer.cancel_requested) for answer in answers} == {
        "a": (True, False),
        "b": (True, True),
    }
    ids = {lease.task.id: lease.lease_id for lease in leases}
    settles = [
        Settle("a", ids["a"], Kind.DONE, result={"x": 1}),
        Settle("b", ids["b"], Kind.CANCELLED),
        Settle("b", "another", Kind.DONE),
    ]
    settled = await call("settle", settles)
    assert [(one.accepted, one.status, one.code) for one in settled] == [
        (True, Status.DONE, None),
        (True, Status.CANCELLED, None),
        (False, None, "lease_lost"),
    ]
    assert (await call("get", "a")).result == {"x": 1}
    assert await call("lease", "w1", queues=["other"]) == []


async def test_a_worker_process_runs_what_is_enqueued(server: Server) -> None:
    app = App()

    @app.handler
    async def double(n: int) -> int:
        return 2 * n

    @app.handler
    async def broken() -> None:
        raise RuntimeError("no")

    source = RemoteSource(url(server), "w1")
    pool = Pool(source, Executor(app), workers=4)
    source.on_cancel = source.on_lost = pool.cancel
    pool.start()
    async with AsyncClient(url(server)) as client:
        await client.enqueue_many(
            {"id": f"t{n}", "handler": "double", "payload": {"n": n}} for n in range(50)
        )
        failed = await client.enqueue("broken", {}, max_retries=0)
        assert (await client.wait(failed.id, 20)).last_error.message == "no"  # type: ignore[union-attr]
        results = [(await client.wait(f"t{n}", 20)).result for n in range(50)]
    assert results == [2 * n for n in range(50)]
    await pool.drain(5)
    await source.close()


async def test_a_cancelled_claim_leaves_no_task_running(server: Server) -> None:
    source = RemoteSource(url(server), "w1")
    for _ in range(20):
        claiming = asyncio.create_task(source.claim(1))
        task = (await server.enqueue()).json()
        await asyncio.sleep(0)
        claiming.cancel()
        (outcome,) = await asyncio.gather(claiming, return_exceptions=True)
        if isinstance(outcome, list):
            await source.settle(outcome[0], Outcome(Kind.RELEASED))
        async with asyncio.timeout(5):
            while (await server.get(f"/tasks/{task['id']}")).json()["status"] == "running":
                await asyncio.sleep(0.01)
    await source.close()
    # A claim may have got a task of an earlier turn, which is given back while this turn's is looked at.
    async with asyncio.timeout(5):
        while "running" in {task["status"] for task in (await server.get("/tasks")).json()}:
            await asyncio.sleep(0.01)
    assert {task["attempts"] for task in (await server.get("/tasks")).json()} == {0}


async def test_a_unique_task_that_lives_is_the_answer(call: Call) -> None:
    first: Task = await call("enqueue", "h", 1, unique="k", expires=60)
    assert first.unique == Unique("k")
    assert first.expires_at is not None
    assert (first.expires_at - first.created_at).total_seconds() == 60
    again: Task = await call("enqueue", "h", 2, unique="k")
    assert (again.id, again.deduplicated, again.payload) == (first.id, True, 1)
    rules = {"key": "k", "until": 30, "on_conflict": "replace", "within": 5}
    replaced: Task = await call("enqueue", "h", 3, unique=rules)
    assert (replaced.id, replaced.replaced, replaced.payload) == (first.id, True, 3)
    with pytest.raises(errors.NotUnique):
        await call("enqueue", "h", unique={"key": "k", "on_conflict": "reject"})
    many = await call("enqueue_many", [{"handler": "h", "unique": "k"}, {"handler": "h", "unique": "l"}])
    assert [(task.id == first.id, task.deduplicated) for task in many] == [(True, True), (False, False)]


async def test_a_request_that_was_named_is_made_once(call: Call) -> None:
    first = await call("enqueue", "h", 1, idempotency_key="order-7")
    assert await call("enqueue", "h", 1, idempotency_key="order-7") == first
    with pytest.raises(errors.IdempotencyMismatch):
        await call("enqueue", "h", 2, idempotency_key="order-7")
    own = await call("enqueue", "h", 1, idempotency_key="order-8", id="mine")
    assert own.id == "mine"


async def test_a_waiting_task_is_changed(server: Server, call: Call) -> None:
    task = await call("enqueue", "h", 1, delay=60, expires=90, timeout=5)
    changed = await call("change", task.id, payload={"n": 2}, priority=4, delay=0, expires=None, timeout=None)
    assert (changed.payload, changed.priority, changed.expires_at, changed.timeout) == (
        {"n": 2},
        4,
        None,
        None,
    )
    assert changed.run_at < task.run_at
    await server.run_one(Kind.DONE)
    with pytest.raises(errors.AlreadyFinished):
        await call("change", task.id, priority=1)


async def test_a_key_that_may_only_enqueue_is_told_which_task_lives(start: Start) -> None:
    entry = f"web:enqueue:{hashlib.sha256(b'secret').hexdigest()}"
    server = await start(
        keys=Keyring(parse_entries(entry), None, clock=ManualClock(), local="local"), local_token="local"
    )
    client = AsyncClient(url(server), key="secret", retries=0)
    first = await client.enqueue("h", {"n": 1}, unique="k")
    again = await client.enqueue("h", {"n": 2}, unique="k", queue="q")
    assert (again.id, again.deduplicated, again.status, again.handler) == (first.id, True, Status.QUEUED, "h")
    many = await client.enqueue_many([{"handler": "h", "unique": "k"}, {"handler": "h"}])
    assert [isinstance(task, Task) and task.deduplicated for task in many] == [True, False]
    await client.close()
