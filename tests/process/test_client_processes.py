"""A client whose process forks, whose loops and interpreter end; whose server is full, restarts, is one of two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import Program, Server, until

from jobpipe import App, Client, QueueFull

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

FORKS = """
import asyncio, json, os, sys
from jobpipe import App, Client

app = App()

@app.handler
def noop(n: int) -> None: ...

app.connect(sys.argv[1])
client = Client(sys.argv[1])
how, count = sys.argv[2], int(sys.argv[3])

def enqueue(n):
    if how == "client":
        return client.enqueue("noop", {"n": n}, id=f"{os.getpid()}-{n}")
    if how == "typed":
        return noop.options(id=f"{os.getpid()}-{n}").enqueue_sync(n)
    return asyncio.run(noop.options(id=f"{os.getpid()}-{n}").enqueue(n))

def wrong():
    answers = [enqueue(n) for n in range(1, count + 1)]
    return sum(a.id != f"{os.getpid()}-{n}" or a.payload != {"n": n} for n, a in enumerate(answers, 1))

enqueue(0)
children = []
for _ in range(8):
    pid = os.fork()
    if pid == 0:
        os._exit(min(wrong(), 100))
    children.append(pid)
mine = wrong()
print(json.dumps([mine, *(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)]))
"""

LOOPS = """
import asyncio, os, sys, threading
from jobpipe import App, AsyncClient

app = App()

@app.handler
async def noop() -> None: ...

app.connect(sys.argv[1])
mine = AsyncClient(sys.argv[1])

def opened():
    return len(os.listdir("/proc/self/fd"))

async def both():
    await noop.enqueue()
    await asyncio.gather(*(mine.stats() for _ in range(3)))

asyncio.run(both())
before = opened()
for _ in range(int(sys.argv[2])):
    asyncio.run(both())
for _ in range(20):  # loops whose generators nobody ends
    loop = asyncio.new_event_loop()
    loop.run_until_complete(both())
    loop.close()
