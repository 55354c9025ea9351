"""A handler that says on which event loop it runs."""

from __future__ import annotations

import asyncio

from jobpipe import App

app = App()


@app.handler
async def loop() -> str:
    running = type(asyncio.get_running_loop())
    return running.__module__
