"""Apps for the tests of lifespans and enqueueing in real processes. JOURNAL names the file that they write into."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jobpipe import App, Context


def note(what: str) -> None:
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(f"{what} {os.getpid()}\n")


@asynccontextmanager
async def life(app: App) -> AsyncIterator[str]:
    note("begin")
    yield "deps"
    note("end")


@asynccontextmanager
async def no_beginning(app: App) -> AsyncIterator[None]:
    raise ConnectionError("the database\nis away")
    yield


@asynccontextmanager
async def no_end(app: App) -> AsyncIterator[None]:
    yield
    raise ConnectionError("the database went away")


good = App(lifespan=life)
bad = App(lifespan=no_beginning)
sad = App(lifespan=no_end)


@good.handler
async def first(ctx: Context[str], n: int) -> str:
    note("first")
    await second.options(id="second").enqueue(n=n)
    await ctx.enqueue("in_a_thread", n, id="threaded")
    return ctx.deps


@good.handler(queue="mail", max_retries=7)
async def second(n: int) -> int:
    return n


@good.handler
def in_a_thread(ctx: Context[str], n: int) -> int:
    ctx.enqueue_sync(second.options(id="last"), n=n + 1)
    return n
