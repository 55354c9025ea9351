"""Unique keys, repeated requests and expiry where several servers share a database, and connections are lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from desk import DONE, FAILED_FOR_GOOD, RELEASED, Desk, OpenDesk, codes_of, ids_of, new

import postgres
from jobpipe.core.errors import StorageError
from jobpipe.core.task import NewTask, Status, Task
from jobpipe.core.unique import Found, Known, OnConflict, Unique, text_of
from jobpipe.engine.expiry import expiry_alarm
from jobpipe.engine.queue import TaskQueue
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage
from jobpipe.storage.postgres import migrations
from jobpipe.storage.postgres.counts import FRESH_S

KEY = Unique("k")


@pytest.fixture
def url() -> str:
    return postgres.empty_store()


@pytest.fixture
async def desks(open_desk: OpenDesk) -> list[Desk]:
    return [await open_desk() for _ in range(3)]


@pytest.fixture
async def queues() -> AsyncIterator[list[TaskQueue]]:
    """Two servers by the machine's clock."""
    url = postgres.empty_store("real")
    opened = [TaskQueue(open_storage(url, clock=SystemClock())) for _ in range(2)]
    for queue in opened:
        await queue.open()
    yield opened
    for queue in opened:
        await queue.close()


def unique(id: str, rule: Unique = KEY, **fields: Any) -> NewTask:
    return new(id, uniqueness=text_of(rule), **fields)


def stands_for(answers: list[Any]) -> list[str]:
    return [answer.task.id if isinstance(answer, Known) else answer.id for answer in answers]


