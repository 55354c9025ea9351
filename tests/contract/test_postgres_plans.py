"""What a statement costs does not grow with what waits, lies in the future or is finished: asserted on its plan."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from desk import RELEASED, settlement

import postgres
from jobpipe.storage import open_storage
from jobpipe.storage.base import ClaimRequest, TaskFilter
from jobpipe.storage.postgres import statements as sql
from jobpipe.storage.postgres import statements_once as once_sql
from jobpipe.storage.postgres.levels import _END, NEW
from jobpipe.storage.postgres.listing import _conditions
from jobpipe.storage.postgres.session import OURS

WHOLE = "JOBPIPE_WHOLE_PLANS" in os.environ
"""Whether to fill a million rows, as is promised, or a tenth, which shows the same in a few seconds."""
WAITING = FINISHED = 1_000_000 if WHOLE else 100_000
FUTURE = WAITING // 10
LIMIT = 64
_TASK = "seq, id, handler, queue, payload, priority, status, attempts, failures, lost, max_retries, run_at, created_at"
# Rows first and indexes afterwards: seconds instead of a minute.
FILL = f"""
DROP INDEX jobpipe.tasks_due;
INSERT INTO jobpipe.tasks ({_TASK})
SELECT g, 'w' || g, 'h', 'q' || g % 3, '1', 0, 0, 0, 0, 0, 3, jobpipe.now_ms() - 1000 + g % 1000, 0
  FROM generate_series(1, {WAITING}) g;
INSERT INTO jobpipe.tasks ({_TASK})
SELECT {WAITING} + g, 'z' || g, 'h', 'q' || g % 3, '1', 50, 0, 0, 0, 0, 3, jobpipe.now_ms() + 10000000 + g, 0
  FROM generate_series(1, {FUTURE}) g;
CREATE INDEX tasks_due ON jobpipe.tasks (queue, priority, run_at, seq) WHERE status = 0;
INSERT INTO jobpipe.finished ({_TASK}, finished_at)
SELECT 2000000 + g, 'f' || g, 'h', 'q', '1', 0, 2, 1, 0, 0, 3, 0, 0, jobpipe.now_ms() - g
  FROM generate_series(1, {FINISHED}) g;
