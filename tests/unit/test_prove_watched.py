"""What the proof of limits would not let pass."""

from __future__ import annotations

from prove.watched import Judged, Move, crowded_windows, longest_gap

COMMITS = iter(range(1_000))


def commit(*moves: tuple[int, str | None]) -> list[Move]:
    """Steps of runs in queue `q`, each of a key, in one commit."""
    place = (next(COMMITS), "")
    return [Move(place, "t", "q", key or "", step, 0, None) for step, key in moves]


def says(said: str, key: str = "") -> list[Move]:
    return [Move((next(COMMITS), ""), None, "q", key, 0, None, said)]


def test_one_more_than_the_limit_of_the_queue_is_seen() -> None:
    judged = Judged().judge([*says('{"concurrency":1}'), *commit((1, None)), *commit((1, None))])
    assert (judged.starts, judged.full, judged.too_many) == (2, 1, 1)


def test_a_place_that_is_freed_in_the_same_commit_may_be_taken() -> None:
    moves = [*says('{"concurrency":1}'), *commit((1, "a")), *commit((1, "b"), (-1, "a"))]
    assert Judged().judge(moves).too_many == 0


def test_a_key_goes_by_its_own_limit_else_by_its_queues() -> None:
    rules = [*says('{"key_concurrency":1}'), *says('{"concurrency":2}', "vip")]
    both = [*commit((1, "vip"), (1, "vip")), *commit((1, "a")), *commit((1, None), (1, None))]
    assert Judged().judge([*rules, *both]).too_many == 0
    assert Judged().judge([*rules, *both, *commit((1, "a"))]).too_many == 1
    assert Judged().judge([*rules, *both, *commit((1, "vip"))]).too_many == 1


def test_a_lowered_limit_counts_for_the_next_start_alone() -> None:
    moves = [*says('{"concurrency":2}'), *commit((1, "a"), (1, "b")), *says('{"concurrency":1}')]
    assert Judged().judge(moves).too_many == 0
    assert Judged().judge([*moves, *commit((-1, "a")), *commit((1, "c"))]).too_many == 1


def test_a_start_while_paused_is_seen() -> None:
    assert Judged().judge([*says('{"paused":true}'), *commit((1, None))]).paused == 1
    assert Judged().judge([*says('{"paused":true}', "a"), *commit((1, "a"), (1, "b"))]).paused == 1


def test_a_window_with_one_start_too_many_is_seen() -> None:
    assert crowded_windows([0, 50, 100, 150], limit=2, period_ms=100, burst=1) == 0
    assert crowded_windows([0, 50, 99, 150], limit=2, period_ms=100, burst=1) == 1
    assert crowded_windows([0, 50, 99, 150], limit=2, period_ms=100, burst=2) == 0


def test_a_gap_is_counted_from_the_beginning_too() -> None:
    assert longest_gap(["a", "b", "c", "a", "b", "c"]) == 2
    assert longest_gap(["a", "a", "a", "a", "b"]) == 4
