"""Client and AsyncClient drive the same calls: what they are given, what they send, and what they make of failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from test_client_fakes import Answers, Cut, http, leased

from jobpipe.client import AsyncClient, Client, ConnectionFailed, Retries, ServerError, blocking, connection
from jobpipe.core.errors import NotFound
from jobpipe.core.retry import RetryPolicy

QUICK = Retries(count=2, backoff=RetryPolicy(base=0.001, jitter=0.0))
TASK = http(200, msgspec.json.encode(leased("t1")))

Run = Callable[..., Any]


def run_sync(server: Answers, call: str, *args: Any, **options: Any) -> Any:
    with Client(**{"retries": QUICK, "url": server.url, **options}) as client:
        result = getattr(client, call)(*args)
        return list(result) if isinstance(result, Iterator) else result


def run_async(server: Answers, call: str, *args: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(**{"retries": QUICK, "url": server.url, **options}) as client:
            result = getattr(client, call)(*args)
            return [task async for task in result] if call == "list" else await result

    return asyncio.run(main())


@pytest.fixture(params=[run_sync, run_async])
def run(request: pytest.FixtureRequest) -> Run:
    """Make one call of a client of either colour to a server that is told what to answer."""
    return request.param  # type: ignore[no-any-return]


def as_json(status: int, value: Any, *headers: bytes) -> bytes:
    return http(status, msgspec.json.encode(value), *headers)


def test_the_url_and_key_of_the_environment_are_the_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Answers(as_json(200, leased("t 1"))) as server:
        monkeypatch.setenv("JOBPIPE_URL", f"{server.url}/base")
        monkeypatch.setenv("JOBPIPE_KEY", "secret")
        assert run(server, "get", "t 1", url=None).id == "t 1"
        (asked,) = server.asked
    assert (asked.method, asked.path) == ("GET", "/base/tasks/t%201")
    assert asked.headers["host"] == f"127.0.0.1:{server.port}"
    assert asked.headers["authorization"] == "Bearer secret"


def test_a_given_url_never_gets_the_environments_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPIPE_KEY", "secret")
    with Answers(TASK) as server:
        run(server, "get", "t1")
    assert "authorization" not in server.asked[0].headers


def test_ids_reach_the_server_as_they_are(run: Run) -> None:
    with Answers(as_json(200, leased("a/b?c#d%2F.."))) as server:
        run(server, "get", "a/b?c#d%2F..")
    assert server.asked[0].path == "/tasks/a%2Fb%3Fc%23d%252F.."


@pytest.mark.parametrize("error", [ConnectionRefusedError, TimeoutError, OSError])
def test_a_server_that_is_not_reached_is_tried_again_for_any_call(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    failures = [error, error]

    def unless_failing(opens: Callable[..., Any]) -> Callable[..., Any]:
        def open_(*args: Any) -> Any:
            if failures:
                raise failures.pop()
            return opens(*args)

        return open_

    monkeypatch.setattr(blocking, "_open", unless_failing(blocking._open))
    monkeypatch.setattr(connection, "_open_async", unless_failing(connection._open_async))
    with Answers(TASK) as server:
        assert run(server, "cancel", "t1").id == "t1"
    assert not failures


LOST = (Cut(), Cut(b"HTTP/1.1 200 OK\r\ncontent-le"), Cut(TASK[:-1]), Cut(b"\0\1\r\n\r\n"), None)


@pytest.mark.parametrize("lost", LOST)
def test_a_lost_answer_is_asked_for_again_only_where_that_is_safe(run: Run, lost: Cut | None) -> None:
    with Answers(lost, TASK) as server:
        assert run(server, "get", "t1", timeout=0.5).id == "t1"
    with Answers(lost) as server, pytest.raises(ConnectionFailed) as failure:
        run(server, "cancel", "t1", timeout=0.1)
    assert (failure.value.code, failure.value.maybe_sent) == ("unreachable", True)
    assert len(server.asked) == 1


def test_enqueueing_without_an_id_survives_a_lost_answer(run: Run) -> None:
    exists = as_json(409, {"code": "task_exists", "error": "task already exists"})

    def stored(_: Any) -> bytes:
        return as_json(200, leased(msgspec.json.decode(server.asked[0].body)["id"]))

    with Answers(Cut(), exists, stored) as server:
        task = run(server, "enqueue", "greet")
    first, second, third = server.asked
    assert first.body == second.body
    assert third.path == f"/tasks/{task.id}"


def test_the_answer_to_another_task_is_none(run: Run) -> None:
    """Two processes on one connection take each other's answers; so would a proxy that mixes them up."""
    for call in ("get", "cancel", "retry"):
        with Answers(as_json(200, leased("other"))) as server, pytest.raises(ServerError) as error:
            run(server, call, "t1")
        assert error.value.code == "bad_answer"

    def stored(asked: Any) -> bytes:
        return as_json(200, leased(asked.path.removeprefix("/tasks/")))

    exists = as_json(409, {"code": "task_exists", "error": "task already exists"})
    with Answers(as_json(202, leased("other")), exists, stored) as server:
        task = run(server, "enqueue", "greet")
    assert task.id == msgspec.json.decode(server.asked[0].body)["id"]
    assert server.connections == 2


def test_retries_can_be_turned_off(run: Run) -> None:
    with Answers(Cut()) as server, pytest.raises(ConnectionFailed):
        run(server, "get", "t1", retries=0)
    assert len(server.asked) == 1


def test_a_long_poll_may_take_its_time_and_the_rest_may_not(run: Run) -> None:
    def late(_: Any) -> bytes:
        time.sleep(0.4)
        return as_json(200, leased("t1", status="done"))

    with Answers(late) as server:
        assert run(server, "wait", "t1", 5.0, timeout=0.2).finished
    with Answers(late) as server, pytest.raises(ConnectionFailed, match=r"no answer in 0\.2 s"):
        run(server, "get", "t1", timeout=0.2, retries=0)


def test_a_listing_asks_for_no_more_than_is_wanted(run: Run) -> None:
    def page(cursor: str) -> bytes:
        link = f'Link: </tasks?limit=2&cursor={cursor}>; rel="next"'.encode()
        return as_json(200, [leased("a"), leased("b")], link)

    with Answers(page("1"), page("2")) as server:
        assert [task.id for task in run(server, "list", 3)] == ["a", "b", "a"]
        assert server.asked[1].path == "/tasks?limit=2&cursor=1"
        assert run(server, "list", 0) == []


def test_refusals_are_the_errors_of_the_tree(run: Run) -> None:
    answer = as_json(404, {"code": "not_found", "error": "task not found", "detail": "gone"})
    with Answers(answer) as server, pytest.raises(NotFound, match="gone"):
        run(server, "delete", "t1")


def test_a_unique_task_that_lives_already_is_an_answer_to_another_id(run: Run) -> None:
    with Answers(as_json(200, leased("living", deduplicated=True))) as server:
        task = run(server, "enqueue", "greet")
    assert (task.id, task.deduplicated) == ("living", True)
