"""What an examination says: one line for each thing that was looked at."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class State(StrEnum):
    """How well something is. A warning may be meant; a problem loses work, or keeps a server from its own."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Struct, frozen=True):
    """What was looked at, how it is, and why, in one line for people."""

    check: str
    state: State
    text: str


def fine(check: str, text: str) -> Finding:
    """Nothing to do."""
    return Finding(check, State.OK, text)


def warning(check: str, text: str) -> Finding:
    """Worth a look."""
    return Finding(check, State.WARNING, text)


def problem(check: str, text: str) -> Finding:
    """To be mended."""
    return Finding(check, State.PROBLEM, text)


def size(amount: float) -> str:
    """Bytes, as people say them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if amount >= 10 or unit == "bytes" else f"{amount:.1f} {unit}"
