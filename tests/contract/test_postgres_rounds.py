"""Claims that take several rounds: what the first ones took is handed out, although a later one fails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from desk import DONE, Desk, OpenDesk, ids_of, new, settlement

import postgres
from jobpipe.core.errors import StorageError
from jobpipe.core.task import Status
from jobpipe.storage.postgres import runs
from jobpipe.storage.postgres.link import Gone, Link

SIZE = 1000


@pytest.fixture
def url() -> str:
    return postgres.empty_store()


@pytest.fixture
async def rounds(open_desk: OpenDesk, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """A desk whose rounds take one task each, because more bytes go into none."""
    monkeypatch.setattr(runs, "MAX_CLAIM_BYTES", SIZE)
    desk = await open_desk()
    await desk.accept(*(new(f"t{n}", payload=b"1" * SIZE) for n in range(4)))
    return desk


def failing(monkeypatch: pytest.MonkeyPatch, first: int, error: type[Exception]) -> None:
    """Statements that claim fail from the one of number `first` on."""
    rows, seen = Link.rows, 0

    async def broken(self: Link, statement: str, *arguments: Any, timeout: float | None = None) -> Any:
        nonlocal seen
        if statement is runs.sql.CLAIM:
            seen += 1
            if first <= seen:
                raise error("as if")
        return await rows(self, statement, *arguments, timeout=timeout)

    monkeypatch.setattr(Link, "rows", broken)


@pytest.mark.parametrize("error", [StorageError, Gone])
async def test_what_earlier_rounds_took_is_handed_out_when_a_later_one_fails(
    rounds: Desk, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, 3, error)
        answers = await asyncio.gather(*(rounds.claim(1) for _ in range(4)))
    assert [ids_of(claims) for claims in answers] == [["t0"], ["t1"], [], []]
    # Nobody holds what no one was told of: it is claimed later, once.
    left = await asyncio.gather(*(rounds.claim(1) for _ in range(4)))
    assert [ids_of(claims) for claims in left] == [["t2"], ["t3"], [], []]
    for claims in (*answers, *left):
        await rounds.write(*(settlement(claim, DONE, rounds.now) for claim in claims))
    assert (await rounds.store.counts())[Status.DONE] == 4


async def test_where_the_first_round_fails_all_are_told(
    rounds: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        failing(patched, 1, StorageError)
        answers = await asyncio.gather(*(rounds.claim(1) for _ in range(4)), return_exceptions=True)
    assert [type(answer) for answer in answers] == [StorageError] * 4
    assert len([await rounds.claim_one() for _ in range(4)]) == 4
