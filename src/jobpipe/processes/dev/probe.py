"""When a server that was started serves: then its first worker process has imported the app."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

PAUSE_S: Final = 0.1
START_S: Final = 2.0
"""How long a start is taken to last where nobody knows the port."""

_ANY: Final = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not listened on


async def answers(host: str, port: int) -> None:
    """Return once the server there answers."""
    if port == 0:
        await asyncio.sleep(START_S)
        return
    while not await _answer(_ANY.get(host, host), port):  # noqa: ASYNC110 - another process
        await asyncio.sleep(PAUSE_S)


async def _answer(host: str, port: int) -> bool:
    """One question. A server that is starting leaves it unanswered until it serves."""
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port)
        try:
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return bool(await reader.read(1))
        finally:
            writer.close()
    return False
