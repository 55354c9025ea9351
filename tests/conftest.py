"""What every test starts from: the thread switch interval that `make test_race` asks for, and what is kept when several
processes share the tests out: long files begin early, and a test marked `alone` runs while no other one does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

SWITCH_INTERVAL = "JOBPIPE_TEST_SWITCH_INTERVAL"
"""Seconds between thread switches: tiny ones let threads interleave where they rarely do."""

if SWITCH_INTERVAL in os.environ:
    sys.setswitchinterval(float(os.environ[SWITCH_INTERVAL]))

HERE = Path(__file__).parent
LONGEST_FIRST = ("browser", "process", "contract", "api", "unit")
"""The folders by how long one file of theirs takes at most: none begins when the others have ended."""


class Turns:
    """Who runs a test, over all processes: many at once, or one that is `alone`.

    The locks are those of flock: the system gives them back when a process ends, however it does.
    """

    def __init__(self) -> None:
        self._queue = os.open(HERE, os.O_RDONLY)
        self._room = os.open(__file__, os.O_RDONLY)

    def enter(self, *, alone: bool) -> None:
        import fcntl

        # Whoever wants to be alone holds the queue while others leave the room: those behind it would keep it out.
        fcntl.flock(self._queue, fcntl.LOCK_EX)
        fcntl.flock(self._room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._queue, fcntl.LOCK_UN)

    def leave(self) -> None:
        import fcntl

        fcntl.flock(self._room, fcntl.LOCK_UN)


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        config.pluginmanager.register(Shared(Turns()))


class Shared:
    """What a process does that has only some of the tests."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """By folder; what is alone stands together at the end of its file, so that the others stop once for it."""
        files = {path: place for place, path in enumerate(dict.fromkeys(item.path for item in items))}
        items.sort(key=lambda item: (_folder(item), files[item.path], is_alone(item)))

    # Around all others: waiting for its turn is not the time of a test.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        self._turns.enter(alone=is_alone(item))
        try:
            return (yield)
        finally:
            self._turns.leave()


def is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def _folder(item: pytest.Item) -> int:
    return LONGEST_FIRST.index(item.path.relative_to(HERE).parts[0])
