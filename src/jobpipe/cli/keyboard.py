"""Single keys from the terminal, without the Return key; where there is no such terminal, only the waiting is left."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def keyboard() -> Iterator[Callable[[float], str | None]]:
    """Reads keys as they are pressed: what is given waits so many seconds for one. Puts the terminal back."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield _only_wait
        return
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    try:
        tty.setcbreak(terminal)
        yield lambda seconds: _pressed(terminal, seconds)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _pressed(terminal: int, seconds: float) -> str | None:
    ready, _, _ = select.select([terminal], [], [], seconds)
    if not ready:
        return None
    key = os.read(terminal, 1).decode(errors="replace")
    return key or "q"  # the terminal is gone


def _only_wait(seconds: float) -> None:
    time.sleep(seconds)