threads = [threading.Thread(target=lambda: asyncio.run(both())) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
asyncio.run(both())
noop.enqueue_sync()
print(opened() - before)
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    store = f"sqlite:///{tmp_path / 'jobpipe.db'}"
    server = Server(tmp_path, "--no-pool", "--store", store, "--queue-size", "100000").up()
    yield server
    if server.alive():
        server.kill()


def run(code: str, *arguments: str) -> str:
    """What a program of a user's prints, with all warnings on; it says nothing else."""
    command = [sys.executable, "-W", "always", "-c", code, *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("how", "rounds", "count"), [("client", 3, 200), ("typed", 3, 200), ("async", 1, 50)]
)
def test_children_of_a_fork_get_their_own_answers_and_no_task_is_lost(
    server: Server, how: str, rounds: int, count: int
) -> None:
    for _ in range(rounds):
        assert json.loads(run(FORKS, server.url, how, str(count))) == [0] * 9
    with Client(server.url) as client:
        assert client.stats().counts["queued"] == rounds * (9 * count + 1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_event_loops_leave_no_sockets_behind_and_the_exit_no_warning(server: Server) -> None:
    assert int(run(LOOPS, server.url, "400")) <= 3


def test_importing_the_package_loads_no_client_and_no_server() -> None:
    heavy = (
        "httptools",
        "http.client",
        "jobpipe.client",
        "jobpipe.engine",
        "starlette",
        "uvicorn",
        "apsw",
    )
    assert run(f"import sys, jobpipe; print([n for n in {heavy!r} if n in sys.modules])") == "[]\n"


def test_ten_thousand_calls_at_a_time_all_succeed(server: Server) -> None:
    code = """if True:
        import asyncio, sys
        from jobpipe import AsyncClient

        async def main():
            async with AsyncClient(sys.argv[1]) as client:
                tasks = await asyncio.gather(*(client.enqueue("h", {"n": n}) for n in range(10_000)))
                assert [task.payload["n"] for task in tasks] == list(range(10_000))
                assert len({task.id for task in tasks}) == 10_000
                return (await client.stats()).counts["queued"]

        print(asyncio.run(main()))
    """
    assert run(code, server.url) == "10000\n"


def test_many_tasks_wait_for_room_in_a_full_queue(tmp_path: Path) -> None:
    server = Server(
        tmp_path, "--simulate-min", "0", "--simulate-max", "0", "--queue-size", "64", "--store", "memory:"
    ).up()
    try:
        with Client(server.url) as client:
            answers = client.enqueue_many([{"id": f"t{n}", "max_retries": 9} for n in range(500)])
            assert [getattr(answer, "id", answer) for answer in answers] == [f"t{n}" for n in range(500)]
            given = client.enqueue_many({"id": f"t{n}"} for n in range(400, 600))
            assert (given.count, given.refusals) == (100, 100)
            assert [one.index for one in given.refused] == list(range(100))
    finally:
        server.kill()


def test_without_room_for_long_the_rest_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "--no-pool", "--queue-size", "10", "--store", "memory:").up()
    try:
        with Client(server.url) as client:
            answers = client.enqueue_many([{} for _ in range(30)], patience=1.5)
            assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 10 + [True] * 20
        with Client(server.url, retries=0) as client:
            began = time.monotonic()
            (refused,) = client.enqueue_many([{}])
            assert isinstance(refused, QueueFull)
            assert time.monotonic() - began < 1
    finally:
        server.kill()


def test_an_iterator_is_streamed_in_bounded_memory(server: Server) -> None:
    code = """if True:
        import resource, sys
        from jobpipe import Client

        def tasks(count):
            for n in range(count):
                yield {"handler": "h", "payload": "x" * 2000}

        rss = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with Client(sys.argv[1]) as client:
            client.enqueue_many(tasks(3000))
            before = rss()
            assert client.enqueue_many(tasks(40_000)).count == 40_000
            print(rss() - before)
    """
    assert int(run(code, server.url)) < 20_000  # kB, of 80 MB of payloads


def test_waiting_outlives_a_restart_of_the_server(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'jobpipe.db'}"
    server = Server(tmp_path, "--no-pool", "--store", store).up()
    try:
        with Client(server.url) as client:
            task = client.enqueue("h")
            done: list[object] = []
            threading.Thread(
                target=lambda: done.append(client.wait(task.id, timeout=60)), daemon=True
            ).start()
            time.sleep(0.3)
            server.kill()
            time.sleep(3)
            assert not done
            server = server.again()
            client.cancel(task.id)
            until("the wait ends", lambda: done)
    finally:
        server.kill()


def test_a_worker_of_two_servers_goes_on_with_the_other_one(server: Server, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"
    worker = Program(tmp_path, "worker", "worker", "faults:app", "--server", nobody, "--server", server.url)
    try:
        with Client(urls=[nobody, server.url]) as client:
            task = client.enqueue("innocent", {})
            assert client.wait(task.id, timeout=30).status == "done"
    finally:
        worker.kill()


def test_typed_results_come_over_http(server: Server, tmp_path: Path) -> None:
    app = App()

    @app.handler
    def innocent() -> int:
        return 0

    app.connect(urls=[server.url], timeout=5)
    worker = Program(tmp_path, "worker", "worker", "faults:app", "--server", server.url)
    try:
        assert innocent.enqueue_sync().result_sync(timeout=30) > 1
        handles = innocent.enqueue_many_sync([{}, {"nonsense": 1}, innocent.call()])
        assert [type(handle).__name__ for handle in handles] == ["Handle", "InvalidPayload", "Handle"]
        assert handles[2].result_sync(timeout=30) > 1
    finally:
        worker.kill()


def test_a_program_that_logs_is_told_nothing_of_what_went_well(server: Server) -> None:
    code = """
        import asyncio, logging, sys
        from jobpipe import AsyncClient, Client

        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(name)s %(message)s")

        async def main():
            async with AsyncClient(sys.argv[1]) as client:
                await client.enqueue("h", 1)
                await client.enqueue_many({"handler": "h"} for _ in range(3))

        with Client(sys.argv[1]) as client:
            task = client.enqueue("h", 1)
            client.get(task.id)
            client.stats()
        asyncio.run(main())
        logging.info("mine")
    """
    assert run(textwrap.dedent(code), server.url) == "root mine\n"
