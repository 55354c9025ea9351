"""`python -m bench.clients`: what a Python program gets through, by our own client, in turns with a bare loop.

One server process without workers, one program on the same machine. Each case is a rate of tasks that are stored
when the call returns. `--json` is for `bench.peers`, which puts the same beside the clients of the others.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from bench import servers
from jobpipe import App, Client

PAYLOAD = {"user": 7, "email": "ada@example.org"}
BODY = json.dumps({"handler": "greet", "payload": PAYLOAD}).encode()
JSON = {"content-type": "application/json"}
THREADS = 16
BATCH = 1000

app = App()


@app.handler
async def greet(user: int, email: str) -> None:
    """What is enqueued; nobody runs it here."""


def bare(port: int, tasks: int) -> float:
    """The standard library's connection, one request after the other, answers decoded: the yardstick."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def post() -> None:
        connection.request("POST", "/enqueue", BODY, JSON)
        json.loads(connection.getresponse().read())

    post()
    with _timed(tasks) as rate:
        for _ in range(tasks):
            post()
    connection.close()
    return rate()


def typed(_: int, tasks: int) -> float:
    """A handler's `enqueue_sync`, one after the other."""
    greet.enqueue_sync(**PAYLOAD)
    with _timed(tasks) as rate:
        for _ in range(tasks):
            greet.enqueue_sync(**PAYLOAD)
    return rate()


def threads(_: int, tasks: int) -> float:
    """The same from 16 threads."""
    each = tasks // THREADS

    def enqueue() -> None:
        for _ in range(each):
            greet.enqueue_sync(**PAYLOAD)

    all_ = [threading.Thread(target=enqueue) for _ in range(THREADS)]
    with _timed(each * THREADS) as rate:
        for one in all_:
            one.start()
        for one in all_:
            one.join()
    return rate()


def at_a_time(calls: int) -> Callable[[int, int], float]:
    """A handler's `enqueue`, so many calls under way."""

    async def enqueue(tasks: int) -> float:
        await greet.enqueue(**PAYLOAD)
        left = iter(range(tasks))

        async def one_after_the_other() -> None:
            for _ in left:
                await greet.enqueue(**PAYLOAD)

        with _timed(tasks) as rate:
            await asyncio.gather(*(one_after_the_other() for _ in range(calls)))
        await app.disconnect()
        app.connect(URL)
        return rate()

    return lambda _, tasks: asyncio.run(enqueue(tasks))


def batches(_: int, tasks: int) -> float:
    """`enqueue_many` of a generator."""
    with Client(URL) as client, _timed(tasks) as rate:
        client.enqueue_many({"handler": "greet", "payload": PAYLOAD} for _ in range(tasks))
    return rate()


CASES: dict[str, tuple[Callable[[int, int], float], int]] = {
    "http.client, one after the other": (bare, 2_000),
    "typed, one after the other": (typed, 2_000),
    "typed, 16 threads": (threads, 16_000),
    "typed, 64 at a time": (at_a_time(64), 30_000),
    "typed, 1,000 at a time": (at_a_time(1_000), 30_000),
    "typed, 10,000 at a time": (at_a_time(10_000), 30_000),
    "in batches": (batches, 100_000),
}
URL = ""


@contextmanager
def _timed(tasks: int) -> Iterator[Callable[[], float]]:
    began, ended = time.perf_counter(), 0.0

    def rate() -> float:
        return tasks / (ended - began)

    yield rate
    ended = time.perf_counter()


def measure(store: str, scale: float, rounds: int, names: list[str]) -> dict[str, list[float]]:
    """The rates of each round, by case, in turns on one server."""
    global URL  # noqa: PLW0603 - one program, one server
    found: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="jobpipe-clients-") as folder:
        url = "memory:" if store == "memory" else f"sqlite:///{folder}/jobpipe.db"
        sizes = ["--queue-size", str(servers.QUEUE_SIZE), "--no-pool"]
        with servers.jobpipe(Path(folder), *sizes, app="bench.app:app", store=url) as server:
            URL = f"http://127.0.0.1:{server.port}"
            app.connect(URL)
            for _ in range(rounds):
                for name in names:
                    case, tasks = CASES[name]
                    found[name].append(case(server.port, max(64, int(tasks * scale))))
    return found


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.clients")
    parser.add_argument("--store", choices=["file", "memory"], default="file")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", action="append", choices=list(CASES), help="may be repeated")
    arguments = parser.parse_args()
    found = measure(arguments.store, arguments.scale, arguments.rounds, arguments.only or list(CASES))
    if arguments.json:
        print(json.dumps(found))
        return 0
    first = next(iter(found.values()))
    for name, rates in found.items():
        ratio = median(rate / other for rate, other in zip(rates, first, strict=True))
        print(f"{name:34} {median(rates):10,.0f} /s  {min(rates):10,.0f} - {max(rates):,.0f}  x {ratio:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
