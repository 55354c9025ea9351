"""`python -m bench.costs`: CPU time per request or task of each hot route, in one process, without sockets.

Connections are stood in for by transports in memory, so that what is left is our own work: of the event loop's thread
and of the storage's. CPU time, unlike the clock on the wall, hardly minds who else uses the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

from jobpipe.engine.queue import TaskQueue
from jobpipe.http import HttpConfig, HttpServer, create_app
from jobpipe.runtime.clock import SystemClock
from jobpipe.runtime.loop import loop_factory
from jobpipe.storage import open_storage

CONNECTIONS = 64
PAYLOAD = {"user": 1, "email": "ada@example.org"}
HEAD = "Host: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: */*\r\nContent-Type: application/json\r\n"

Requests = Iterator[bytes]


class Cost(NamedTuple):
    """Microseconds of CPU time per unit (a request or a task), by thread."""

    name: str
    loop: float
    storage: float


class Peer(asyncio.Transport):
    """A client in place of a socket: it sends its next request when it is answered."""

    def __init__(self, requests: Requests, done: Callable[[], None], answer: Callable[[bytes], None]) -> None:
        super().__init__()
        self._requests = requests
        self._done = done
        self._answer = answer
        self.protocol: Any = None

    def next(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._done()
        else:
            self.protocol.data_received(request)

    def write(self, data: Any) -> None:
        self._answer(data)
        asyncio.get_running_loop().call_soon(self.next)

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def close(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Bench:
    """A queue on a file, and the edge over it."""

    def __init__(self, folder: Path, fast: bool) -> None:
        storage = open_storage(
            f"sqlite:///{folder / 'costs.db'}", capacity=10**9, max_queues=10, clock=SystemClock()
        )
        self.queue = TaskQueue(storage)
        config = HttpConfig(**({"fast_lane": fast} if "fast_lane" in HttpConfig.__struct_fields__ else {}))
        self.server = HttpServer(create_app(self.queue, config))
        self.server.config.load()

    async def cost(
        self, name: str, requests: list[bytes], units: int, connections: int = CONNECTIONS
    ) -> Cost:
        """Have all requests answered, each connection one after the other."""
        answers: list[bytes] = []
        await self._ask(iter(requests[: len(requests) // 10]), answers, connections)
        begin = self._times()
        await self._ask(iter(requests[len(requests) // 10 :]), answers, connections)
        spent = [(end - was) / units * 1e6 / 0.9 for end, was in zip(self._times(), begin, strict=True)]
        self.answers = answers
        wrong = [answer for answer in answers if b" 20" not in answer[:12]]
        if wrong:
            raise SystemExit(f"{name}: {wrong[0]!r}")
        return Cost(name, *spent)

    async def _ask(self, requests: Requests, answers: list[bytes], connections: int) -> None:
        left = connections
        over = asyncio.get_running_loop().create_future()

        def done() -> None:
            nonlocal left
            left -= 1
            if not left:
                over.set_result(None)

        state = self.server.server_state
        config = self.server.config
        for _ in range(connections):
            peer = Peer(requests, done, answers.append)
            peer.protocol = cast("Any", config.http_protocol_class)(
                config=config, server_state=state, app_state={}
            )
            peer.protocol.connection_made(peer)
            asyncio.get_running_loop().call_soon(peer.next)
        await over

    def _times(self) -> tuple[float, float]:
        (writer,) = [thread for thread in threading.enumerate() if thread.name == "jobpipe-storage"]
        clock = time.pthread_getcpuclockid(cast("int", writer.ident))
        return time.thread_time(), time.clock_gettime(clock)


def post(path: str, body: Any, more: str = "") -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return f"POST {path} HTTP/1.1\r\n{HEAD}{more}Content-Length: {len(data)}\r\n\r\n".encode() + data


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{HEAD}\r\n".encode()


def bodies_of(answers: list[bytes]) -> Iterator[Any]:
    for answer in answers:
        yield json.loads(answer.partition(b"\r\n\r\n")[2])


async def measure(folder: Path, n: int, *, fast: bool) -> list[Cost]:
    bench = Bench(folder, fast)
    await bench.queue.open()
    costs = [await bench.cost("POST /enqueue", [post("/enqueue", {"payload": PAYLOAD})] * n, n)]
    ids = [task["id"] for task in bodies_of(bench.answers)]
    for header in ("X-Request-Id", "Idempotency-Key"):
        changing = [post("/enqueue", {"payload": PAYLOAD}, f"{header}: {i:032x}\r\n") for i in range(n)]
        costs.append(await bench.cost(f"the same, each with its own {header}", changing, n))
    costs.append(await bench.cost("GET /tasks/{id}", [get(f"/tasks/{id}") for id in ids], len(ids)))
    costs.append(await bench.cost("GET /task?id=", [get(f"/task?id={id}") for id in ids], len(ids)))
    for size in (1, 64):
        wish = post("/lease", {"worker_id": "w", "max": size, "wait": 1, "lease": 600})
        rounds = n // 4 if size == 1 else n // 2 // size
        costs.append(await bench.cost(f"POST /lease, {size} each", [wish] * rounds, rounds * size, 8))
        settles = [
            post("/settle", [
                {"id": task["id"], "lease_id": task["lease_id"], "outcome": "done", "result": 1}
                for task in answer["tasks"]
            ])
            for answer in bodies_of(bench.answers)
        ]  # fmt: skip
        costs.append(await bench.cost(f"POST /settle, {size} each", settles, rounds * size, 8))
    many = post("/enqueue", [{"payload": PAYLOAD}] * 1000)
    costs.append(await bench.cost("POST /enqueue, 1,000 each", [many] * 50, 50 * 1000, 4))
    named = [
        post(
            "/enqueue",
            [{"id": f"{b}-{i}", "handler": "mail", "queue": "q", "payload": PAYLOAD} for i in range(1000)],
        )
        for b in range(50)
    ]
    costs.append(await bench.cost("the same with ids and names", named, 50 * 1000, 4))
    await bench.queue.close()
    return costs


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m bench.costs", description="CPU time per request.")
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--no-fast-lane", action="store_true")
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="jobpipe-bench-") as folder,
        asyncio.Runner(loop_factory=loop_factory()) as runner,
    ):
        costs = runner.run(measure(Path(folder), arguments.requests, fast=not arguments.no_fast_lane))
    print("| CPU time in us, per request (or task, where several) | event loop | storage |\n|---|---|---|")
    for cost in costs:
        print(f"| {cost.name} | {cost.loop:.1f} | {cost.storage:.1f} |")


if __name__ == "__main__":
    main()
