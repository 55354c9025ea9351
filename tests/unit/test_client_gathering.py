"""Enqueues of the same moment share requests, and nobody pays for a neighbour: in both colours, against bad servers."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest
from test_client_fakes import Answers, Asked, Cut, http, leased

from jobpipe.client import AsyncClient, Client, ConnectionFailed, Retries, Task
from jobpipe.core.errors import JobpipeError, QueueFull, TaskExists, Unauthorized
from jobpipe.core.retry import RetryPolicy

QUICK = Retries(count=3, backoff=RetryPolicy(base=0.001, jitter=0.0))
Results = list[Task | BaseException]
Calls = Callable[..., Results]


class Store(Answers):
    """Takes tasks as a server does; `spoil` may answer instead, by the ids of a request."""

    def __init__(self, spoil: Callable[[list[str]], bytes | Cut | None] = lambda _: None) -> None:
        super().__init__()
        self.stored: dict[str, int] = {}
        self.sizes: list[int] = []
        self.spoil = spoil
        self.answers = _Same(self.answer)  # type: ignore[assignment]

    def answer(self, asked: Asked) -> bytes | Cut:
        if asked.method == "GET":
            id = asked.path.rpartition("/")[2]
            return _json(200, leased(id)) if id in self.stored else _json(404, {"code": "not_found"})
        body = msgspec.json.decode(asked.body)
        items = body if isinstance(body, list) else [body]
        self.sizes.append(len(items))
        spoilt = self.spoil([item["id"] for item in items])
        if spoilt is not None and not (isinstance(spoilt, Cut) and spoilt.sent == b"late"):
            return spoilt
        answers = [self._take(item["id"]) for item in items]
        if spoilt is not None:
            return Cut()
        if isinstance(body, list):
            return _json(200, [{"status": 202, "task": one} if "handler" in one else one for one in answers])
        return _json(answers[0].get("status") if "code" in answers[0] else 202, answers[0])

    def _take(self, id: str) -> dict[str, Any]:
        if id in self.stored:
            return {"status": 409, "code": "task_exists"}
        self.stored[id] = 1
        return leased(id)


class _Same(list[Any]):
    """A script that never ends."""

    def __init__(self, answer: Any) -> None:
        super().__init__([answer])

    def pop(self, _: Any = 0) -> Any:
        return self[0]


def _json(status: int, value: Any) -> bytes:
    return http(status, msgspec.json.encode(value))


def in_threads(server: Answers, count: int, ids: dict[int, str] | None = None, **options: Any) -> Results:
    with Client(server.url, **{"retries": QUICK, **options}) as client, ThreadPoolExecutor(count) as pool:

        def call(n: int) -> Task | BaseException:
            try:
                return client.enqueue("h", n, id=(ids or {}).get(n))
            except Exception as error:
                return error

        return list(pool.map(call, range(count)))


def in_coroutines(server: Answers, count: int, ids: dict[int, str] | None = None, **options: Any) -> Results:
    async def main() -> Results:
        async with AsyncClient(server.url, **{"retries": QUICK, **options}) as client:
            calls: list[Coroutine[Any, Any, Task]] = [
                client.enqueue("h", n, id=(ids or {}).get(n)) for n in range(count)
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(main())


@pytest.fixture(params=[in_threads, in_coroutines])
def calls(request: pytest.FixtureRequest) -> Calls:
    """Enqueue so many at a time; each one's task or error."""
    return request.param  # type: ignore[no-any-return]


def test_calls_of_one_moment_share_requests(calls: Calls) -> None:
    def slow(_: Any) -> None:
        time.sleep(0.02)

    with Store(slow) as server:
        tasks = calls(server, 40)
    ids = [task.id for task in tasks if isinstance(task, Task)]
    assert len(set(ids)) == 40
    assert set(ids) == set(server.stored)
    assert len(server.sizes) < 15
    assert server.connections <= 3


def test_a_refusal_is_its_own_items_alone(calls: Calls) -> None:
    with Store() as server:
        server.stored["taken"] = 1
        answers = calls(server, 20, {7: "taken"})
    assert isinstance(answers.pop(7), TaskExists)
    assert all(isinstance(answer, Task) for answer in answers)


