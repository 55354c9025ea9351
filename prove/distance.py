"""A database that is far away: a TCP proxy before it that passes bytes on after a while, in order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

from prove.cluster import elsewhere


class Distance:
    """The proxy. It passes bytes on after `seconds`; `silent` it takes them and passes nothing on."""

    def __init__(self, port: int, seconds: float = 0.0) -> None:
        self._to = port
        self.seconds = seconds
        self.silent = False
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                if not self.silent:
                    loop.call_later(self.seconds, writer.write, data)
        loop.call_later(self.seconds, writer.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the loop ends before the connection does
            there, to_there = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers |= {writer, to_there}
            await asyncio.gather(self._pass(reader, to_there), self._pass(there, writer))

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Let connections come, for a while."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for writer in self._writers:  # what is on its way still will not arrive any more
                writer.transport.abort()
            await asyncio.sleep(0)


@contextlib.contextmanager
def far_from(port: int, seconds: float) -> Iterator[Distance]:
    """A proxy before `port` that needs no loop of the caller's."""
    distance = Distance(port, seconds)
    listening = distance.listening()
    elsewhere(listening.__aenter__())
    try:
        yield distance
    finally:
        elsewhere(listening.__aexit__(None, None, None))
