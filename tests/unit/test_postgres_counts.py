"""The kept counts of PostgreSQL as one server knows them between two readings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("asyncpg")

from jobpipe.core.task import Status
from jobpipe.storage.postgres.counts import Counts
from jobpipe.storage.postgres.rows import NUMBER


class Others:
    """What the database answers about the other servers' share."""

    def __init__(self, *rows: tuple[str, Status, int]) -> None:
        self.shares = [{"queue": queue, "status": NUMBER[status], "n": n} for queue, status, n in rows]

    async def rows(self, *_: object) -> list[dict[str, Any]]:
        return self.shares


def test_what_was_claimed_of_another_server_s_new_tasks_makes_no_count_negative() -> None:
    counts = Counts()
    counts.enter("lane", 1)
    asyncio.run(counts.freshen(Others(("a", Status.QUEUED, 2))))  # type: ignore[arg-type]
    # Another server accepted a task of b since then, and this one claims it.
    counts.add_all("lane", {("b", 0, Status.QUEUED): -1, ("b", 0, Status.RUNNING): 1})
    assert counts.by_status()[Status.QUEUED] == 2
    assert counts.by_status()[Status.RUNNING] == 1
    counts.add_all(
        "lane", {("b", 0, Status.RUNNING): -1, ("b", 0, Status.DONE): 1, ("b", 0, Status.QUEUED): -1}
    )
    assert all(n >= 0 for sums in counts.by_queue().values() for n in sums.values())