@pytest.mark.parametrize(
    "cut", [Cut(), Cut(b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n[{"), Cut(b"late")]
)
def test_a_server_that_dies_in_its_answer_makes_no_second_task_and_costs_none(calls: Calls, cut: Cut) -> None:
    spoilt = [cut, cut]

    with Store(lambda _: spoilt.pop() if spoilt else None) as server:
        tasks = calls(server, 30)
    assert [type(task) for task in tasks] == [Task] * 30
    assert {task.id for task in tasks if isinstance(task, Task)} == set(server.stored)


def test_an_id_of_the_callers_is_not_sent_twice_blindly_also_beside_others(calls: Calls) -> None:
    def once(ids: list[str]) -> Cut | None:
        return (
            Cut()
            if "mine" in ids and server.sizes.count(len(ids)) and not lost.append(1) and len(lost) < 2
            else None
        )

    lost: list[int] = []
    with Store(once) as server:
        answers = calls(server, 20, {3: "mine"})
    mine = answers.pop(3)
    assert isinstance(mine, ConnectionFailed)
    assert mine.maybe_sent
    assert all(isinstance(answer, Task) for answer in answers)


@pytest.mark.parametrize("status", [400, 413])
def test_a_request_refused_for_what_one_item_holds_is_divided_until_that_one_is_found(
    calls: Calls, status: int
) -> None:
    code = {400: "invalid_json", 413: "too_large"}[status]
    with Store(lambda ids: _json(status, {"code": code}) if "bad" in ids else None) as server:
        answers = calls(server, 20, {11: "bad"})
    assert isinstance(answers.pop(11), JobpipeError)
    assert all(isinstance(answer, Task) for answer in answers)


def test_answers_in_another_order_are_nobodys(calls: Calls) -> None:
    def swapped(ids: list[str]) -> bytes | None:
        if len(ids) < 2 or seen:
            return None
        seen.append(1)
        server.stored.update(dict.fromkeys(ids, 1))
        return _json(200, [{"status": 202, "task": leased(id)} for id in reversed(ids)])

    seen: list[int] = []
    with Store(swapped) as server:
        tasks = calls(server, 21)
    assert seen
    assert {task.id for task in tasks if isinstance(task, Task)} == set(server.stored)
    assert len(server.stored) == 21


def test_what_refuses_all_is_told_to_all(calls: Calls) -> None:
    with Store(lambda _: _json(401, {"code": "unauthorized"})) as server:
        answers = calls(server, 10)
    assert {type(answer) for answer in answers} == {Unauthorized}


def test_a_full_queue_says_when_to_come_again(calls: Calls) -> None:
    with Store(lambda _: http(503, b'{"code": "queue_full"}', b"retry-after: 7")) as server:
        answers = calls(server, 1, retries=0)
    assert isinstance(answers[0], QueueFull)
    assert answers[0].retry_after == 7


def test_nobody_waits_longer_than_its_timeout_for_a_server_that_hangs(calls: Calls) -> None:
    gate = threading.Event()

    def hang(_: Any) -> None:
        gate.wait(10)

    began = time.monotonic()
    with Store(hang) as server:
        answers = calls(server, 60, timeout=0.5, retries=0)
        took = time.monotonic() - began
        gate.set()
    assert {type(answer) for answer in answers} == {ConnectionFailed}
    assert took < 3


def test_one_that_is_cancelled_leaves_the_others_theirs() -> None:
    gate = threading.Event()

    async def main(server: Store) -> None:
        async with AsyncClient(server.url, retries=0) as client:
            first = asyncio.create_task(client.enqueue("h"))
            while not server.sizes:
                await asyncio.sleep(0.01)
            others = [asyncio.create_task(client.enqueue("h")) for _ in range(10)]
            while len(server.sizes) < 2:  # they went by themselves: the first takes long
                await asyncio.sleep(0.01)
            others[4].cancel()
            first.cancel()
            gate.set()
            answers = await asyncio.gather(*others, return_exceptions=True)
            assert isinstance(answers.pop(4), asyncio.CancelledError)
            assert all(isinstance(answer, Task) for answer in answers)

    def held(_: Any) -> None:
        gate.wait(10)

    with Store(held) as server:
        asyncio.run(main(server))


def test_ctrl_c_in_the_main_thread_leaves_the_others_theirs() -> None:
    gate = threading.Event()

    def held(ids: list[str]) -> None:
        gate.wait(10)

    with Store(held) as server, Client(server.url, retries=0) as client:
        with ThreadPoolExecutor(8) as pool:
            others = [pool.submit(client.enqueue, "h", n) for n in range(8)]
            handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                with pytest.raises(KeyboardInterrupt):
                    client.enqueue("h")
            finally:
                signal.signal(signal.SIGALRM, handler)
            gate.set()
            assert all(isinstance(other.result(10), Task) for other in others)
        assert client.enqueue("h").status == "running"


def test_a_handler_of_signals_may_enqueue_too() -> None:
    with Store(lambda _: time.sleep(0.002)) as server, Client(server.url) as client:
        from_handler: list[str] = []
        before = signal.signal(signal.SIGALRM, lambda *_: from_handler.append(client.enqueue("h").id))
        try:
            ids = []
            for _ in range(20):
                signal.setitimer(signal.ITIMER_REAL, 0.0005)
                ids.append(client.enqueue("h").id)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    assert len({*ids, *from_handler}) == len(ids) + len(from_handler)
    assert from_handler


def test_each_caller_raises_an_error_of_its_own(calls: Calls) -> None:
    refused = _json(401, {"code": "unauthorized"})
    for server in (Store(lambda _: refused), Store(lambda _: Cut())):
        with server:
            errors = calls(server, 12, retries=0)
        assert all(isinstance(error, JobpipeError) for error in errors)
        assert len({id(error) for error in errors}) == 12
