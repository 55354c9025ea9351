"""The handlers of the browser tests: each always does what its name says; `waits` is ended by cancelling."""

from __future__ import annotations

import asyncio

from jobpipe import App, Context

app = App()


@app.handler
async def works(n: int = 0) -> dict[str, int]:
    return {"n": n}


@app.handler
async def echoes(**payload: object) -> object:
    return payload


@app.handler
async def fails(order: int = 0) -> None:
    raise ValueError(f"order {order} is broken")


@app.handler
async def misses(name: str = "") -> None:
    raise LookupError(f"nobody is called '{name}'")


@app.handler
async def works_at_last(ctx: Context) -> str:
    if ctx.attempt < 3:
        raise ConnectionError(f"the other side hung up on attempt {ctx.attempt}")
    return "at last"


@app.handler
async def waits() -> None:
    await asyncio.sleep(3600)
