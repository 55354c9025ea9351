"""The two pipes to the parent, kept away from handlers: fd 0 becomes the null device and fd 1 a second stderr.

So a handler that prints cannot garble what the parent reads, and one that reads input takes no order away. A thread
reads the orders; at the end of that pipe the parent is dead, and this process follows it at once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable

from jobpipe.processes.supervisor.orders import EXIT_ORPHANED, Lines, Orders


class Pipes:
    """The parent's orders and our messages. To be made before anything of the user's runs."""

    def __init__(self) -> None:
        self._in = os.dup(0)
        self._out = os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        self._lines = Lines()

    def orders(self) -> Orders:
        """The first line, byte by byte so that nothing behind it is swallowed. Ends the process with its parent."""
        line = bytearray()
        while not line.endswith(b"\n"):
            byte = os.read(self._in, 1)
            if not byte:
                os._exit(EXIT_ORPHANED)
            line += byte
        return Orders.parse(bytes(line))

    def listen(self, hear: Callable[[str, str], object]) -> None:
        """From now on call `hear(word, rest)` with each order, in a thread."""
        threading.Thread(target=self._read, args=(hear,), name="jobpipe-orders", daemon=True).start()

    def _read(self, hear: Callable[[str, str], object]) -> None:
        while data := os.read(self._in, 65536):
            for word, *rest in self._lines.feed(data):
                hear(word, " ".join(rest))
        os._exit(EXIT_ORPHANED)

    def send(self, line: bytes) -> None:
        """Write a line, as one piece. A parent that is gone is the reader's matter."""
        view = memoryview(line)
        with contextlib.suppress(BrokenPipeError):
            while view:
                view = view[os.write(self._out, view) :]
