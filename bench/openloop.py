"""Load that does not wait for answers: each request has its moment, whatever became of those before it.

A request that finds no free connection waits for one, and its time counts from the moment at which it should have been
sent: so a server that stalls cannot hide the requests that the stall delayed (coordinated omission). A process of its
own, as `bench.load` is: it reads one plan as JSON and writes one report.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.client import TIMEOUT_S, BenchError, Connection
from bench.load import percentile

ROOT = Path(__file__).resolve().parents[1]
SPARE_S = 60.0


class Steady(Struct):
    """`rate` requests a second for `seconds`, over so many `connections`."""

    port: int
    request: bytes
    rate: float
    seconds: float
    connections: int = 128


class Answers(Struct):
    """How many answers there were by status; milliseconds from the planned moment, of accepted and of refused ones.

    `late` is the share of requests that the generator itself could not send on time, for want of a connection or of
    processor time; `busy` its own part of a core.
    """

    statuses: dict[str, int]
    seconds: float
    p50: float
    p99: float
    p999: float
    most: float
    refused_p50: float | None
    refused_p99: float | None
    late: float
    busy: float


def offer(plan: Steady) -> Answers:
    """Carry the plan out in a new process. Raises BenchError when that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.openloop"],
        input=msgspec.json.encode(plan),
        cwd=ROOT,
        capture_output=True,
        timeout=plan.seconds + SPARE_S,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"the load generator failed: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return msgspec.json.decode(done.stdout, type=Answers)


class _Offer:
    """One run of a plan."""

    def __init__(self, plan: Steady) -> None:
        self._plan = plan
        self._free = deque(_Any(plan.port) for _ in range(plan.connections))
        self._selector = selectors.DefaultSelector()
        for connection in self._free:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._planned: dict[_Any, float] = {}
        self._took: dict[bool, list[float]] = {True: [], False: []}
        self._statuses: Counter[str] = Counter()
        self._late = 0

    def run(self) -> Answers:
        """Send everything, wait for all answers."""
        plan = self._plan
        total = round(plan.rate * plan.seconds)
        began, cpu = time.perf_counter(), time.process_time()
        sent = 0
        while sum(self._statuses.values()) < total:
            now = time.perf_counter()
            while sent < total and self._free and began + sent / plan.rate <= now:
                self._send(began + sent / plan.rate, now)
                sent += 1
            due = began + sent / plan.rate
            wait = (
                min(TIMEOUT_S, max(0.0, due - time.perf_counter()))
                if sent < total and self._free
                else TIMEOUT_S
            )
            ready = self._selector.select(wait)
            if not ready and wait == TIMEOUT_S:
                raise BenchError(f"no answer within {TIMEOUT_S:g} s")
            for key, _ in ready:
                self._receive(key.data)
        seconds = time.perf_counter() - began
        return self._report(total, seconds, (time.process_time() - cpu) / seconds)

    def _send(self, planned: float, now: float) -> None:
        if now - planned > 0.001:
            self._late += 1
        connection = self._free.popleft()
        self._planned[connection] = planned
        connection.send(self._plan.request)

    def _receive(self, connection: _Any) -> None:
        if not connection.receive():
            return
        status = connection.answer[9:12].decode()
        self._statuses[status] += 1
        self._took[status.startswith("2")].append(
            (time.perf_counter() - self._planned.pop(connection)) * 1000
        )
        self._free.append(connection)

    def _report(self, total: int, seconds: float, busy: float) -> Answers:
        accepted, refused = sorted(self._took[True]), sorted(self._took[False])
        if not accepted:
            raise BenchError(f"nothing was accepted: {dict(self._statuses)}")
        return Answers(
            statuses=dict(self._statuses),
            seconds=seconds,
            p50=percentile(accepted, 0.5),
            p99=percentile(accepted, 0.99),
            p999=percentile(accepted, 0.999),
            most=accepted[-1],
            refused_p50=percentile(refused, 0.5) if refused else None,
            refused_p99=percentile(refused, 0.99) if refused else None,
            late=self._late / total,
            busy=busy,
        )


class _Any(Connection):
    """A connection that takes refusals for answers too."""

    refusals = True


def main() -> None:
    """Carry out the plan on the standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Steady)
    try:
        report = _Offer(plan).run()
    except (BenchError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
