"""Several servers of one store: each shows the workers and the live changes of all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

import postgres
from jobpipe.core.task import NewTask
from jobpipe.engine import sharing as sharing_
from jobpipe.engine.feed import Feed, Frame
from jobpipe.engine.queue import TaskQueue
from jobpipe.engine.sharing import Sharing
from jobpipe.engine.signs import Sign
from jobpipe.engine.workers import Worker
from jobpipe.storage import open_storage

PATIENCE_S = 10


@dataclass
class Peer:
    """One server of the store."""

    queue: TaskQueue
    feed: Feed
    sharing: Sharing


@pytest.fixture
async def peers(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Peer, Peer]]:
    """Two servers on one database."""
    postgres.require()
    monkeypatch.setattr(sharing_, "LOOK_S", 0.05)
    url, clock = postgres.empty_store(), postgres.shared_cluster().clock()
    started: list[Peer] = []
    for _ in range(2):
        storage = open_storage(url, clock=clock)
        queue = TaskQueue(storage, clock=clock)
        await queue.open()
        feed = Feed(queue)
        started.append(Peer(queue, feed, Sharing(queue, storage, feed, clock)))
    for peer in started:
        peer.sharing.start()
    yield started[0], started[1]
    for peer in started:
        await peer.feed.end()
        await peer.sharing.stop()
        await peer.sharing.stop()
        await peer.queue.close()


async def shown(peer: Peer, worker_id: str, host: str | None = None) -> Worker:
    """The worker, once the server shows it with a run and as from `host`, which the store alone does not know."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            for worker in await peer.queue.workers.all():
                if worker.worker_id == worker_id and worker.tasks and worker.host == host:
                    return worker
            await asyncio.sleep(0.02)


async def test_a_worker_of_one_server_is_shown_by_the_other_once(peers: tuple[Peer, Peer]) -> None:
    one, other = peers
    one.queue.workers.asked(Sign("w1", wants=3, lease_s=30, host="far", pid=7))
    await one.queue.enqueue([NewTask(id="a", handler="h")])
    await one.queue.claim("w1", 3, lease_s=30, local=False)
    worker = await shown(other, "w1", "far")
    assert (worker.host, worker.pid, worker.total, worker.busy) == ("far", 7, 3, 1)
    assert [(run.id, run.handler) for run in worker.tasks] == [("a", "h")]
    assert [known.worker_id for known in await other.queue.workers.all()] == ["w1"]


async def test_a_worker_that_calls_both_is_one_with_the_runs_of_both(peers: tuple[Peer, Peer]) -> None:
    for peer, id in zip(peers, "ab", strict=True):
        peer.queue.workers.asked(Sign("w1", wants=1, lease_s=30))
        await peer.queue.enqueue([NewTask(id=id, handler="h")])
        assert len(await peer.queue.claim("w1", 1, lease_s=30, local=False)) == 1
    async with asyncio.timeout(PATIENCE_S):
        while sorted(run.id for run in (await shown(peers[0], "w1")).tasks) != ["a", "b"]:
            await asyncio.sleep(0.02)
    (worker,) = await peers[0].queue.workers.all()
    assert (worker.busy, worker.total) == (2, 2)


async def test_a_reader_of_one_server_is_told_within_a_second_what_another_did(
    peers: tuple[Peer, Peer],
) -> None:
    one, other = peers
    reader = other.feed.join()
    never = asyncio.get_running_loop().create_future()
    assert [frame.reset for frame in await reader.next(never, PATIENCE_S) or ()] == [True]
    async with asyncio.timeout(PATIENCE_S):
        while one.sharing not in one.queue._observers:  # it has heard that somebody reads
            other.sharing._want()  # said again every few seconds: the two may not know each other yet
            await asyncio.sleep(0.05)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await one.queue.enqueue([NewTask(id="a", handler="h")])
    frames: list[Frame] = []
    while not any(change.id == "a" for frame in frames for change in frame.changes):
        frames += await reader.next(never, PATIENCE_S) or ()
        assert loop.time() - began < PATIENCE_S
    assert loop.time() - began < 2  # a second, and what a busy machine adds
    reader.leave()


async def test_nothing_is_gathered_for_others_while_nobody_reads(peers: tuple[Peer, Peer]) -> None:
    one, other = peers
    await one.queue.enqueue([NewTask(id="a", handler="h")])
    assert one.sharing not in one.queue._observers
    assert other.sharing not in other.queue._observers


async def test_a_store_of_one_server_shares_nothing() -> None:
    storage = open_storage("memory:")
    queue = TaskQueue(storage)
    await queue.open()
    feed = Feed(queue)
    sharing = Sharing(queue, storage, feed, queue._clock)
    sharing.start()
    assert sharing._tasks == set()
    assert await storage.announced() == []
    await sharing.stop()
    await queue.close()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"want":1}', b'{"changes":[[1]]}'])
async def test_what_cannot_be_understood_is_passed_over(data: bytes) -> None:
    storage = open_storage("memory:")
    queue = TaskQueue(storage)
    feed = Feed(queue)
    Sharing(queue, storage, feed, queue._clock)._heard(data)
    assert not feed.gathered
