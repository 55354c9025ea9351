"""The daemon threads that run ordinary functions."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue

from jobpipe.work.threads import Threads


def call(threads: Threads, work: Callable[[], object] = lambda: None) -> str:
    """Run `work` to its end; the name of its thread."""
    told: SimpleQueue[str] = SimpleQueue()

    def run() -> Callable[[], None]:
        work()
        return lambda: told.put(threading.current_thread().name)

    threads.submit(run)
    return told.get(timeout=10)


def test_an_idle_thread_is_used_again() -> None:
    threads = Threads("reuse")
    assert {call(threads) for _ in range(100)} == {"reuse-1"}
    threads.close()


def test_a_busy_thread_gets_another_beside_it() -> None:
    threads, hold = Threads("beside"), threading.Event()

    def held() -> Callable[[], None]:
        assert hold.wait(10)
        return lambda: None

    threads.submit(held)
    assert call(threads) == "beside-2"
    hold.set()
    threads.close()


def test_closing_ends_idle_threads_and_later_the_busy_ones() -> None:
    threads, hold, entered = Threads("closing"), threading.Event(), threading.Event()

    def held() -> Callable[[], None]:
        entered.set()
        assert hold.wait(10)
        return lambda: None

    threads.submit(held)
    assert entered.wait(10)
    call(threads)
    mine = {t.name: t for t in threading.enumerate() if t.name.startswith("closing")}
    threads.close()
    mine["closing-2"].join(10)
    assert mine["closing-1"].is_alive()
    hold.set()
    mine["closing-1"].join(10)
    assert not any(t.is_alive() for t in mine.values())


def test_a_handler_that_never_ends_does_not_hold_the_exit_of_the_process() -> None:
    program = """
import threading
from jobpipe.work.threads import Threads
entered = threading.Event()
def work():
    entered.set()
    threading.Event().wait()
Threads().submit(work)
assert entered.wait(10)
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
