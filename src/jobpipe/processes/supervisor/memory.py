"""How much memory worker processes use, and how much they may: looked at five times a second while one runs something.

What a process started counts with it, as far as it stays in its group. Resident memory is read from /proc, elsewhere
asked of `ps`; where there is neither (Windows) nobody is ever over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobpipe.processes.supervisor import proc
from jobpipe.processes.supervisor.child import Child
from jobpipe.processes.supervisor.proc import Stat

SAMPLE_S = 0.2
LOOK_EVERY = 5
"""So many samples count what was seen at the first of them: to look who started what reads all processes there are."""
MIB = 1024**2


class MemoryGuard:
    """Kills a child over `limit` bytes (0: no limit). `children` are those to look at; idle ones are left alone."""

    def __init__(self, limit: int, children: Callable[[], Sequence[Child]]) -> None:
        self._limit = limit
        self._children = children
        self._busy = asyncio.Event()
        self._trees: dict[int, list[int]] = {}

    def notice(self) -> None:
        """Some child has begun to run something."""
        self._busy.set()

    async def run(self) -> None:
        """Watch for ever; asleep while no child runs anything."""
        sample = 0
        while self._limit:
            self._busy.clear()
            busy = [child for child in self._children() if child.begun]
            if not busy:
                await self._busy.wait()
                sample = 0
                continue
            if sample % LOOK_EVERY == 0 and proc.LINUX:
                self._trees = trees([child.pid for child in busy], proc.every())
            used = await resident([child.pid for child in busy], self._trees, self._limit)
            for child in busy:
                self._judge(child, used.get(child.pid, 0))
            sample += 1
            await asyncio.sleep(SAMPLE_S)

    def _judge(self, child: Child, used: int) -> None:
        if used > self._limit:
            child.kill(f"used {used // MIB} MiB of memory, over --max-rss {self._limit // MIB} MiB")


def trees(pids: Sequence[int], everything: Sequence[Stat]) -> dict[int, list[int]]:
    """What each of these processes started, and what that started, without those that left its group."""
    groups = {one.pid: one.group for one in everything}
    below = proc.descendants(pids, everything)
    return {pid: [one.pid for one in below[pid] if one.group == groups.get(pid)] for pid in pids}


async def resident(
    pids: Sequence[int], trees: Mapping[int, Sequence[int]] | None = None, limit: int = 0
) -> dict[int, int]:
    """Bytes of resident memory of each process and of `trees` below it; those that are gone are left out.

    Processes that were forked share pages. Where the sum is over `limit`, each counts with its part of them.
    """
    trees = trees or {}
    if sys.platform == "linux":
        return {pid: bytes_ for pid in pids if (bytes_ := _in_all(pid, trees.get(pid, ()), limit))}
    if sys.platform == "win32":
        return {}
    return await _from_ps(pids)


def _in_all(pid: int, below: Sequence[int], limit: int) -> int:
    own = _own(pid)
    total = own + sum(map(_own, below))
    if not below or total <= limit:
        return total
    return max(own, sum(proc.proportional(one) or 0 for one in (pid, *below)))


def _own(pid: int) -> int:
    found = proc.stat(pid)
    return 0 if found is None else found.resident


async def _from_ps(pids: Sequence[int]) -> dict[int, int]:
    ps = await asyncio.create_subprocess_exec(
        "ps", "-axo", "pid=,ppid=,pgid=,rss=", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await ps.communicate()
    rows = [[int(word) for word in line.split()] for line in out.splitlines()]
    known = {row[0]: Stat(row[0], "", row[1], row[2], row[3] * 1024) for row in rows if len(row) == 4}
    below = trees(pids, list(known.values()))
    return {
        pid: sum(known[one].resident for one in (pid, *below[pid]) if one in known)
        for pid in pids
        if pid in known
    }


def default_limit() -> int:
    """Half of the memory that this machine or container has; 0 when that cannot be told."""
    known = [bytes_ for bytes_ in (_physical(), *_cgroups()) if bytes_]
    return min(known) // 2 if known else 0


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """The memory limits of the control groups around this process, of both versions (man 7 cgroups)."""
    limits: list[int] = []
    with contextlib.suppress(OSError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                limits += _limits(root, path, "memory.max")
            elif "memory" in controllers.split(","):
                limits += _limits(root / "memory", path, "memory.limit_in_bytes")
    return limits


def _limits(root: Path, path: str, name: str) -> list[int]:
    """The limit of a group and of all around it; inside a container its own group is mounted as the root."""
    found: list[int] = []
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file: no limit there
            found.append(int((folder / name).read_text()))
        if folder == root:
            break
    return found
