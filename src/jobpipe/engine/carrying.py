"""Seeing a storage call through, whoever waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

log = logging.getLogger("jobpipe.queue")

T = TypeVar("T")


def carried_out(call: Awaitable[T], then: Callable[[T], None]) -> asyncio.Future[T]:
    """The answer of a storage call. `then` is told of it also when the caller goes away while it is under way."""
    carrying = asyncio.ensure_future(call)
    answer: asyncio.Future[T] = carrying.get_loop().create_future()

    def tell(carried: asyncio.Future[T]) -> None:
        if carried.cancelled():
            answer.cancel()
        elif (error := carried.exception()) is None:
            try:
                then(carried.result())
            except Exception:  # what was committed must be answered, whatever listens to it
                log.exception("telling of a commit failed")
            if not answer.done():
                answer.set_result(carried.result())
        elif not answer.done():
            answer.set_exception(error)

    carrying.add_done_callback(tell)
    return answer
