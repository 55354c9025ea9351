"""What parent and worker process say to each other, how an end is told, and how much memory a container leaves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from jobpipe.processes.supervisor.child import described
from jobpipe.processes.supervisor.memory import MIB, MemoryGuard, _cgroups, default_limit, resident
from jobpipe.processes.supervisor.orders import Lines, Orders, order, shares


def test_orders_survive_their_line() -> None:
    orders = Orders(app="a:b", url="unix:/s", parent=7, queues=frozenset({"x"}), timeout=None, token="t")
    assert orders.line().count(b"\n") == 1
    assert Orders.parse(orders.line()) == orders


def test_lines_are_cut_wherever_the_pipe_cut_them() -> None:
    data = order("begin", "a", "b") + order("end", "a")
    for cut in range(len(data) + 1):
        lines = Lines()
        assert lines.feed(data[:cut]) + lines.feed(data[cut:]) == [["begin", "a", "b"], ["end", "a"]]


@pytest.mark.parametrize(
    ("workers", "processes", "expected"),
    [(4, 1, [4]), (5, 2, [3, 2]), (3, 3, [1, 1, 1]), (10, 4, [3, 3, 2, 2])],
)
def test_workers_are_shared_out_evenly(workers: int, processes: int, expected: list[int]) -> None:
    assert shares(workers, processes) == expected


def test_an_end_is_told_by_its_code_or_its_signal() -> None:
    assert described(0) == "exited with code 0"
    assert described(-11) == "was killed by signal 11 (SIGSEGV)"
    assert described(-9).startswith("was killed by signal 9 (SIGKILL)")
    assert described(-63) == "was killed by signal 63"


def test_the_smallest_limit_around_a_process_counts_for_both_versions(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/docker/abc\n2:cpu:/\n0::/slice/unit\n")
    for name, text in {
        "slice/unit/memory.max": "max\n",
        "slice/memory.max": "4096\n",
        "memory/memory.limit_in_bytes": "8192\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert sorted(_cgroups(tmp_path, own)) == [4096, 8192]
    assert _cgroups(tmp_path, tmp_path / "missing") == []


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a POSIX system")
def test_the_default_limit_is_at_most_half_of_the_memory_here() -> None:
    assert 0 < default_limit() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a POSIX system")
async def test_resident_memory_is_known_of_those_that_live() -> None:
    used = await resident([os.getpid(), 2**22 + 1])
    assert set(used) == {os.getpid()}
    assert 5 * MIB < used[os.getpid()] < 2000 * MIB


class FakeChild:
    """A child that is this very process, as far as memory goes."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.begun: set[str] = set()
        self.killed = asyncio.Event()
        self.why = ""

    def kill(self, why: str) -> None:
        self.why = why
        self.begun.clear()
        self.killed.set()


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="needs a POSIX system")
async def test_only_a_child_that_runs_something_is_killed_for_its_memory() -> None:
    idle, busy = FakeChild(), FakeChild()
    guard = MemoryGuard(MIB, lambda: [idle, busy])  # type: ignore[list-item]
    watching = asyncio.ensure_future(guard.run())
    await asyncio.sleep(0)
    busy.begun.add("lease")
    guard.notice()
    await asyncio.wait_for(busy.killed.wait(), 5)
    assert busy.why.endswith("MiB of memory, over --max-rss 1 MiB")
    assert not idle.killed.is_set()
    watching.cancel()


async def test_without_a_limit_nobody_watches() -> None:
    await asyncio.wait_for(MemoryGuard(0, list).run(), 1)
