"""SQLite: every statement finds its rows through the index meant for it.

The statements are taken from real calls, with their real arguments, and explained by the same connection.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from desk import ALL, DONE, FAILED, FAILED_FOR_GOOD, LOST, MANY_BYTES, Desk, OpenDesk, new, settlement

from jobpipe.core.task import Status
from jobpipe.storage import prefixes
from jobpipe.storage.base import TaskFilter
from jobpipe.storage.sqlite import statements as sql


@pytest.fixture
def url(tmp_path: Path) -> str:
    return "memory:"  # listings, too, run on the connection that is watched


@pytest.fixture
async def desk(writers: list[apsw.Connection], open_desk: OpenDesk) -> Desk:
    desk = await open_desk()
    await desk.accept(*(new(f"t{i}", queue=f"q{i % 3}", priority=i % 2) for i in range(60)))
    await desk.finish("done", DONE)
    await desk.finish("failed", FAILED_FOR_GOOD)
    await desk.start("running")
    await desk.cancel("t1")
    return desk


class Watch:
    """The statements that a call runs, and how SQLite finds their rows."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._db = connection

    async def plans(self, call: Callable[[], Awaitable[Any]]) -> dict[str, list[str]]:
        ran: list[tuple[str, Any]] = []

        def note(_: apsw.Cursor, statement: str, bindings: Any) -> bool:
            ran.append((statement, bindings))
            return True

        self._db.exec_trace = note
        try:
            await call()
        finally:
            self._db.exec_trace = None
        return {
            statement: self.explain(statement, bindings)
            for statement, bindings in ran
            if "tasks" in statement
        }

    def explain(self, statement: str, bindings: Any = ()) -> list[str]:
        rows = self._db.execute(f"EXPLAIN QUERY PLAN {statement}", bindings or ())
        return [str(detail) for _, _, _, detail in rows]


@pytest.fixture
def watch(desk: Desk, writers: list[apsw.Connection]) -> Watch:
    return Watch(writers[0])


def on_tasks(plan: list[str]) -> list[str]:
    return [step for step in plan if " tasks" in step]


async def test_no_call_on_the_way_of_a_task_scans_the_tasks_or_sorts(desk: Desk, watch: Watch) -> None:
    claim = await desk.start("one")
    lost = await desk.start("two")

    async def way() -> None:
        await desk.insert("new", "t1")
        claims = await desk.claim(3)
        await desk.claim(3, queues=["q1", "q2"])
        await desk.write(settlement(claim, DONE, desk.now), settlement(claims[0], FAILED, desk.now))
        await desk.settle(claim)
        await desk.settle(lost, LOST, rescue=True)
        await desk.store.get(["t1", "t2"])
        await desk.store.attempts("two")
        await desk.cancel("t4", "running")
        await desk.retry("failed")
        await desk.delete("done")
        await desk.store.counts()
        await desk.store.queues(desk.now)
        await desk.store.lost(5)
        await desk.store.prune(desk.now + 1, desk.now + 1, 10)
        await desk.store.next_prunable()

    plans = await watch.plans(way)
    assert len(plans) >= 10
    for statement, plan in plans.items():
        assert not [step for step in plan if step.startswith("SCAN tasks")], (statement, plan)
        assert not [step for step in plan if "TEMP B-TREE" in step and "ORDER BY" in step], (statement, plan)


async def test_a_claim_looks_at_the_head_of_its_index_without_a_sort(desk: Desk, watch: Watch) -> None:
    plans = await watch.plans(lambda: desk.claim_remote(2))
    assert plans[sql.PEEK_EACH] == watch.explain(sql.PEEK_EACH, ('[["q", 0]]', 1))
    assert [step for step in plans[sql.PEEK_EACH] if "tasks_due (queue=? AND priority=?)" in step]
    assert not [step for step in plans[sql.PEEK_EACH] if "TEMP B-TREE" in step]
    assert on_tasks(plans[sql.CLAIM]) == ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"]


async def test_a_settle_seeks_one_row_by_its_key_for_each_item(desk: Desk, watch: Watch) -> None:
    claims = await desk.claim_remote(2) + await desk.claim(1)
    outcomes = [DONE, FAILED, DONE]
    writes = [settlement(c, outcome, desk.now) for c, outcome in zip(claims, outcomes, strict=True)]
    plans = await watch.plans(lambda: desk.write(*writes))
    for statement in (sql.SETTLE_DONE, sql.SETTLE, sql.FINISH):
        assert on_tasks(plans[statement]) == ["SEARCH tasks USING INTEGER PRIMARY KEY (rowid=?)"]


async def test_an_insert_looks_an_id_up_by_its_own_index(desk: Desk, watch: Watch) -> None:
    plans = await watch.plans(lambda: desk.insert("t2", "t3"))
    assert [step for step in on_tasks(plans[sql.TAKEN]) if "(id=?" in step]


