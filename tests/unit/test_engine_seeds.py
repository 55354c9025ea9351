"""The queue, the pool and the store's code under a virtual clock: each seed is one interleaving, the same every time.

`python -m prove --only interleave` plays thousands.
"""

from __future__ import annotations

import pytest
from prove.interleave import Stuck, Wrong, one

from jobpipe.engine.claiming import Claiming


@pytest.mark.parametrize("seed", range(8))
def test_everybody_at_once_loses_nothing_and_counts_right(seed: int) -> None:
    assert one(seed).acknowledged


def test_a_seed_is_the_same_run_every_time() -> None:
    assert one("again").trace == one("again").trace


def test_a_queue_that_forgets_claims_nobody_took_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget(claims: Claiming, claiming: object) -> None:
        claims._pending.discard(claiming)  # type: ignore[arg-type]

    monkeypatch.setattr(Claiming, "_give_back", forget)
    assert any(_is_found_out(seed) for seed in range(100))


def _is_found_out(seed: int) -> bool:
    try:
        one(seed)
    except (Wrong, Stuck):
        return True
    return False
