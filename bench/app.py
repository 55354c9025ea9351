"""The handlers that the measured servers run: one that does nothing, and one that says when it was started."""

from __future__ import annotations

import asyncio
import time

from jobpipe import App

app = App()


@app.handler
async def noop(user: int, email: str) -> None:
    """Does nothing with a small payload: what is measured is the queue."""


@app.handler
async def stamp() -> int:
    """The moment of the start, in nanoseconds since the epoch, as the task's result."""
    return time.time_ns()


@app.handler
async def pause(seconds: float) -> None:
    """Takes so long, and no processor time: what bounds the rate is the number of workers."""
    await asyncio.sleep(seconds)
