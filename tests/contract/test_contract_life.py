"""open, close, check: a life that can be ended twice, or before it began."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from desk import ALL, Desk, OpenDesk, OpenStore, codes_of, new, settlement

from jobpipe.core.errors import StorageError, StorageRefused
from jobpipe.core.lifecycle import Kind, Outcome, Transition
from jobpipe.core.revision import Revision
from jobpipe.core.schedule_edits import delete
from jobpipe.core.task import Status, Task
from jobpipe.runtime.clock import ManualClock
from jobpipe.storage import open_storage
from jobpipe.storage.base import (
    ClaimRequest,
    Extension,
    Record,
    Settlement,
    Summary,
)
from jobpipe.storage.contract import Storage
from jobpipe.storage.flow import Declaration

TO = Transition(Kind.DONE, Status.DONE, 0, 1, 0, 0)
TASK = Task(1, "a", "h", "q", b"1", 0, Status.QUEUED, 0, 0, 0, 3, None, 0, 0)
CALLS: dict[str, Callable[[Storage], Coroutine[Any, Any, object]]] = {
    "insert": lambda store: store.insert([new("a")], 0),
    "claim": lambda store: store.claim(ClaimRequest(1, "w"), 0),
    "settle": lambda store: store.settle([Settlement("a", "x.1.1", TO)], 0),
    "extend": lambda store: store.extend([Extension("a", "x.1.1", 1)]),
    "lost": lambda store: store.lost(1),
    "next_expiry": lambda store: store.next_expiry(),
    "get": lambda store: store.get(["a"]),
    "attempts": lambda store: store.attempts("a"),
    "apps": lambda store: store.apps(),
    "waiting": lambda store: store.waiting(0, 1),
    "cancel": lambda store: store.cancel(["a"], 0),
    "retry": lambda store: store.retry(["a"], 0),
    "revise": lambda store: store.revise("a", Revision(), 0),
    "expire": lambda store: store.expire(0, 1),
    "next_expiring": lambda store: store.next_expiring(),
    "delete": lambda store: store.delete(["a"]),
    "page": lambda store: store.page(ALL, 1, None, 1),
    "match": lambda store: store.match(ALL, 1, None),
    "counts": lambda store: store.counts(),
    "queues": lambda store: store.queues(0),
    "prune": lambda store: store.prune(1, 1, 1),
    "next_prunable": lambda store: store.next_prunable(),
    "audit": lambda store: store.audit(),
    "keep_summary": lambda store: store.keep_summary(Summary(1, "s", b"{}"), 0),
    "summaries": lambda store: store.summaries(0, 1),
    "announce": lambda store: store.announce("s", b"{}"),
    "announced": lambda store: store.announced(),
    "cancelling": lambda store: store.cancelling(),
    "export": lambda store: store.export(0, 1, 1),
    "import_": lambda store: store.import_([Record(TASK)]),
    "say": lambda store: store.say("q", None, {"paused": True}, 0, None),
    "unsay": lambda store: store.unsay("q", None),
    "resume": lambda store: store.resume("q", None, 0, None),
    "declare": lambda store: store.declare(Declaration("a"), 0),
    "rules": lambda store: store.rules("q", 0),
    "keys": lambda store: store.keys("q", 1, None, 0),
    "key": lambda store: store.key("q", "k", 0),
    "held": lambda store: store.held([TASK], 0),
    "schedules": lambda store: store.schedules(),
    "edit_schedules": lambda store: store.edit_schedules(["s"], delete("s"), 0),
    "fire": lambda store: store.fire(0, 1),
    "next_firing": lambda store: store.next_firing(0),
    "schedule_counts": lambda store: store.schedule_counts(0),
    "check": lambda store: store.check(),
}


def test_no_protocol_of_the_contract_is_longer_than_a_page() -> None:
    for protocol in Storage.__mro__[1:]:
        assert len([name for name in dir(protocol) if not name.startswith("_")]) <= 12


def test_every_method_of_the_contract_is_tried_here() -> None:
    methods = {name for name in dir(Storage) if not name.startswith("_")}
    values = {"shared", "writes_local_claims_late"}
    assert methods - set(CALLS) - values == {
        "open",
        "close",
        "wait_broken",
        "publish",
        "listen",
        "commits",
        "clock_step",
        "limited",
    }


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_after_close_raises_a_storage_error(open_store: OpenStore, name: str) -> None:
    store = await open_store()
    await store.close()
    with pytest.raises(StorageError):
        await asyncio.wait_for(CALLS[name](store), 5)


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_before_open_raises_a_storage_error(url: str, clock: ManualClock, name: str) -> None:
    store = open_storage(url, clock=clock)
    with pytest.raises(StorageError):
        await asyncio.wait_for(CALLS[name](store), 5)
    await store.close()


async def test_close_twice_and_at_once_is_safe(open_store: OpenStore) -> None:
    store = await open_store()
    await asyncio.gather(store.close(), store.close())
    await asyncio.wait_for(store.close(), 5)


async def test_close_without_open_is_safe(url: str, clock: ManualClock) -> None:
    store = open_storage(url, clock=clock)
    await asyncio.wait_for(store.close(), 5)
    await asyncio.wait_for(store.close(), 5)


async def test_close_finishes_what_was_called(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    inserts = [asyncio.ensure_future(desk.insert(f"t{i}")) for i in range(50)]
    await asyncio.sleep(0)  # the calls are handed in
    await desk.store.close()
    answers = await asyncio.wait_for(asyncio.gather(*inserts), 5)
    assert all(isinstance(answer, Task) for (answer,) in answers)


async def test_every_call_that_meets_a_close_is_answered_one_way_or_the_other(open_desk: OpenDesk) -> None:
    desk = await open_desk()
    calls = [asyncio.ensure_future(desk.insert(f"t{i}")) for i in range(20)]
    closing = asyncio.ensure_future(desk.store.close())
    for i in range(20, 60):
        calls.append(asyncio.ensure_future(desk.insert(f"t{i}")))
        calls.append(asyncio.ensure_future(desk.listed()))
        await asyncio.sleep(0)
    await closing
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert all(isinstance(answer, list | StorageError) for answer in answers), answers


async def test_a_caller_that_goes_away_does_not_undo_its_call_nor_harm_others(desk: Desk) -> None:
    leaving = asyncio.ensure_future(desk.insert("a"))
    staying = asyncio.ensure_future(desk.insert("b"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert codes_of(await staying) == ["task"]
    assert (await desk.get("a")).status is Status.QUEUED


async def test_an_open_store_passes_its_check(desk: Desk) -> None:
    await desk.store.check()
    await desk.accept("a")
    await desk.store.check()


async def test_a_healthy_store_never_says_that_it_is_broken(desk: Desk) -> None:
    waiting = asyncio.ensure_future(desk.store.wait_broken())
    for i in range(20):
        await desk.finish(f"t{i}")
    assert not waiting.done()
    waiting.cancel()


UNSERVABLE = {
    "a count beyond 64 bit": new("bad", max_retries=2**63),
    "a count beyond JSON": new("bad", max_retries=10**30),
    "a priority beyond 64 bit": new("bad", priority=-(2**63) - 1),
    "a time beyond 64 bit": new("bad", run_at=2**64),
    "half a character": new("bad\ud800"),
    "a byte that was no text": new("bad", handler="\udcff"),
    "a timeout that is no number": new("bad", timeout="soon"),
    "no payload": new("bad", payload=None),
    "no queue": new("bad", queue=None),
}


@pytest.mark.parametrize("bad", UNSERVABLE.values(), ids=UNSERVABLE)
async def test_a_call_that_cannot_be_served_does_not_fail_its_neighbours(desk: Desk, bad: object) -> None:
    calls = [desk.insert(f"a{i}") for i in range(20)]
    calls.insert(10, desk.store.insert([new("in the same call"), bad], desk.now))  # type: ignore[list-item]
    calls.append(desk.insert("z"))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(answers.pop(10), StorageError)
    assert [codes_of(answer) for answer in answers if isinstance(answer, list)] == [["task"]] * 21
    assert await desk.store.get(["in the same call", "bad"]) == [None, None]
    await desk.assert_counts_are_true()
    await desk.store.check()
    assert codes_of(await desk.insert("after")) == ["task"]


async def test_a_claim_or_settle_that_cannot_be_served_does_not_fail_its_neighbours(desk: Desk) -> None:
    good, bad = await desk.start("good"), await desk.start("bad")
    await desk.accept("ready")  # so that there is something to claim from the first moment on
    broken = settlement(bad, Outcome(Kind.FAILED, message="\udcff"), desk.now)
    answers = await asyncio.gather(
        desk.insert("a"),
        desk.write(broken),
        desk.settle(good),
        desk.claim(1, lease_s=float("nan")),
        desk.claim(2**70),
        desk.cancel("nobody", "\udcff"),
        desk.insert("b"),
        return_exceptions=True,
    )
    assert [isinstance(answer, StorageError) for answer in answers] == [
        False, True, False, True, True, True, False,
    ]  # fmt: skip
    assert (await desk.get("good")).status is Status.DONE
    assert await desk.get("bad") == bad.task
    await desk.assert_counts_are_true()
    assert sorted(claim.task.id for claim in await desk.claim(5)) == ["a", "b", "ready"]
    await desk.settle(bad)
    assert (await desk.get("bad")).status is Status.DONE


@pytest.mark.parametrize(
    "url", ["", "jobpipe.db", "sqlite:", "sqlite://x", "mysql://x", "memory", "memory:x", "postgresql://x"]
)
def test_a_url_that_no_engine_serves_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(StorageRefused) as refused:
        open_storage(url)
    assert "\n" not in str(refused.value)
