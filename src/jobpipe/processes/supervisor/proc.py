"""What the system says of processes (proc(5), Linux): whether they live, whose children they are, what they hold.

Elsewhere nothing is known, and every function says so by an empty answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

from msgspec import Struct

LINUX = sys.platform == "linux"
STOPPED = "tTZXx"
"""States in which a process does nothing: stopped by a signal or a debugger, or dead."""


class Stat(Struct, frozen=True):
    """One process: its state as one letter, its parent, its group, and how much memory is resident, in bytes."""

    pid: int
    state: str
    parent: int
    group: int
    resident: int


def stat(pid: int) -> Stat | None:
    """What is known of a process; None when it is gone, or where nobody can tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name stands in parentheses, and may hold some itself.
            words = file.read().rpartition(b")")[2].split()
        pages = int(words[21])
        return Stat(pid, words[0].decode(), int(words[1]), int(words[2]), pages * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, IndexError, ValueError):
        return None


def works(pid: int) -> bool:
    """Whether the system says that this process lives and is not stopped."""
    found = stat(pid)
    return found is not None and found.state not in STOPPED


def every() -> list[Stat]:
    """All processes that are to be seen."""
    if not LINUX:
        return []
    return [found for name in os.listdir("/proc") if name.isdecimal() and (found := stat(int(name)))]


def descendants(pids: Iterable[int], everything: Iterable[Stat]) -> dict[int, list[Stat]]:
    """For each of `pids` what it started, and what that started in turn, as long as it stays in that one's group."""
    children: dict[int, list[Stat]] = {}
    for one in everything:
        children.setdefault(one.parent, []).append(one)
    found: dict[int, list[Stat]] = {}
    for pid in pids:
        below = found[pid] = list(children.get(pid, ()))
        for one in below:
            below.extend(children.get(one.pid, ()))
    return found


def proportional(pid: int) -> int | None:
    """Bytes of memory that this process alone accounts for: pages that several share count in parts."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"Pss:"))
    except (OSError, StopIteration, ValueError):
        return None
