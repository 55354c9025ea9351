"""The order of claims over levels: as a sort would have it, at a cost that does not grow with how many there are."""

from __future__ import annotations

import heapq
import random

import pytest

from jobpipe.storage import heads
from jobpipe.storage.heads import Head, Heads, Level


def in_order(known: dict[Level, Head], queues: frozenset[str] | None, now: int) -> list[tuple[Level, Head]]:
    found = [
        (level, head)
        for level, head in known.items()
        if head[0] <= now and (queues is None or level[0] in queues)
    ]
    return sorted(found, key=lambda item: (-item[0][1], item[1]))


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_and_goes_the_first_are_those_that_a_sort_finds(seed: int) -> None:
    source, order, known, now = random.Random(seed), Heads(), dict[Level, Head](), 0
    for seq in range(3000):
        level = (f"q{source.randrange(5)}", source.randrange(-3, 4))
        now += source.randrange(-2, 4)  # a clock may be set back
        match source.randrange(4):
            case 0:
                order.drop(level)
                known.pop(level, None)
            case 1:
                head = (now + source.randrange(-20, 20), seq)
                order.put(level, head)
                known[level] = head
            case _:
                head = (now + source.randrange(-20, 20), seq)
                order.lower(level, head)
                known[level] = min(head, known.get(level, head))
        queues = source.choice([None, frozenset({"q1"}), frozenset({"q0", "q3", "none"})])
        n = source.randrange(1, 8)
        assert order.first(queues, now, n) == in_order(known, queues, now)[:n]
        times = [head[0] for level, head in known.items() if queues is None or level[0] in queues]
        assert order.earliest(queues) == min(times, default=None)


@pytest.mark.parametrize("queues", [None, frozenset({"q7", "q8"})])
def test_a_claim_takes_as_many_steps_over_many_levels_as_over_few(
    monkeypatch: pytest.MonkeyPatch, queues: frozenset[str] | None
) -> None:
    def steps(priorities: int) -> int:
        order, taken = Heads(), [0]
        for n in range(10):
            for priority in range(priorities):
                order.put((f"q{n}", priority), (priority, n))
        order.first(queues, 10**6, 64)  # all became due
        pop = heads.heapq.heappop

        def counted(heap: list[object]) -> object:
            taken[0] += 1
            return pop(heap)

        with monkeypatch.context() as patch:
            patch.setattr(heads.heapq, "heappop", counted)
            for _ in range(10):
                for level, head in order.first(queues, 10**6, 64):
                    order.put(level, (head[0] + 1, head[1]))
        return taken[0]

    assert steps(2000) <= 2 * steps(50)


def test_what_is_not_true_any_more_is_thrown_away() -> None:
    order = Heads()
    for n in range(10_000):
        order.put(("q", 0), (n, n))
    order.first(None, 10**6, 1)
    entries = order._all
    assert len(entries._by_time) + len(entries._later) + len(entries._ready) <= 6 + heads._SPARE + 2


def test_some_levels_that_become_due_beside_many_that_are_do_not_have_all_sorted_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = Heads()
    for priority in range(5_000):
        heads.put(("q", priority), (1, priority))
    assert len(heads.first(None, 10, 3)) == 3
    sorted_anew: list[int] = []
    monkeypatch.setattr(heapq, "heapify", lambda heap: sorted_anew.append(len(heap)))
    for priority in range(200):
        heads.put(("q", priority), (2, priority))
    assert [level for level, _ in heads.first(None, 10, 2)] == [("q", 4_999), ("q", 4_998)]
    assert sorted_anew == []
