"""The built-in handler `simulate`: imitated work of random length that fails now and then.

It is there so that a fresh server has something to run. Time and chance are arguments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jobpipe.runtime import randomness
from jobpipe.work.handler import Handler

NAME = "simulate"


class SimulatedFailure(Exception):  # its name is the error type that people see
    """The failure that `simulate` was asked to have with its probability."""


def simulate_handler(
    minimum: float = 0.1,
    maximum: float = 0.5,
    failures: float = 0.2,
    *,
    random: Callable[[], float] = randomness.random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Handler[..., Any]:
    """A handler that takes any payload, sleeps `minimum` to `maximum` seconds and fails with probability `failures`.

    `random` gives floats in [0, 1); it is asked first for the time, then for the failure.
    """

    async def simulate(payload: Any = None) -> None:
        await sleep(minimum + random() * (maximum - minimum))
        if random() < failures:
            raise SimulatedFailure("simulated failure")

    return Handler(simulate, NAME)
