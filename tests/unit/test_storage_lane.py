"""A lane to PostgreSQL, without one: what a statement takes of all that waits."""

from __future__ import annotations

import asyncio

from jobpipe.storage.calls import INSERT
from jobpipe.storage.postgres.lane import MAX_GATHERED, MAX_TASKS, Lane, LaneCall
from jobpipe.storage.postgres.link import Link


async def nowhere() -> Link:
    raise AssertionError("no link is needed")


async def taken(*weights: int) -> list[list[int]]:
    """The weights that each statement takes in turn."""
    lane = Lane("test", nowhere)
    loop = asyncio.get_running_loop()
    lane._waiting = [
        LaneCall("insert", INSERT, None, n, loop.create_future(), weight=weight)
        for n, weight in enumerate(weights)
    ]
    statements: list[list[int]] = []
    while lane._waiting:
        statements.append([call.argument for call in lane._taken()])
    return statements


async def test_a_statement_takes_calls_in_order_until_it_has_enough_tasks() -> None:
    assert await taken(1, 2, MAX_TASKS, 1, MAX_TASKS - 1, 7) == [[0, 1, 2], [3, 4], [5]]


async def test_a_large_call_goes_by_itself() -> None:
    assert await taken(MAX_TASKS, 5 * MAX_TASKS, 1) == [[0], [1], [2]]


async def test_a_statement_takes_only_so_many_calls() -> None:
    assert [len(calls) for calls in await taken(*[0] * (MAX_GATHERED + 3))] == [MAX_GATHERED, 3]
