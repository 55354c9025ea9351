"""Handlers that talk."""

from __future__ import annotations

import os
import sys

from jobpipe import App, Context

app = App()


@app.handler
def says(text: str) -> str:
    print(text, flush=True)
    print(text, file=sys.stderr, flush=True)
    return text


@app.handler
async def logs(ctx: Context) -> None:
    ctx.log.info("hello")


@app.handler
def unblocks() -> None:
    for fd in (1, 2):
        os.set_blocking(fd, False)


@app.handler
def closes_descriptors() -> None:
    for fd in (1, 2):
        os.close(fd)
