"""A TCP proxy before PostgreSQL that reads the messages which pass, and cuts a connection inside a commit.

A write is a commit of its own here (Bind, Execute, Sync of one statement), or the COMMIT that ends several.
`Cut.BEFORE` ends the connection when the commit was sent and before the database sees it; `Cut.AFTER` when the database
has answered that it is done and before its client sees that. Format: PostgreSQL's documentation, "Message Formats".
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from enum import StrEnum

_STARTUP = 4  # bytes of length, without a type before them, as in the first message of a client
_TYPED = 5
_COMMIT = b"COMMIT"


class Cut(StrEnum):
    """Where a connection ends."""

    BEFORE = "before"
    AFTER = "after"


class Proxy:
    """Passes everything on to `to` until it is told to cut; runs on a thread of its own. A context manager."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._armed: list[tuple[str, Cut]] = []
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.port = 0
        self.cuts: Counter[tuple[str, Cut]] = Counter()
        """What was cut."""

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def arm(self, words: str, where: Cut) -> None:
        """Cut the next connection that sends a commit of a statement with these words."""
        self._loop.call_soon_threadsafe(self._armed.append, (words, where))

    @property
    def armed(self) -> int:
        """How many cuts did not happen yet."""
        return len(self._armed)

    def disarm(self) -> None:
        """Forget the cuts that did not happen."""
        self._loop.call_soon_threadsafe(self._armed.clear)

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _leave(self) -> None:
        """End all connections, wherever they are, and see their ends."""
        self._server.close()
        for writer in self._open:
            abort(writer)
        serving = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        if serving:
            await asyncio.wait(serving, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            abort(writer)
            return
        self._open |= {writer, to_there}
        await _Connection(self, reader, writer, there, to_there).run()
        self._open -= {writer, to_there}

    def wanted(self, words: str) -> tuple[str, Cut] | None:
        """The cut that is wanted for such a commit, which is then taken."""
        for cut in self._armed:
            if cut[0] in words:
                self._armed.remove(cut)
                self.cuts[cut] += 1
                return cut
        return None


class _Connection:
    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        to_there: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer, self._there, self._to_there = reader, writer, there, to_there
        self._texts: dict[bytes, bytes] = {}
        self._written: list[bytes] = []
        self._swallow = False

    async def run(self) -> None:
        """Pass on in both directions until one side ends; then both do."""
        pumps = [asyncio.ensure_future(self._forth()), asyncio.ensure_future(self._back())]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        await asyncio.wait(pumps)
        abort(self._writer)
        abort(self._to_there)

    async def _forth(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await self._reader.readexactly(_STARTUP)
            self._to_there.write(head + await self._reader.readexactly(int.from_bytes(head) - _STARTUP))
            while True:
                kind, message = await _message(self._reader)
                cut = self._noted(kind, message[_TYPED:])
                if cut is Cut.BEFORE:
                    return
                self._swallow = self._swallow or cut is Cut.AFTER
                self._to_there.write(message)
                await self._to_there.drain()

    def _noted(self, kind: bytes, body: bytes) -> Cut | None:
        """Follow which statements run; the cut, when this message commits one that is to be cut."""
        if kind == b"P":  # Parse: name, text
            name, text = body.split(b"\0", 2)[:2]
            self._texts[name] = text
        elif kind == b"B":  # Bind: portal, name of the statement
            self._written.append(self._texts.get(body.split(b"\0", 2)[1], b""))
        elif kind in (b"S", b"Q"):  # Sync ends a commit of its own, a Query may be COMMIT
            text = body.rstrip(b"\0")
            words = b" ".join(self._written) + (text if text == _COMMIT else b"")
            self._written.clear()
            cut = self._proxy.wanted(words.decode(errors="replace")) if words else None
            return None if cut is None else cut[1]
        return None

    async def _back(self) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                kind, message = await _message(self._there)
                if self._swallow:
                    if kind == b"Z":  # ReadyForQuery: it is committed
                        return
                    continue
                self._writer.write(message)
                await self._writer.drain()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """The type and the whole of the next message."""
    head = await reader.readexactly(_TYPED)
    return head[:1], head + await reader.readexactly(int.from_bytes(head[1:]) - _STARTUP)


def abort(writer: asyncio.StreamWriter) -> None:
    """Hang up at once."""
    with contextlib.suppress(RuntimeError):
        writer.transport.abort()
