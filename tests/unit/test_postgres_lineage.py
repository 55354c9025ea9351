"""Which database may be written to by a server that has seen another."""

from __future__ import annotations

import pytest

pytest.importorskip("asyncpg")

from jobpipe.storage.postgres.lineage import Standing, doubt

SEEN = Standing(3, "c", "7001", 2)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (SEEN, None),
        (Standing(4, "d", "7001", 3), None),
        (Standing(4, "d", "7001", 2), None),
        (Standing(4, "d", "", 2), None),
        (Standing(3, "c", "7001", 3), None),
        (Standing(3, "x", "7001", 2), "went apart"),
        (Standing(3, "x", "7001", 3), "went apart"),
        (Standing(2, "b", "7001", 2), "generation 2 where 3 was seen"),
        (Standing(4, "d", "7001", 1), "timeline 1 where 2 was seen"),
        (Standing(9, "z", "7002", 9), "another cluster"),
    ],
)
def test_only_the_same_one_and_its_successors_are_taken(found: Standing, why: str | None) -> None:
    told = doubt(SEEN, found)
    assert told is None if why is None else why in (told or "")