async def run(url: str, statement: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


# --- several servers ---


async def test_a_key_wanted_by_all_servers_at_once_is_one_task(desks: list[Desk]) -> None:
    for turn in range(20):
        rule = Unique(f"k{turn}")
        tasks = [unique(f"{turn}-{n}", rule) for n in range(30)]
        answers = await asyncio.gather(
            *(desks[n % 3].store.insert([task], desks[0].now) for n, task in enumerate(tasks))
        )
        found = [answer for (answer,) in answers]
        (first,) = [answer for answer in found if isinstance(answer, Task)]
        assert set(stands_for(found)) == {first.id}
    assert len(await desks[0].listed()) == 20


async def test_batches_of_the_same_keys_in_other_orders_never_wait_for_each_other(desks: list[Desk]) -> None:
    keys = [Unique(f"k{n}") for n in range(20)]

    async def some(desk: Desk, name: str) -> list[Any]:
        mixed = random.sample(keys, len(keys))
        return await desk.store.insert([unique(f"{name}-{rule.key}", rule) for rule in mixed], desk.now)

    async with asyncio.timeout(20):
        for turn in range(5):
            answers = await asyncio.gather(*(some(desk, f"{turn}-{n}") for n, desk in enumerate(desks)))
            assert all(isinstance(answer, Task | Known) for batch in answers for answer in batch)
    assert len(await desks[0].listed()) == 20


async def test_replacing_and_beginning_at_once_lose_no_payload(desks: list[Desk]) -> None:
    rule = Unique("k", "start", OnConflict.REPLACE)
    for turn in range(15):
        await desks[0].store.insert([unique(f"a{turn}", rule, payload=b"0")], desks[0].now)
        (answer,), claims = await asyncio.gather(
            desks[1].store.insert([unique(f"b{turn}", rule, payload=b"1")], desks[1].now), desks[2].claim(1)
        )
        if isinstance(answer, Task):  # it had begun: this one is another
            (other,) = await desks[0].claim(1)
            assert {(c.task.id, c.task.payload) for c in (*claims, other)} == {
                (f"a{turn}", b"0"), (f"b{turn}", b"1"),
            }  # fmt: skip
        else:
            assert isinstance(answer, Known)
            assert answer.found is Found.REPLACED
            claims = claims or await desks[0].claim(1)
            assert [(c.task.id, c.task.payload) for c in claims] == [(f"a{turn}", b"1")]


async def test_one_of_two_retries_by_hand_takes_the_key(desks: list[Desk]) -> None:
    for id_ in ("a", "b", "c"):
        await desks[0].store.insert([unique(id_)], desks[0].now)
        await desks[0].settle(await desks[0].claim_one(), FAILED_FOR_GOOD)
    answers = await asyncio.gather(*(desk.retry(id_) for desk, id_ in zip(desks, "abc", strict=True)))
    assert sorted(code for answer in answers for code in codes_of(answer)) == [
        "not_unique", "not_unique", "task",
    ]  # fmt: skip
    await asyncio.sleep(FRESH_S)
    await desks[0].assert_counts_are_true()


async def test_a_claim_that_nobody_was_given_leaves_a_task_that_can_be_begun(desk: Desk, url: str) -> None:
    await desk.store.insert([unique("a", Unique("k", "start"), expires_at=desk.now + 1000)], desk.now)
    await desk.settle(await desk.claim_one(), RELEASED)
    desk.clock.advance(5)
    (row,) = await run(url, "SELECT count(*) AS n FROM jobpipe.unique_keys")
    assert row["n"] == 0
    assert ids_of(await desk.claim(5)) == ["a"]


# --- what stays behind ---


async def test_a_key_whose_task_is_gone_or_was_ended_by_an_older_server_is_free(desk: Desk, url: str) -> None:
    lasting = Unique("l", 1000.0)
    await desk.store.insert([unique("a"), unique("b", lasting)], desk.now)
    for claim in await desk.claim(2):
        await desk.settle(claim, DONE)
    # As a server of the first schema ends a task, and as a partition that was dropped.
    await run(
        url,
        "INSERT INTO jobpipe.unique_keys SELECT 'h', 'k', seq, NULL, false FROM jobpipe.ids WHERE id = 'a'",
    )
    await run(url, "DELETE FROM jobpipe.finished WHERE id = 'b'")
    assert stands_for(await desk.store.insert([unique("c"), unique("d", lasting)], desk.now)) == ["c", "d"]


async def test_a_batch_that_lost_a_race_leaves_nothing_behind(desks: list[Desk], url: str) -> None:
    tasks = [[unique(f"{n}-{i}", Unique(f"k{i % 7}")) for i in range(14)] for n in range(3)]
    await asyncio.gather(
        *(desk.store.insert(batch, desk.now) for desk, batch in zip(desks, tasks, strict=True))
    )
    (row,) = await run(
        url,
        "SELECT (SELECT count(*) FROM jobpipe.ids) AS ids, (SELECT count(*) FROM jobpipe.unique_keys) AS keys",
    )
    assert (row["ids"], row["keys"]) == (7, 7)


# --- servers of an earlier version ---


async def test_beside_an_older_server_what_it_would_not_honour_is_refused(desk: Desk, url: str) -> None:
    await run(
        url,
        "INSERT INTO jobpipe.servers (server, writers, alive_until) VALUES ('old', '{}', jobpipe.now_ms() + 15000)",
    )
    items = [
        new("plain"), unique("u"), new("e", expires_at=desk.now + 99_000), new("d", digest="x"), new("k", key="t"),
    ]  # fmt: skip
    assert codes_of(await desk.store.insert(items, desk.now)) == ["task"] + ["upgrading"] * 4
    await run(url, "UPDATE jobpipe.servers SET program = $1 WHERE server = 'old'", len(migrations.scripts()))
    assert codes_of(await desk.store.insert(items[1:], desk.now)) == ["task"] * 4
    await run(url, "UPDATE jobpipe.servers SET program = NULL WHERE server = 'old'")
    desk.clock.advance(16)  # it was killed, and said no goodbye
    assert codes_of(await desk.store.insert([new("l", key="t")], desk.now)) == ["task"]


# --- lost answers ---


@pytest.fixture
def cut_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Cuts the link of a queue's intake behind the first statement that begins, or holds, these words."""

    def arrange(queue: TaskQueue, words: str) -> None:
        link = queue._storage._intake._link  # type: ignore[attr-defined]
        script, rows = link.script, link.rows

        async def cut_script(text: str) -> None:
            await script(text)
            if text.startswith(words):
                link.cut()
                await script(text)

        async def cut_rows(statement: str, *arguments: object, **more: object) -> object:
            answer = await rows(statement, *arguments, **more)
            if words in statement:
                link.cut()
                await rows(statement, *arguments, **more)
            return answer

        monkeypatch.setattr(link, "script", cut_script)
        monkeypatch.setattr(link, "rows", cut_rows)

    return arrange


@pytest.mark.parametrize(
    "words",
    ["BEGIN", "FROM jobpipe.unique_keys", "INSERT INTO jobpipe.ids", "INTO jobpipe.unique_keys", "COMMIT"],
)
async def test_a_batch_whose_answer_was_lost_is_written_once(
    queues: list[TaskQueue], cut_after: Any, words: str
) -> None:
    rule = Unique("old", "end", OnConflict.REPLACE)
    await queues[0].enqueue([unique("old", rule, payload=b"0")])
    cut_after(queues[0], words)
    items = [
        unique("a"), unique("b"), unique("c", rule, payload=b"7"), new("r", digest="1"), new("r", digest="1"),
    ]  # fmt: skip
    answers = await queues[0].enqueue(items)
    assert stands_for(answers) == ["a", "a", "old", "r", "r"]
    assert codes_of(answers) == ["task", "known", "known", "task", "known"]
    assert (await queues[1].counts())[Status.QUEUED] == 3
    old, first = await queues[1].get(["old", "a"])
    assert old is not None
    assert (old.payload, first) == (b"7", answers[0])


async def test_cut_connections_make_no_second_task_of_a_key(queues: list[TaskQueue]) -> None:
    """Fifty at a time over two servers, whose connections are cut all the while."""
    url = postgres.shared_cluster().url("real")
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'jobpipe' AND random() < 0.3"
    done = asyncio.Event()

    async def cutting() -> None:
        while not done.is_set():
            await asyncio.sleep(random.uniform(0.005, 0.03))
            await run(url, cut)

    async def until_told(queue: TaskQueue, task: NewTask) -> Any:
        while True:
            try:
                (answer,) = await queue.enqueue([task])
            except StorageError:
                await asyncio.sleep(0.02)
            else:
                return answer

    cutter = asyncio.create_task(cutting())
    try:
        for turn in range(10):
            rule = Unique(f"k{turn}")
            answers = await asyncio.gather(
                *(until_told(queues[n % 2], unique(f"{turn}-{n}", rule)) for n in range(50))
            )
            assert len(set(stands_for(answers))) == 1
    finally:
        done.set()
        await cutter
    rows = await run(url, "SELECT uniqueness, count(*) AS n FROM jobpipe.tasks GROUP BY 1")
    assert [row["n"] for row in rows] == [1] * 10


# --- expiry ---


async def test_a_task_expires_in_time_though_the_server_that_took_it_is_gone(queues: list[TaskQueue]) -> None:
    taker, other = queues
    alarm = expiry_alarm(other, other._storage, SystemClock())
    alarm.start()
    try:
        now = SystemClock().now()
        (task,) = await taker.enqueue([new("a", expires_at=now + 1200)])
        assert isinstance(task, Task)
        await taker.close()
        async with asyncio.timeout(1.2 + 1.0):
            while not (ended := await other.get(["a"]))[0] or ended[0].status is Status.QUEUED:
                await asyncio.sleep(0.02)
        assert ended[0].status is Status.CANCELLED
        assert ended[0].finished_at is not None
        assert 0 <= ended[0].finished_at - (task.expires_at or 0) < 1000
    finally:
        await alarm.stop()


async def test_a_wrong_clock_of_a_server_moves_no_expiry(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    (task,) = await desk.store.insert(
        [new("a", expires_at=desk.now + 5000 + 3_600_000)], desk.now + 3_600_000
    )
    assert isinstance(task, Task)
    assert task.expires_at == desk.now + 5000
    assert await desk.store.expire(desk.now + 3_600_000, 10) == []
    desk.clock.advance(5)
    assert ids_of(await desk.store.expire(desk.now, 10)) == ["a"]
