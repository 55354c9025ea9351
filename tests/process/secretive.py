"""Handlers that are given secrets, and do with them what handlers do."""

from __future__ import annotations

from jobpipe import App, Context

app = App()


@app.handler
async def gives(secret: str, number: str) -> str:
    return "result-9b1f"


@app.handler
async def fails(secret: str, number: str) -> None:
    raise ValueError("it went wrong")


@app.handler
async def wants_a_number(secret: str, number: int) -> None:
    """Its payload does not fit."""


@app.handler
async def enqueues(ctx: Context, secret: str, number: str) -> None:
    await ctx.enqueue("gives", {"secret": secret, "number": number})


@app.handler
async def logs(ctx: Context, text: str) -> None:
    ctx.log.warning("%s", text)


@app.handler
async def raises(text: str) -> None:
    raise ValueError(text)
