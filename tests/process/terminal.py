"""A pseudo terminal for tests: a program that believes a person sits before it, what it shows, and keys for it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from types import TracebackType
from typing import IO

BOUND_S = 30.0
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")


class Terminal:
    """`python -m jobpipe` with a terminal of `columns` x 40 as stdout and stderr, and as stdin unless given one."""

    def __init__(
        self,
        *args: str,
        environ: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        columns: int = 120,
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        size = ("COLUMNS", "LINES")  # of another terminal: a pytest that starts others sets them
        plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", *size)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobpipe", *args],
            stdin=stdin or slave, stdout=slave, stderr=slave, start_new_session=True,
            env={**plain, "TERM": "xterm-256color", **(environ or {})},
        )  # fmt: skip
        os.close(slave)
        self.raw = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """What was shown, without colours and movements."""
        return STEERING.sub("", self.raw)

    def shows(self, words: str) -> None:
        """Once the words were shown."""
        deadline = time.monotonic() + BOUND_S
        while words not in self.text:
            assert self._read(deadline), (words, self.raw[-5000:])

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def ended(self) -> int:
        """The exit code, once it has ended and all it showed was read."""
        deadline = time.monotonic() + BOUND_S
        while self._read(deadline):
            pass
        return self.process.wait(max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        try:
            data = os.read(self._master, 65536) if ready else b""
        except OSError:  # Linux says EIO when the last program has left the terminal
            data = b""
        self.raw += data.decode(errors="replace")
        return bool(data)
