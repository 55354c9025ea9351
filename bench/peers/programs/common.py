"""What the programs of all Python peers share: the command line, and the bookkeeping of a worker.

A program is run in the peers' own environment, not in Jobpipe's. `produce N`, `batch N SIZE` and `paced N` enqueue
tasks and print the moments of beginning and end; `work N` runs one worker process until its handler was called N times
after a first, warming call. Moments are nanoseconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterable

URL = os.environ["PEER_URL"]
"""Of the service that the peer stands on; for those with files, a folder."""
CONCURRENCY = 64
PAUSE_S = 0.02
"""Between two tasks that are to find an idle worker."""
PAYLOAD = {"user": 7, "email": "ada@example.org"}


class Counted:
    """Counts the handler's calls in this process; prints a report at the last one and ends the process."""

    def __init__(self) -> None:
        self._left = -1
        self._warm = False
        self._latencies: list[float] = []

    def expect(self, n: int) -> None:
        """So many calls come after the first one."""
        self._left = n

    def seen(self, sent: int) -> None:
        """The handler was called for a task that was sent at `sent` (0: nobody asks)."""
        now = time.monotonic_ns()
        if not self._warm:
            self._warm = True
            print("warm", now, flush=True)
            return
        if sent:
            self._latencies.append((now - sent) / 1e6)
        self._left -= 1
        if self._left == 0:
            self._report(now)

    def _report(self, now: int) -> None:
        rss_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
        print(json.dumps({"last": now, "latencies": self._latencies, "rss_mb": rss_mb}), flush=True)
        os._exit(0)  # what the peer would still tidy up is not measured, and its next measurement begins anew


counted = Counted()


def main(
    *,
    produce: Callable[[Iterable[int]], object],
    batch: Callable[[int, int], object] | None,
    work: Callable[[], object],
) -> None:
    """Do what the command line says. `produce` gets the tasks' sending times, lazily: 0, or now when each is sent."""
    command, n = sys.argv[1], int(sys.argv[2])
    if command == "work":
        counted.expect(n)
        work()
        return
    began = time.monotonic_ns()
    if command == "produce":
        produce(0 for _ in range(n))
    elif command == "paced":
        produce(_paced(n))
    elif command == "batch" and batch is not None:
        batch(n, int(sys.argv[3]))
    else:
        sys.exit(f"this peer has no '{command}'")
    print(json.dumps({"began": began, "ended": time.monotonic_ns()}), flush=True)


def _paced(n: int) -> Iterable[int]:
    for _ in range(n):
        time.sleep(PAUSE_S)
        yield time.monotonic_ns()


async def gathered(send: Callable[[int], Awaitable[object]], sent: Iterable[int]) -> None:
    """Send all, `CONCURRENCY` at a time; paced ones one after the other."""
    times = iter(sent)

    async def one_after_the_other() -> None:
        for moment in times:
            await send(moment)

    lanes = 1 if sys.argv[1] == "paced" else CONCURRENCY
    await asyncio.gather(*(one_after_the_other() for _ in range(lanes)))
