"""Ids that the server makes."""

from __future__ import annotations

import itertools
import uuid

import pytest

from jobpipe.wire import ids, new_id

NOW = 1_700_000_000_000


@pytest.fixture(autouse=True)
def first(monkeypatch: pytest.MonkeyPatch) -> None:
    """No ids were made before, and none of these are remembered."""
    monkeypatch.setattr(ids, "_last", 0)


def test_ids_are_uuids_of_version_7_with_their_time() -> None:
    made = uuid.UUID(new_id(NOW))
    assert (made.version, made.variant, made.int >> 80) == (7, uuid.RFC_4122, NOW)


def test_ids_rise_within_a_millisecond_and_when_the_clock_goes_back() -> None:
    made = [new_id(NOW + 1) for _ in range(2000)] + [new_id(NOW - 1000) for _ in range(2000)]
    assert made == sorted(set(made))


def test_nobody_can_tell_the_next_id() -> None:
    numbers = [uuid.UUID(new_id(NOW + 2)).int for _ in range(100)]
    steps = {after - before for before, after in itertools.pairwise(numbers)}
    assert len(steps) == 99
