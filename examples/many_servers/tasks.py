"""Handlers for the workers of compose.yaml's profile `postgres`: put your own in their place."""

from __future__ import annotations

import asyncio

from jobpipe import App

app = App()


@app.handler
async def greet(name: str, seconds: float = 0.1) -> str:
    """Takes a moment, and greets."""
    await asyncio.sleep(seconds)
    return f"hello, {name}"
