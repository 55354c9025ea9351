"""Client and AsyncClient drive the same calls: what they are given, what they send, and what they make of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import msgspec
import pytest
from test_client_fakes import leased

from jobpipe.client import AsyncClient, Client, ConnectionFailed, Retries
from jobpipe.core.errors import NotFound
from jobpipe.core.retry import RetryPolicy

QUICK = Retries(count=2, backoff=RetryPolicy(base=0.001, jitter=0.0))
TASK = msgspec.json.encode(leased("t1"))

Handler = Callable[[httpx2.Request], httpx2.Response]
Run = Callable[..., Any]


def run_sync(handler: Handler, call: str, *args: Any, **options: Any) -> Any:
    with Client(**{"retries": QUICK, **options}, transport=httpx2.MockTransport(handler)) as client:
        result = getattr(client, call)(*args)
        return list(result) if isinstance(result, Iterator) else result


def run_async(handler: Handler, call: str, *args: Any, **options: Any) -> Any:
    async def main() -> Any:
        transport = httpx2.MockTransport(handler)
        async with AsyncClient(**{"retries": QUICK, **options}, transport=transport) as client:
            result = getattr(client, call)(*args)
            return [task async for task in result] if call == "list" else await result

    return asyncio.run(main())


@pytest.fixture(params=[run_sync, run_async])
def run(request: pytest.FixtureRequest) -> Run:
    """Make one call of a client of either colour, over a transport that a function answers for."""
    return request.param  # type: ignore[no-any-return]


class Server:
    """Answers each request by the next of these: a response, or an error to raise."""

    def __init__(self, *answers: httpx2.Response | type[httpx2.RequestError]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx2.Response):
            return answer
        raise answer("", request=request)


def test_the_url_and_key_of_the_environment_are_the_defaults(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBPIPE_URL", "http://jobs.example:9000/base")
    monkeypatch.setenv("JOBPIPE_KEY", "secret")
    server = Server(httpx2.Response(200, content=TASK))
    assert run(server, "get", "t 1").id == "t1"
    (request,) = server.requests
    assert str(request.url) == "http://jobs.example:9000/base/tasks/t%201"
    assert request.headers["authorization"] == "Bearer secret"


def test_a_given_url_never_gets_the_environments_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBPIPE_KEY", "secret")
    server = Server(httpx2.Response(200, content=TASK))
    run(server, "get", "t1", url="http://other")
    assert "authorization" not in server.requests[0].headers


def test_ids_reach_the_server_as_they_are(run: Run) -> None:
    server = Server(httpx2.Response(200, content=TASK))
    run(server, "get", "a/b?c#d%2F..")
    assert server.requests[0].url.raw_path == b"/tasks/a%2Fb%3Fc%23d%252F.."


@pytest.mark.parametrize("error", [httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout])
def test_a_server_that_is_not_reached_is_tried_again_for_any_call(
    run: Run, error: type[httpx2.RequestError]
) -> None:
    server = Server(error, error, httpx2.Response(200, content=TASK))
    assert run(server, "cancel", "t1").id == "t1"


@pytest.mark.parametrize("error", [httpx2.ReadTimeout, httpx2.RemoteProtocolError, httpx2.WriteError])
def test_a_lost_answer_is_asked_for_again_only_where_that_is_safe(
    run: Run, error: type[httpx2.RequestError]
) -> None:
    assert run(Server(error, httpx2.Response(200, content=TASK)), "get", "t1").id == "t1"
    with pytest.raises(ConnectionFailed) as failure:
        run(Server(error), "cancel", "t1")
    assert (failure.value.code, failure.value.maybe_sent) == ("unreachable", True)
    assert error.__name__ in str(failure.value)


def test_enqueueing_without_an_id_survives_a_lost_answer(run: Run) -> None:
    exists = httpx2.Response(409, json={"code": "task_exists", "error": "task already exists"})
    server = Server(httpx2.ReadError, exists, httpx2.Response(200, content=TASK))
    assert run(server, "enqueue", "greet").id == "t1"
    first, second, _ = server.requests
    assert first.content == second.content


def test_retries_can_be_turned_off(run: Run) -> None:
    with pytest.raises(ConnectionFailed):
        run(Server(httpx2.ConnectError), "get", "t1", retries=0)


def test_a_long_poll_may_take_its_time_and_the_rest_may_not(run: Run) -> None:
    server = Server(httpx2.Response(200, json=leased("t1", status="done")))
    run(server, "wait", "t1", 20.0, timeout=3.0)
    timeout = server.requests[0].extensions["timeout"]
    assert 22 < timeout["read"] <= 23
    assert timeout["connect"] == 3.0


def test_a_listing_asks_for_no_more_than_is_wanted(run: Run) -> None:
    def page(cursor: str) -> httpx2.Response:
        link = f'</tasks?limit=2&cursor={cursor}>; rel="next"'
        return httpx2.Response(200, json=[leased("a"), leased("b")], headers={"Link": link})

    server = Server(page("1"), page("2"))
    assert [task.id for task in run(server, "list", 3)] == ["a", "b", "a"]
    assert server.requests[1].url.query == b"limit=2&cursor=1"
    assert run(Server(), "list", 0) == []


def test_refusals_are_the_errors_of_the_tree(run: Run) -> None:
    answer = httpx2.Response(404, json={"code": "not_found", "error": "task not found", "detail": "gone"})
    with pytest.raises(NotFound, match="gone"):
        run(Server(answer), "delete", "t1")