def test_the_running_tasks_are_found_at_start_by_the_index_of_rare_statuses(watch: Watch) -> None:
    assert on_tasks(watch.explain(sql.RUNNING)) == ["SEARCH tasks USING INDEX tasks_rare (status=?)"]


async def test_the_history_of_a_task_is_found_by_its_key(desk: Desk, watch: Watch) -> None:
    plans = await watch.plans(lambda: desk.store.attempts("failed"))
    steps = [step for step in plans[sql.ATTEMPTS] if "attempts" in step or "ORDER BY" in step]
    assert [step for step in steps if "(task=?)" in step]
    assert not [step for step in steps if "SCAN attempts" in step or "TEMP B-TREE" in step], steps


@pytest.mark.parametrize("method", ["page", "match"])
async def test_a_group_of_errors_is_listed_by_its_index(desk: Desk, watch: Watch, method: str) -> None:
    for conditions in ({}, {"status": Status.FAILED}, {"status": Status.QUEUED}, {"queue": "q1"}):
        where = TaskFilter(error_group="0" * 16, **conditions)
        for plan in (await listing_plans(desk, watch, method, where)).values():
            assert [step for step in on_tasks(plan) if "tasks_grouped (error_group=? AND seq" in step], plan
            assert not [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step], plan


@pytest.mark.parametrize("call", ["prune", "next_prunable"])
async def test_what_can_be_pruned_is_found_by_its_index_oldest_first(
    desk: Desk, watch: Watch, call: str
) -> None:
    calls = {"prune": lambda: desk.store.prune(1, 1, 5), "next_prunable": desk.store.next_prunable}
    plans = await watch.plans(calls[call])
    assert plans
    for plan in plans.values():
        assert [step for step in on_tasks(plan) if "tasks_finished (status=?" in step]
        assert not [step for step in plan if "TEMP B-TREE" in step]


RARE = [Status.RUNNING, Status.FAILED, Status.CANCELLED]
OTHERS: list[dict[str, Any]] = [
    {},
    {"queue": "q1"},
    {"id_prefix": "t"},
    {"handler": "h", "error_type": "ValueError", "created_after": 5},
]


@pytest.mark.parametrize("method", ["page", "match"])
async def test_rare_statuses_are_listed_by_their_index_in_its_order(
    desk: Desk, watch: Watch, method: str
) -> None:
    for status, conditions in itertools.product(RARE, OTHERS):
        where = TaskFilter(status=status, **conditions)
        for plan in (await listing_plans(desk, watch, method, where)).values():
            assert [step for step in on_tasks(plan) if "tasks_rare (status=? AND seq" in step], (where, plan)
            assert not [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step], (where, plan)


@pytest.mark.parametrize(
    "where",
    [
        ALL,
        TaskFilter(status=Status.DONE),
        TaskFilter(queue="q1"),
        TaskFilter(id_prefix="t"),
        TaskFilter(handler="h"),
    ],
    ids=["all", "done", "queue", "prefix", "handler"],
)
@pytest.mark.parametrize("method", ["page", "match"])
async def test_other_listings_walk_a_window_of_the_order_of_acceptance(
    desk: Desk, watch: Watch, method: str, where: TaskFilter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefixes, "FEW", 1)  # more begin so
    for plan in (await listing_plans(desk, watch, method, where)).values():
        assert [step for step in on_tasks(plan) if "INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in step], plan
        assert not [step for step in plan if "TEMP B-TREE FOR ORDER BY" in step], plan


@pytest.mark.parametrize(
    "conditions", [{}, {"status": Status.QUEUED}, {"status": Status.FAILED}, {"queue": "q1"}]
)
@pytest.mark.parametrize("method", ["page", "match"])
async def test_a_listing_of_given_ids_looks_each_up_by_its_index(
    desk: Desk, watch: Watch, method: str, conditions: dict[str, Any]
) -> None:
    where = TaskFilter(ids=("t1", "t2", "nobody"), **conditions)
    for plan in (await listing_plans(desk, watch, method, where)).values():
        assert [step for step in on_tasks(plan) if "(id=?" in step or "tasks_rare" in step], plan


@pytest.mark.parametrize("method", ["page", "match"])
async def test_ids_are_found_by_their_beginning_through_their_index(
    desk: Desk, watch: Watch, method: str
) -> None:
    for plan in (await listing_plans(desk, watch, method, TaskFilter(id_prefix="t1"))).values():
        assert [step for step in on_tasks(plan) if "(id>? AND id<?)" in step], plan
        assert not [step for step in plan if step.startswith("SCAN tasks")], plan


async def listing_plans(desk: Desk, watch: Watch, method: str, where: TaskFilter) -> dict[str, list[str]]:
    """The plans of the search itself: not of finding the newest task, nor of reading what was found."""
    calls = {
        "page": lambda: desk.store.page(where, 10, None, MANY_BYTES),
        "match": lambda: desk.store.match(where, 10, None),
    }
    plans = await watch.plans(calls[method])
    searches = {statement: plan for statement, plan in plans.items() if "ORDER BY seq DESC" in statement}
    assert searches
    return searches
