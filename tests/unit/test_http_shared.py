"""Answers that are shared: made once for all who ask at a time, never for longer than they are good for."""

from __future__ import annotations

import asyncio

import pytest

from jobpipe.http.shared import GOOD_FOR_S, MOST, TIMES_AS_LONG, SharedAnswers
from jobpipe.runtime.clock import ManualClock


class Kitchen:
    """Makes numbered answers, each taking `takes` seconds of a manual clock; `go` lets the makers begin."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.shared = SharedAnswers(self.clock.monotonic)
        self.takes = 0.0
        self.made = 0
        self.fails = False
        self.go = asyncio.Event()
        self.go.set()

    async def make(self) -> bytes:
        await self.go.wait()
        self.made += 1
        self.clock.advance(self.takes)
        if self.fails:
            raise RuntimeError("burnt")
        return b"%d" % self.made

    async def ask(self, asked: str = "x") -> bytes:
        return await asyncio.wait_for(self.shared.get(asked, self.make), 5)


@pytest.fixture
def kitchen() -> Kitchen:
    return Kitchen()


async def test_all_who_ask_while_it_is_made_get_the_same(kitchen: Kitchen) -> None:
    kitchen.go.clear()
    asking = [asyncio.ensure_future(kitchen.ask()) for _ in range(20)]
    await asyncio.sleep(0)
    kitchen.go.set()
    assert set(await asyncio.gather(*asking)) == {b"1"}


async def test_an_answer_is_made_anew_after_its_second(kitchen: Kitchen) -> None:
    assert [await kitchen.ask(), await kitchen.ask()] == [b"1", b"1"]
    kitchen.clock.advance(GOOD_FOR_S)
    assert await kitchen.ask() == b"2"


async def test_what_takes_long_is_given_for_longer(kitchen: Kitchen) -> None:
    kitchen.takes = 0.5
    await kitchen.ask()
    kitchen.clock.advance(0.5 * TIMES_AS_LONG - 0.1)
    assert await kitchen.ask() == b"1"
    kitchen.clock.advance(0.2)
    assert await kitchen.ask() == b"2"


async def test_other_questions_have_other_answers(kitchen: Kitchen) -> None:
    assert [await kitchen.ask("x"), await kitchen.ask("y"), await kitchen.ask("x")] == [b"1", b"2", b"1"]


async def test_who_asked_first_may_go_away(kitchen: Kitchen) -> None:
    kitchen.go.clear()
    first, second = (asyncio.ensure_future(kitchen.ask()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    kitchen.go.set()
    assert await second == b"1"


async def test_a_failure_is_told_to_those_who_waited_and_to_nobody_later(kitchen: Kitchen) -> None:
    kitchen.fails = True
    told = await asyncio.gather(kitchen.ask(), kitchen.ask(), return_exceptions=True)
    assert [str(error) for error in told] == ["burnt", "burnt"]
    kitchen.fails = False
    assert await kitchen.ask() == b"2"


async def test_no_more_than_a_bound_are_kept(kitchen: Kitchen) -> None:
    for n in range(3 * MOST):
        await kitchen.ask(f"x{n}")
    assert len(kitchen.shared._made) <= MOST
