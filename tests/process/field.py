"""Handlers that do what people's handlers do: start programs, fork pools, block in C, time out in threads."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from faults import innocent, note, patient, run, thread

from jobpipe import App, Context

if Path(os.environ["JOURNAL"]).with_name("broken").exists():
    raise RuntimeError("the code that was deployed is broken")

app = App()
for handler in (innocent, thread, patient):
    app.handler(handler)

SLEEP = "sleep"


def _square(x: int) -> int:
    return x * x


@app.handler
def pools(ctx: Context) -> list[int]:
    """A pool of forked processes, ended as its context manager does: by SIGTERM."""
    run(ctx)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(_square, range(4))


@app.handler
def keeps_a_pool(ctx: Context) -> None:
    """Leaves its pool behind when its process is killed."""
    run(ctx)
    pool = multiprocessing.get_context("fork").Pool(2)
    note("pool", ctx.attempt, pool._pool[0].pid)
    pool.map(time.sleep, [600, 600])


@app.handler
def runs_a_program(ctx: Context, seconds: float) -> int:
    run(ctx)
    code = subprocess.run([SLEEP, f"{seconds}"], check=False).returncode
    note("ended", ctx.attempt, os.getpid())
    return code


@app.handler
async def awaits_a_program(ctx: Context, seconds: float) -> int:
    run(ctx)
    process = await asyncio.create_subprocess_exec(SLEEP, f"{seconds}")
    return await process.wait()


@app.handler
def daemonises(ctx: Context, seconds: float) -> int:
    run(ctx)
    return subprocess.Popen([SLEEP, f"{seconds}"], start_new_session=True).pid


@app.handler
def orphans(ctx: Context, count: int) -> None:
    """Programs whose parent ends before them, and that end by themselves a moment later."""
    run(ctx)
    for _ in range(count):
        subprocess.run(["/bin/sh", "-c", "(exec sleep 0.2) &"], check=True)


@app.handler
def holds_the_gil(ctx: Context, seconds: int) -> None:
    """A call into C that does not give the GIL up."""
    run(ctx)
    ctypes.PyDLL(None).sleep(seconds)


@app.handler
async def sleeps_in_a_thread(ctx: Context, seconds: float) -> None:
    run(ctx)
    await asyncio.to_thread(time.sleep, seconds)


@app.handler
async def borrows_a_thread(ctx: Context) -> str:
    run(ctx)
    return await asyncio.to_thread(str, 1)


@app.handler
def starts_an_eater(ctx: Context, mebibytes: int) -> None:
    """Another program that takes memory."""
    run(ctx)
    code = f"import time; eaten = b'x' * ({mebibytes} << 20); time.sleep(60)"
    subprocess.run([sys.executable, "-c", code], check=True)


@app.handler
def blocks(ctx: Context) -> None:
    """A thread that nothing ends."""
    run(ctx)
    threading.Event().wait()


@app.handler(timeout=6)
def holds_the_gil_too_long(ctx: Context) -> None:
    run(ctx)
    ctypes.PyDLL(None).sleep(600)
