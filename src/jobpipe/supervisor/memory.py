"""How much memory worker processes use, and how much they may: looked at five times a second while one runs something.

Resident memory is read from /proc, elsewhere asked of `ps`; where there is neither (Windows) nobody is ever over.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from jobpipe.supervisor.child import Child

SAMPLE_S = 0.2
MIB = 1024**2


class MemoryGuard:
    """Kills a child over `limit` bytes (0: no limit). `children` are those to look at; idle ones are left alone."""

    def __init__(self, limit: int, children: Callable[[], Sequence[Child]]) -> None:
        self._limit = limit
        self._children = children
        self._busy = asyncio.Event()

    def notice(self) -> None:
        """Some child has begun to run something."""
        self._busy.set()

    async def run(self) -> None:
        """Watch for ever; asleep while no child runs anything."""
        while self._limit:
            self._busy.clear()
            busy = [child for child in self._children() if child.begun]
            if not busy:
                await self._busy.wait()
                continue
            used = await resident([child.pid for child in busy])
            for child in busy:
                self._judge(child, used.get(child.pid, 0))
            await asyncio.sleep(SAMPLE_S)

    def _judge(self, child: Child, used: int) -> None:
        if used > self._limit:
            child.kill(f"used {used // MIB} MiB of memory, over --max-rss {self._limit // MIB} MiB")


async def resident(pids: Sequence[int]) -> dict[int, int]:
    """Bytes of resident memory of each process; those that are gone are left out."""
    if sys.platform == "linux":
        return {pid: bytes_ for pid in pids if (bytes_ := _from_proc(pid)) is not None}
    if sys.platform == "win32":
        return {}
    return await _from_ps(pids)


def _from_proc(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):  # it ended meanwhile
        return None


async def _from_ps(pids: Sequence[int]) -> dict[int, int]:
    ps = await asyncio.create_subprocess_exec(
        "ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids)), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await ps.communicate()
    rows = (line.split() for line in out.splitlines())
    return {int(row[0]): int(row[1]) * 1024 for row in rows if len(row) == 2}


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
