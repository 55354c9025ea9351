"""Handlers that enqueue, for servers that ask for keys."""

from __future__ import annotations

from jobpipe import App, Context

app = App()


@app.handler
async def parent(ctx: Context, child: str) -> None:
    await ctx.enqueue("child", {}, id=child)


@app.handler
async def child() -> None:
    """Nothing: that it ran is all."""