INSERT INTO jobpipe.unique_keys SELECT 'h', 'k' || g, g, NULL, false FROM generate_series(1, {FUTURE}) g;
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database of its own with all that waits, comes and is done, never analyzed: the worst that a plan can meet."""
    with postgres.own_database("plans") as url:
        postgres.shared_cluster().run(FILL, "plans", timeout=150)
        yield url


async def explained(url: str, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """The nodes of the plan as it was carried out, by the settings of our own connections; nothing is kept."""
    connection = await asyncpg.connect(url, server_settings=OURS)
    try:
        await connection.execute("BEGIN")
        (row,) = await connection.fetch(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        await connection.execute("ROLLBACK")
        return list(_nodes(json.loads(row[0])[0]["Plan"]))
    finally:
        await connection.close()


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)


def walked(nodes: list[dict[str, Any]]) -> float:
    """Rows of tables that were looked at."""
    return sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes
        if node.get("Relation Name", "servers") != "servers" and "Scan" in node["Node Type"]
    )


def scans(nodes: list[dict[str, Any]]) -> set[str]:
    """How tables are looked through; keys are found by an array, and here there are none."""
    assert not any(node["Actual Rows"] for node in nodes if node.get("Relation Name") == "unique_keys")
    return {
        node["Node Type"]
        for node in nodes
        if node.get("Relation Name", "unique_keys") != "unique_keys" and "Scan" in node["Node Type"]
    }


@pytest.mark.timeout(200)
async def test_a_claim_looks_at_a_few_rows_more_than_it_takes(url: str) -> None:
    queues, priorities = [f"q{i % 3}" for i in range(6)], [50] * 3 + [0] * 3
    nodes = await explained(
        url,
        sql.CLAIM,
        queues,
        priorities,
        [0] * 6,
        LIMIT,
        [LIMIT],
        ["w"],
        [30_000],
        [False],
        1,
        "s.1.",
        "s",
        1 << 23,
        *(None, None, None),
    )
    assert scans(nodes) <= {"Index Scan", "Index Only Scan"}
    assert walked(nodes) <= 6 * (LIMIT + 1) + 3 * LIMIT
    assert nodes[0]["Shared Hit Blocks"] + nodes[0]["Shared Read Blocks"] < 5000


@pytest.mark.timeout(200)
async def test_levels_are_found_by_a_seek_or_two_each(url: str) -> None:
    for known in ([], ["q0"], ["q0", "q1", "q2"]):
        queues = ["", *known]
        nodes = await explained(url, sql.LEVELS, queues, [0] * len(queues), [0] * len(queues), *_END, NEW)
        assert scans(nodes) <= {"Index Scan", "Index Only Scan"}
        assert walked(nodes) <= 8 + 2 * len(known), nodes  # the last of each row of seeks finds nothing


@pytest.mark.timeout(200)
async def test_a_settle_an_extend_and_a_look_at_ids_read_only_their_rows(url: str) -> None:
    nothing = [None]
    settlement: list[Any] = [[1], ["w1"], ["x"], [False], [2], [0], [0], [1], [0], [0], [b""]]
    settlement += [nothing, nothing, nothing, [True], nothing, nothing, 1]
    alike = [*settlement[: sql.FENCED], *(column[0] for column in settlement[sql.FENCED : -1]), 1]
    for nodes in (
        await explained(url, sql.SETTLE, *settlement),
        await explained(url, sql.SETTLE_ALIKE, *alike),
        await explained(url, sql.EXTEND, [1, 2], ["w1", "w2"], ["x", "y"], [1, 1]),
        await explained(url, sql.BY_ID, ["w1", "f1"]),
        await explained(url, sql.TAKEN, ["w1", "f1"]),
        await explained(url, sql.LOST, "s", 100),
        await explained(url, sql.NEXT_EXPIRY, "s"),
        await explained(url, sql.PRUNABLE, 2, 1, 500),
        await explained(url, sql.OLDEST_FINISHED, 2),
        await explained(url, once_sql.KEY_HOLDERS, ["h"] * 2, ["k1", "k2"]),
        await explained(url, once_sql.LOCK_HOLDERS, ["h"] * 2, ["k1", "k2"]),
        await explained(url, once_sql.TAKE_KEYS, ["h"] * 2, ["k1", "n"], [1, 5], [None] * 2, [False] * 2),
        await explained(url, once_sql.EXPIRED, 500),
        await explained(url, once_sql.NEXT_EXPIRING),
        await explained(url, sql.CANCEL_QUEUED, [3]),
        await explained(url, sql.DELETE, [2000001]),
    ):
        assert "Seq Scan" not in {
            node["Node Type"] for node in nodes if node.get("Relation Name") != "servers"
        }
        assert walked(nodes) <= 10, nodes


@pytest.mark.timeout(200)
async def test_an_id_is_listed_by_its_beginning_without_a_walk_through_all_tasks(url: str) -> None:
    conditions, arguments = _conditions(TaskFilter(id_prefix="nobody-"), True)
    for statement in (sql.WINDOW, sql.WINDOW_IDS):
        text = statement.format(hot=conditions, cold=conditions)
        assert walked(await explained(url, text, 1 << 62, 0, 100, *arguments)) <= 2
    assert walked(await explained(url, sql.MANY_IDS, "w", "x", 100)) <= 100


@pytest.mark.timeout(200)
async def test_tasks_of_the_far_future_in_front_hold_no_claim_back(url: str) -> None:
    store = open_storage(url)
    await store.open()
    try:
        claims = (await store.claim(ClaimRequest(LIMIT, "w"), 0)).claims
        assert len(claims) == LIMIT
        assert {claim.task.priority for claim in claims} == {0}
        await store.settle(
            [settlement(claim, RELEASED, 0) for claim in claims], 0
        )  # none runs for other tests
    finally:
        await store.close()
