"""Which event loop every process of Jobpipe runs on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

AUTO = "auto"
LOOPS = (AUTO, "asyncio")


def loop_factory(loop: str = AUTO) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed; None for Python's own (Windows, PyPy), also when that is asked for."""
    if loop != AUTO:
        return None
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
