"""The handlers of the proofs. Each writes down that it begins and that it ends, in the file named by JOURNAL.

A line is `begin` or `end`, the task, the attempt, the process, and the time in milliseconds since the epoch.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import time

from jobpipe import App, Context, Snooze, Throttled
from prove.journal import note

app = App()


def begin(ctx: Context) -> None:
    """The run begins."""
    _note("begin", ctx)


def end(ctx: Context) -> int:
    """The run ends; the process that ran it, which becomes the task's result."""
    _note("end", ctx)
    return os.getpid()


def _note(what: str, ctx: Context) -> None:
    note(os.environ["JOURNAL"], what, ctx.id, ctx.attempt, os.getpid(), time.time_ns() // 1_000_000)


@app.handler
async def work(ctx: Context, seconds: float = 0.0) -> int:
    """Takes so long and succeeds."""
    begin(ctx)
    await asyncio.sleep(seconds)
    return end(ctx)


@app.handler
def thread(ctx: Context, seconds: float = 0.0) -> int:
    """The same in a thread."""
    begin(ctx)
    time.sleep(seconds)
    return end(ctx)


@app.handler
async def flaky(ctx: Context, failures: int = 1) -> int:
    """Fails so many times, then succeeds."""
    begin(ctx)
    if ctx.attempt <= failures:
        end(ctx)
        raise RuntimeError("as asked")
    return end(ctx)


@app.handler
async def quiet(seconds: float = 0.0) -> None:
    """Writes nothing down: for load whose runs nobody counts."""
    await asyncio.sleep(seconds)


@app.handler
async def exits(ctx: Context) -> None:
    """Takes its process down."""
    begin(ctx)
    os._exit(7)


@app.handler
def segfaults(ctx: Context) -> None:
    """Takes its process down the hard way."""
    begin(ctx)
    ctypes.string_at(0)


@app.handler
def eats_memory(ctx: Context) -> None:
    """Grows until somebody ends it."""
    begin(ctx)
    eaten = []
    while True:
        eaten.append(b"x" * (8 << 20))
        time.sleep(0.01)


@app.handler
async def blocks_the_loop(ctx: Context) -> None:
    """Never gives the event loop back."""
    begin(ctx)
    while True:
        pass


@app.handler
def blocks_a_thread(ctx: Context) -> None:
    """Never ends, and cannot be ended."""
    begin(ctx)
    while True:
        time.sleep(0.05)


@app.handler
async def gives_back(ctx: Context, in_: float = 0.05, hold: bool = False) -> int:
    """Half of its runs must wait; with `hold` all of its key with it."""
    begin(ctx)
    if random.random() < 0.5:
        end(ctx)
        raise Throttled(in_=in_) if hold else Snooze(in_=in_)
    return end(ctx)
