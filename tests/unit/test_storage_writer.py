"""The SQLite engine's thread: what it takes together, and in which order it answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import apsw
import pytest

from jobpipe.core.errors import StorageFull
from jobpipe.storage.calls import SETTLE, Call
from jobpipe.storage.sqlite.writer import LARGE, MAX_GATHERED, Calls, Writer

NAMES = ("insert", "settle", "steer", "claim", "read")


class Store:
    """Notes what each commit carries; `gate` holds commits up."""

    def __init__(self) -> None:
        self.commits: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.can_wait = True
        self.hands_out = False
        self.owes = self.overdue = False
        self.error: Exception | None = None

    def hand_out(self, argument: int) -> int | None:
        self.owes = self.owes or self.hands_out
        return argument if self.hands_out else None

    def commit(self, calls: Calls) -> None:
        self.commits.append([f"{NAMES[call.turn]}{_number(call)}" for call in calls])
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.owes = self.overdue = False
        for call in calls:
            call.answer = _number(call)
            call.can_wait = call.turn == SETTLE and self.can_wait

    def read(self, calls: Calls) -> None:
        for call in calls:
            call.answer = None

    def close(self) -> None:
        """Nothing is open."""


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Writer[Store]]:
    writer = Writer(lambda: store)
    await writer.start()
    try:
        yield writer
    finally:
        store.gate.set()
        await writer.stop()


def call(writer: Writer[Store], name: str, number: int = 0, weight: int = 1) -> asyncio.Future[int]:
    if name == "claim":
        return writer.claim(lambda store: store.hand_out(number), lambda _: number)
    return writer.gather(NAMES.index(name), _serve, number, weight)


def _serve(_: Store, __: object) -> None:
    raise AssertionError("the store above answers by itself")


def _number(call: Call[Any, int]) -> int:
    return call.argument if isinstance(call.argument, int) else 0


def wait(store: Store, commits: int) -> None:
    """For so many commits, without giving the event loop a turn."""
    end = time.monotonic() + 10
    while len(store.commits) < commits and time.monotonic() < end:
        time.sleep(0.001)


async def test_the_thread_begins_with_a_large_call_and_all_before_it_without_a_turn_of_the_loop() -> None:
    store = Store()
    async with opened(store) as writer:
        small, large = call(writer, "insert", 1), call(writer, "insert", 2, LARGE)
        wait(store, 1)
        assert store.commits == [["insert1", "insert2"]]
        assert [await small, await large] == [1, 2]


async def test_small_calls_of_a_turn_are_handed_over_together() -> None:
    store = Store()
    async with opened(store) as writer:
        await asyncio.gather(*(call(writer, "insert", n, LARGE - 1) for n in range(3)))
    assert store.commits == [["insert0", "insert1", "insert2"]]


async def test_a_commit_takes_no_more_when_it_has_many_tasks() -> None:
    store = Store()
    async with opened(store) as writer:
        store.gate.clear()
        first = call(writer, "insert", 0, LARGE)
        wait(store, 1)
        weight = MAX_GATHERED // 4
        rest = [call(writer, "insert", n, weight) for n in range(1, 11)]
        store.gate.set()
        await asyncio.gather(first, *rest)
    assert [len(commit) for commit in store.commits] == [1, 4, 4, 2]


@pytest.mark.parametrize("can_wait", [True, False])
async def test_claims_are_answered_before_what_can_wait(can_wait: bool) -> None:
    store, order = Store(), list[str]()
    store.can_wait = can_wait
    async with opened(store) as writer:
        for group in ("insert", "settle", "claim"):
            call(writer, group).add_done_callback(lambda _, group=group: order.append(group))  # type: ignore[misc]
        await call(writer, "insert")
        await asyncio.sleep(0.05)
    assert order == (["insert", "claim", "settle"] if can_wait else ["insert", "settle", "claim"])


async def test_what_waits_is_answered_when_the_writer_stops_at_once() -> None:
    async with opened(Store()) as writer:
        futures = [call(writer, group) for group in ("settle", "claim")]
    assert all(future.done() for future in futures)


async def test_a_claim_that_needs_no_commit_is_answered_before_the_one_of_its_neighbours() -> None:
    store = Store()
    store.hands_out = True
    async with opened(store) as writer:
        store.gate.clear()
        settle, claim = call(writer, "settle"), call(writer, "claim", 7)
        assert await asyncio.wait_for(claim, 5) == 7
        assert not settle.done()
        store.gate.set()
        await settle
    assert store.commits == [["settle0"]]


async def test_what_is_owed_is_written_soon_though_nobody_calls() -> None:
    store = Store()
    store.hands_out = True
    async with opened(store) as writer:
        await call(writer, "claim")
        async with asyncio.timeout(5):
            while store.owes:
                await asyncio.sleep(0.001)
    assert store.commits == [[]]


async def test_what_is_owed_is_written_before_the_store_closes() -> None:
    store = Store()
    store.hands_out = True
    async with opened(store) as writer:
        await call(writer, "claim")
    assert (store.owes, store.commits) == (False, [[]])


async def test_a_store_that_fails_hands_nothing_out_until_a_commit_succeeds() -> None:
    store = Store()
    store.hands_out, store.error = True, apsw.FullError()
    async with opened(store) as writer:
        for group in ("insert", "claim"):
            with pytest.raises(StorageFull):
                await call(writer, group)
        store.error = None
        await call(writer, "insert")
        await call(writer, "claim")
    assert store.commits == [["insert0"], ["claim0"], ["insert0"], []]


async def test_what_is_overdue_is_written_though_others_only_read() -> None:
    store = Store()
    store.hands_out = True
    async with opened(store) as writer:
        await call(writer, "claim")
        store.overdue = True
        await writer.ask(lambda _: None)
        async with asyncio.timeout(5):
            while store.owes:
                await asyncio.sleep(0)
    assert [] in store.commits
