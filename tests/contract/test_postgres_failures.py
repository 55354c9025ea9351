"""The database is away, comes back, or cuts the connection within a statement: nothing acknowledged is lost, no id is
two tasks, and all heals by itself."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeVar

import pytest
from desk import codes_of, new

import postgres
from jobpipe.core.errors import StorageError, StorageRefused
from jobpipe.core.lifecycle import Kind, Outcome
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.values import Report
from jobpipe.storage import open_storage
from jobpipe.storage.postgres import migrations

T = TypeVar("T")

CUT = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobpipe'"


@pytest.fixture(scope="module")
def cluster() -> Iterator[postgres.Cluster]:
    """A server of our own, to be stopped and started."""
    postgres.require()
    folder = postgres.new_folder()
    cluster = postgres.Cluster(folder)
    cluster.make()
    cluster.start()
    yield cluster
    cluster.stop("immediate")
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def queue(cluster: postgres.Cluster) -> AsyncIterator[TaskQueue]:
    schema = f"s{time.monotonic_ns()}"
    queue = TaskQueue(open_storage(f"{cluster.url()}?schema={schema}", capacity=10**6))
    await queue.open()
    yield queue
    await queue.close()


async def until_reached(call: Callable[[], Awaitable[T]]) -> T:
    """What a call gives as soon as the database is there again."""
    async with asyncio.timeout(15):
        while True:
            try:
                return await call()
            except StorageError:
                await asyncio.sleep(0.02)


async def enqueue_until_taken(queue: TaskQueue, id: str) -> str:
    """What becomes of an id whose client tries again until it is told something."""
    (code,) = codes_of(await until_reached(lambda: queue.enqueue([NewTask(id, "h")])))
    return code


async def test_a_database_that_is_away_refuses_at_once_and_all_heals_when_it_is_back(
    cluster: postgres.Cluster, queue: TaskQueue
) -> None:
    await queue.enqueue([NewTask("before", "h"), NewTask("runs", "h", priority=1)])
    (claim,) = await queue.claim("w", 1)
    cluster.stop("immediate")
    try:
        began = time.perf_counter()
        for _ in range(3):
            with pytest.raises(StorageError):
                await queue.enqueue([NewTask("meanwhile", "h")])
            with pytest.raises(StorageError):
                await queue.check()
            with pytest.raises(StorageError):
                await queue.claim("w", 1)
        assert time.perf_counter() - began < 5
    finally:
        cluster.start()
    assert await enqueue_until_taken(queue, "after") == "task"
    await until_reached(
        queue.check
    )  # over another connection, which makes a pause of its own between its tries
    (answer,) = await until_reached(
        lambda: queue.settle([Report("runs", claim.lease_id, Outcome(Kind.DONE))])
    )
    assert not isinstance(answer, StorageError)
    (task,) = await queue.get(["runs"])
    assert task is not None
    assert task.status is Status.DONE
    assert [c.task.id for c in await queue.claim("w", 5, wait=5)][:1] == ["before"]


async def test_connections_cut_under_load_lose_and_double_nothing(
    cluster: postgres.Cluster, queue: TaskQueue
) -> None:
    accepted: list[str] = []
    runs: dict[str, int] = {}
    stop = asyncio.Event()

    async def produce(name: str) -> None:
        n = 0
        while not stop.is_set():
            id_ = f"{name}-{n}"
            n += 1
            # A conflict with itself is an answer too: the first try was stored without an acknowledgement.
            assert await enqueue_until_taken(queue, id_) in ("task", "task_exists")
            accepted.append(id_)

    async def work() -> None:
        while not (stop.is_set() and len(runs) == len(accepted)):
            try:
                for claim in await queue.claim("w", 20, wait=0.2):
                    runs[claim.task.id] = runs.get(claim.task.id, 0) + 1
                    await settle_until_told(queue, claim.task.id, claim.lease_id)
            except StorageError:
                await asyncio.sleep(0.02)

    async def cut() -> None:
        for _ in range(8):
            await asyncio.sleep(0.25)
            await cluster.ask(CUT)
        stop.set()

    async with asyncio.timeout(50):
        await asyncio.gather(*(produce(f"p{i}") for i in range(8)), *(work() for _ in range(3)), cut())
    tasks = await queue.get(accepted)
    assert all(task is not None and task.status is Status.DONE for task in tasks)
    assert len(accepted) == len(set(accepted)) == len(runs)
    await asyncio.sleep(0.2)
    assert (await queue.counts())[Status.DONE] == len(accepted)


async def settle_until_told(queue: TaskQueue, id: str, lease_id: str) -> None:
    while True:
        try:
            await queue.settle([Report(id, lease_id, Outcome(Kind.DONE))])
        except StorageError:
            await asyncio.sleep(0.02)
        else:
            return


async def test_an_insert_whose_answer_was_lost_is_found_again_and_not_done_twice(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue([NewTask("warm", "h")])
    link = queue._storage._intake._link  # type: ignore[attr-defined]
    rows = link.rows

    async def written_and_cut(statement: str, *arguments: object, **more: object) -> object:
        answer = await rows(statement, *arguments, **more)
        if "INSERT INTO jobpipe.ids" not in statement:
            return answer
        link.cut()
        return await rows(statement, *arguments, **more)

    monkeypatch.setattr(link, "rows", written_and_cut)
    answers = await queue.enqueue([NewTask(f"t{i}", "h") for i in range(5)])
    assert codes_of(answers) == ["task"] * 5
    assert [task.id for task in answers if isinstance(task, Task)] == [f"t{i}" for i in range(5)]
    assert (await queue.counts())[Status.QUEUED] == 6
    assert len(await queue.claim("w", 100)) == 6


async def test_a_claim_whose_answer_was_lost_is_given_back(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue([NewTask(f"t{i}", "h") for i in range(3)])
    store = queue._storage
    link = store._work._link  # type: ignore[attr-defined]
    rows = link.rows

    async def written_and_cut(statement: str, *arguments: object, **more: object) -> object:
        answer = await rows(statement, *arguments, **more)
        if "SKIP LOCKED" not in statement:
            return answer
        link.cut()
        return await rows(statement, *arguments, **more)

    monkeypatch.setattr(link, "rows", written_and_cut)
    assert await queue.claim("w", 3) == []
    await store._tidy()  # type: ignore[attr-defined] # what is done every few seconds
    claims = await queue.claim("w", 3)
    assert [(claim.task.id, claim.task.attempts) for claim in claims] == [(f"t{i}", 1) for i in range(3)]
    await asyncio.sleep(0.1)
    assert await queue.counts() == dict.fromkeys(Status, 0) | {Status.RUNNING: 3}


async def test_such_a_claim_that_was_cancelled_meanwhile_ends_and_is_asked_for_no_longer(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue([NewTask("a", "h")])
    store = queue._storage
    link = store._work._link  # type: ignore[attr-defined]
    rows = link.rows

    async def written_and_cut(statement: str, *arguments: object, **more: object) -> object:
        answer = await rows(statement, *arguments, **more)
        if "SKIP LOCKED" not in statement:
            return answer
        link.cut()
        return await rows(statement, *arguments, **more)

    monkeypatch.setattr(link, "rows", written_and_cut)
    assert await queue.claim("w", 1) == []
    await queue.cancel(["a"])
    await store._tidy()  # type: ignore[attr-defined] # what is done every few seconds
    (task,) = await queue.get(["a"])
    assert task is not None
    assert task.status is Status.CANCELLED
    assert await queue.attempts("a") == []
    monkeypatch.setattr(store._runs, "_doubtful", {"long ago": float("-inf")})  # type: ignore[attr-defined]
    await store._tidy()  # type: ignore[attr-defined]
    assert store._runs._doubtful == {}  # type: ignore[attr-defined]


async def test_a_settle_whose_answer_was_lost_is_told_as_the_first(
    queue: TaskQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await queue.enqueue([NewTask("a", "h")])
    (claim,) = await queue.claim("w", 1)
    waiting = asyncio.ensure_future(queue.wait_finished("a", 10))
    link = queue._storage._work._link  # type: ignore[attr-defined]
    rows = link.rows

    async def written_and_cut(statement: str, *arguments: object, **more: object) -> object:
        answer = await rows(statement, *arguments, **more)
        link.cut()
        return await rows(statement, *arguments, **more) or answer

    monkeypatch.setattr(link, "rows", written_and_cut)
    (answer,) = await queue.settle([Report("a", claim.lease_id, Outcome(Kind.DONE, result=b"1"))])
    assert (answer.status, answer.repeated) == (Status.DONE, False)  # type: ignore[union-attr]
    task = await waiting
    assert task is not None
    assert task.result == b"1"


async def test_a_lock_of_somebody_else_delays_and_breaks_nothing(
    cluster: postgres.Cluster, queue: TaskQueue
) -> None:
    schema = queue._storage._address.schema  # type: ignore[attr-defined]
    holding = asyncio.ensure_future(
        cluster.ask(f"BEGIN; LOCK TABLE {schema}.tasks; SELECT pg_sleep(1); COMMIT")
    )
    await asyncio.sleep(0.2)
    (answer,) = await queue.enqueue([NewTask("a", "h")])
    assert isinstance(answer, Task)
    await holding


# --- opening ----------------------------------------------------------------------------------------------------------


async def refused(url: str) -> str:
    store = open_storage(url)
    with pytest.raises(StorageRefused) as error:
        await store.open()
    assert "\n" not in str(error.value)
    return str(error.value)


async def test_a_database_that_cannot_be_reached_is_one_line_without_the_password(
    cluster: postgres.Cluster,
) -> None:
    line = await refused("postgresql://me:secret@127.0.0.1:1/x")
    assert "cannot reach PostgreSQL at 127.0.0.1:1/x" in line
    assert "secret" not in line
    assert "cannot reach" in await refused(cluster.url("nobody"))


@pytest.mark.parametrize("query", ["schema=A-b", "schema=", "pgbouncer=perhaps", "allow_unsafe=2"])
def test_a_parameter_that_cannot_be_is_refused(query: str) -> None:
    with pytest.raises(StorageRefused):
        open_storage(f"postgresql://h/d?{query}")


async def test_a_schema_that_wants_a_newer_program_is_refused_and_not_touched(
    cluster: postgres.Cluster,
) -> None:
    url = f"{cluster.url()}?schema=newer"
    store = open_storage(url)
    await store.open()
    await store.close()
    newest = len(migrations.scripts())
    await cluster.ask(f"UPDATE newer.version SET schema = {newest + 5}, oldest = {newest}; SELECT 1")
    store = open_storage(url)  # newer, and still served
    await store.open()
    await store.close()
    await cluster.ask(f"UPDATE newer.version SET oldest = {newest + 1}; DROP TABLE newer.summaries; SELECT 1")
    assert "upgrade jobpipe" in await refused(url)
    (row,) = await cluster.ask("SELECT to_regclass('newer.summaries') IS NULL AS untouched")
    assert row["untouched"]


async def test_servers_that_start_together_make_the_schema_once(cluster: postgres.Cluster) -> None:
    stores = [open_storage(f"{cluster.url()}?schema=together") for _ in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    await asyncio.gather(*(store.close() for store in stores))
    (row,) = await cluster.ask("SELECT schema FROM together.version")
    assert row["schema"] == len(migrations.scripts())


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused_unless_told(
    cluster: postgres.Cluster, name: str
) -> None:
    await cluster.ask(f"ALTER SYSTEM SET {name} = off")
    await cluster.ask("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(5):
            while (await cluster.ask(f"SHOW {name}"))[0][0] != "off":
                await asyncio.sleep(0.01)
        assert f"{name}=off" in await refused(f"{cluster.url()}?schema=unsafe")
        (row,) = await cluster.ask("SELECT to_regnamespace('unsafe') IS NULL AS untouched")
        assert row["untouched"]
        store = open_storage(f"{cluster.url()}?schema=told&allow_unsafe=true")
        await store.open()
        await store.close()
    finally:
        await cluster.ask(f"ALTER SYSTEM RESET {name}")
        await cluster.ask("SELECT pg_reload_conf()")


async def test_queues_of_two_schemas_know_nothing_of_each_other(cluster: postgres.Cluster) -> None:
    stores = [open_storage(f"{cluster.url()}?schema={name}") for name in ("east", "west")]
    for store in stores:
        await store.open()
    await stores[0].insert([new("a")], 0)
    assert await stores[1].get(["a"]) == [None]
    for store in stores:
        await store.close()
