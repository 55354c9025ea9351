"""The handlers of the worker process tests: innocent ones, and one for each way to harm the process that runs them.

Each run is written to the file named by JOURNAL before anything else, in one piece: `task attempt pid`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import threading
import time

from jobpipe import App, Context

app = App()


def note(*words: object) -> None:
    file = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, (" ".join(map(str, words)) + "\n").encode())
    os.close(file)


def run(ctx: Context) -> None:
    note(ctx.id, ctx.attempt, os.getpid())


note("import", 0, os.getpid())


@app.handler
async def innocent(ctx: Context, seconds: float = 0.02) -> int:
    run(ctx)
    await asyncio.sleep(seconds)
    return os.getpid()


@app.handler
def thread(ctx: Context, seconds: float = 0.02) -> int:
    run(ctx)
    time.sleep(seconds)
    return os.getpid()


@app.handler
def patient(ctx: Context) -> None:
    """A thread that stops when it is told."""
    run(ctx)
    while not ctx.cancelled:
        time.sleep(0.01)
    raise RuntimeError("told to stop")


@app.handler
async def exits(ctx: Context) -> None:
    run(ctx)
    os._exit(7)


@app.handler
def segfaults(ctx: Context) -> None:
    run(ctx)
    ctypes.string_at(0)


@app.handler
def eats_memory(ctx: Context) -> None:
    run(ctx)
    eaten = []
    while True:
        eaten.append(b"x" * (8 << 20))
        time.sleep(0.01)


@app.handler
async def blocks_the_loop(ctx: Context) -> None:
    run(ctx)
    while True:
        pass


@app.handler
def blocks_a_thread(ctx: Context) -> None:
    run(ctx)
    while True:
        pass


@app.handler
async def ignores_cancellation(ctx: Context) -> None:
    run(ctx)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)


@app.handler
async def prints(ctx: Context) -> str:
    """What it prints looks like a message to the parent, and what it reads must not be an order."""
    run(ctx)
    print("end everything", flush=True)
    os.write(1, b"ready nobody\n")
    return os.read(0, 10).decode()


@app.handler
async def cancels_all(ctx: Context) -> None:
    """Takes the process's own work away, which a thread that lives on would then keep as an empty shell."""
    run(ctx)
    threading.Thread(target=threading.Event().wait).start()
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(60)
