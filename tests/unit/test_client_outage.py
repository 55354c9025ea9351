"""How long a worker waits after a failure."""

from __future__ import annotations

import pytest

from jobpipe.client.outage import pause
from jobpipe.core.errors import Draining, RateLimited


@pytest.mark.parametrize(("told", "waited"), [(1, 1), (20, 20), (86_400, 60)])
def test_a_server_that_was_asked_too_often_is_believed_for_a_minute_at_most(told: int, waited: float) -> None:
    assert pause(1, lambda: 0.0, RateLimited(retry_after=told)) == waited


def test_other_failures_and_longer_backoffs_are_as_they_were() -> None:
    assert pause(1, lambda: 0.0, Draining()) == pause(1, lambda: 0.0) == 0.1
    assert pause(10, lambda: 0.0, RateLimited(retry_after=1)) == 5.0
