"""Counts that were deleted by hand while servers work: each is right again soon, in its memory too."""

from __future__ import annotations

import asyncio

import pytest
from desk import Desk

import postgres
from jobpipe.core.task import Status
from jobpipe.runtime.clock import SystemClock
from jobpipe.storage import open_storage

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("rounds", [1, 2])
async def test_both_of_two_servers_are_right_after_an_audit_of_each(rounds: int) -> None:
    """`rounds` of truncating: what the first audit puts right the other server had counted as its own."""
    with postgres.own_database("truncated") as url:
        stores = [open_storage(url, capacity=100) for _ in range(2)]
        for store in stores:
            await store.open()
        desks = [Desk(store, SystemClock()) for store in stores]  # type: ignore[arg-type]
        try:
            n = 0
            for number in range(rounds):
                for at, desk in enumerate(desks):
                    await desk.accept(*(f"{number}-{at}-{i}" for i in range(10)))
                    n += 10
                await postgres.shared_cluster().ask("TRUNCATE jobpipe.counts", "truncated")
                for store in stores:  # as each server does once a minute
                    await store.audit()
                await asyncio.sleep(0.2)
                assert [(await store.counts())[Status.QUEUED] for store in stores] == [n, n]
            await desks[0].accept(*(f"more-{i}" for i in range(100 - n)))
            await asyncio.sleep(0.2)
            assert [(await store.counts())[Status.QUEUED] for store in stores] == [100, 100]
        finally:
            for store in stores:
                await store.close()
