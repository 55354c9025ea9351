"""The load generator, a process of its own so that it shares no interpreter with what it measures.

It reads one plan as JSON from its standard input and writes one report. `python -m bench.load` is not for people: see
`run`, which starts it.
"""

from __future__ import annotations

import math
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.client import TIMEOUT_S, BenchError, Connection, request, wait_done

ROOT = Path(__file__).resolve().parents[1]
PLAN_TIMEOUT_S = 120.0
PAUSE_S = 0.005
"""Between two requests that are to find an idle server."""


class Post(Struct, tag=True):
    """Send `request` `count` times over `connections`, each with one request under way, after `warmup` of the same.

    With `until_done`, go on until the server has done so many tasks; with `paused`, let the server fall idle before
    each request.
    """

    port: int
    request: bytes
    count: int
    connections: int = 1
    warmup: int = 0
    until_done: int = 0
    paused: bool = False


class Pickups(Struct, tag=True):
    """Post `count` tasks of the handler `stamp`, one at a time, each to an idle server."""

    port: int
    count: int


class Posted(Struct):
    """Seconds from the first request to the last answer, and to the last task done; milliseconds of single requests;
    `busy` is the share of a core that the generator itself used."""

    seconds: float
    done_seconds: float
    p50: float
    p99: float
    busy: float


class PickedUp(Struct):
    """Milliseconds from the sending of a task, and from its answer, to the start of its handler. The latter can be
    negative: a handler may start before the client has read that its task is accepted."""

    sent_p50: float
    sent_p99: float
    answered_p50: float
    answered_p99: float


def run(plan: Post | Pickups) -> bytes:
    """Carry the plan out in a new process: the report as JSON. Raises BenchError when that fails."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=msgspec.json.encode(plan),
        cwd=ROOT,
        capture_output=True,
        timeout=PLAN_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise BenchError(f"the load generator failed: {done.stderr.decode(errors='replace').strip()[-600:]}")
    return done.stdout


def post(plan: Post) -> Posted:
    """Post as planned."""
    return msgspec.json.decode(run(plan), type=Posted)


def pick_up(plan: Pickups) -> PickedUp:
    """Measure pick-ups as planned."""
    return msgspec.json.decode(run(plan), type=PickedUp)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the sorted `values` do not pass (nearest rank)."""
    return values[math.ceil(len(values) * share) - 1]


def _post(plan: Post) -> Posted:
    connections = [Connection(plan.port) for _ in range(plan.connections)]
    if plan.warmup:
        _drive(connections, plan.request, plan.warmup)
    began, cpu = time.perf_counter_ns(), time.process_time_ns()
    took = sorted(_drive(connections, plan.request, plan.count, PAUSE_S if plan.paused else 0))
    ended, cpu_ended = time.perf_counter_ns(), time.process_time_ns()
    if plan.until_done:
        connections[0].socket.settimeout(TIMEOUT_S)
        wait_done(connections[0], plan.until_done)
    done = time.perf_counter_ns()
    return Posted(
        seconds=(ended - began) / 1e9,
        done_seconds=(done - began) / 1e9,
        p50=percentile(took, 0.5) / 1e6,
        p99=percentile(took, 0.99) / 1e6,
        busy=(cpu_ended - cpu) / (ended - began),
    )


def _drive(connections: Sequence[Connection], data: bytes, count: int, pause_s: float = 0) -> list[int]:
    """Send `count` requests; how long each took, in nanoseconds."""
    took: list[int] = []
    clock = time.perf_counter_ns
    # Bare, without what `selectors` makes of each event: that would be a third of what a request costs here.
    by_fd = {connection.socket.fileno(): connection for connection in connections[:count]}
    with select.epoll() as epoll:
        for fd, connection in by_fd.items():
            # A socket with a timeout asks the kernel before every call whether it may; here `epoll` has the timeout.
            connection.socket.settimeout(None)
            epoll.register(fd, select.EPOLLIN)
            connection.send(data)
        left = count - len(by_fd)
        while len(took) < count:
            ready = epoll.poll(TIMEOUT_S)
            if not ready:
                raise BenchError(f"no answer within {TIMEOUT_S:g} s")
            for fd, _ in ready:
                connection = by_fd[fd]
                if connection.receive():
                    took.append(clock() - connection.sent_at)
                    if left:
                        left -= 1
                        if pause_s:
                            time.sleep(pause_s)
                        connection.send(data)
    return took


def _pick_up(plan: Pickups) -> PickedUp:
    connection = Connection(plan.port)
    pairs = [_one_pickup(connection) for _ in range(plan.count)]
    sent = sorted(pair[0] for pair in pairs)
    answered = sorted(pair[1] for pair in pairs)
    return PickedUp(
        sent_p50=percentile(sent, 0.5),
        sent_p99=percentile(sent, 0.99),
        answered_p50=percentile(answered, 0.5),
        answered_p99=percentile(answered, 0.99),
    )


def _one_pickup(connection: Connection) -> tuple[float, float]:
    """Milliseconds from the sending and from the answer to the start of the handler, by the clock of this machine."""
    data = request("POST", "/enqueue", b'{"handler":"stamp"}')
    sent = time.time_ns()
    connection.send(data)
    while not connection.receive():
        pass
    answered = time.time_ns()
    task_id = msgspec.json.decode(connection.answer.partition(b"\r\n\r\n")[2])["id"]
    task = connection.ask_json(request("GET", f"/tasks/{task_id}?wait=10"))
    if task["status"] != "done":
        raise BenchError(f"a task that should be done is {task['status']}: {task['last_error']}")
    time.sleep(PAUSE_S)
    return (task["result"] - sent) / 1e6, (task["result"] - answered) / 1e6


def main() -> None:
    """Carry out the plan on the standard input."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Post | Pickups)
    try:
        report = _post(plan) if isinstance(plan, Post) else _pick_up(plan)
    except (BenchError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(report))


if __name__ == "__main__":
    main()
