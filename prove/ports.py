"""Ports for servers that are told theirs, and keep it over restarts.

They lie below those that systems give out by themselves (from 32768 on Linux, from 49152 on macOS), or any connection
could take one while its server starts. Processes that share the tests out have a range each.
"""

from __future__ import annotations

import itertools
import os
import random
import socket

SPAN = 1000
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_FIRST = 20_000 + SPAN * (_WORKER % 12)
_turns = itertools.count(random.randrange(SPAN))


def free_port() -> int:
    """A port that nobody listens on, and none that was given lately."""
    for turn in itertools.islice(_turns, SPAN):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", _FIRST + turn % SPAN))
            except OSError:  # somebody's
                continue
            return int(tried.getsockname()[1])
    raise OSError(f"no port from {_FIRST} on is free")
