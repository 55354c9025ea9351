"""What a newcomer's mistake is answered with, and what becomes of a client and its errors elsewhere."""

from __future__ import annotations

import copy
import pickle
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

import jobpipe
from jobpipe import App, AsyncClient, Client, ConnectionFailed, Invalid, RateLimited, ServerError, TaskFailed
from jobpipe.client.errors import Refusal
from jobpipe.core import errors
from jobpipe.core.errors import JobpipeError

NOBODY = "http://127.0.0.1:1"
GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "clients.md"

ANSWERS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, JobpipeError)
    and type(Refusal(kind.code).as_error(400)) is kind
]


@pytest.mark.parametrize("kind", [*ANSWERS, ConnectionFailed, ServerError], ids=lambda kind: kind.__name__)
def test_every_error_that_a_client_raises_is_at_the_top_and_in_the_guide(kind: type[JobpipeError]) -> None:
    assert getattr(jobpipe, kind.__name__) is kind
    assert kind.__name__ in jobpipe.__all__
    assert f"`{kind.__name__}`" in GUIDE.read_text()


@pytest.mark.parametrize("client", [Client, AsyncClient, App().connect])
@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"timeout": -1}, {"timeout": "3"}, {"timeout": float("nan")}, {"timeout": None}]
)
def test_a_timeout_is_a_number_of_seconds(client: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(Invalid, match="seconds"):
        _made(client, wrong)


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("retries", [-1, "3", 1.5, None])
def test_retries_are_a_number(client: Any, retries: Any) -> None:
    with pytest.raises(Invalid, match="at least 0"):
        client(NOBODY, retries=retries)


def _made(client: Any, arguments: dict[str, Any]) -> None:
    if client in (Client, AsyncClient):
        client(NOBODY, **arguments)
        return
    app = App()

    @app.handler
    def h() -> None: ...

    app.connect(NOBODY, **arguments)
    h.enqueue_sync()


@pytest.mark.parametrize("task", ["h", 3, None, ("h", 1)])
def test_what_is_no_task_is_named(task: Any) -> None:
    with Client(NOBODY, retries=0) as client:
        (answer,) = client.enqueue_many([task])
    assert isinstance(answer, Invalid)
    assert repr(task) in str(answer)


def test_a_refused_field_is_named_in_the_traceback() -> None:
    error = Refusal("invalid", 400, detail="must match [a-z]+", field="handler").as_error(400)
    assert error.__notes__ == ["field: handler"]


def test_a_client_that_was_closed_says_so_at_once() -> None:
    client = Client(NOBODY, retries=10**6)
    client.close()
    with pytest.raises(ConnectionFailed, match="is closed"):
        client.enqueue("h")
    with pytest.raises(ConnectionFailed, match="is closed"):
        client.enqueue_many([{"handler": "h"}])


def test_a_server_without_tls_is_told_from_one_that_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with listening.accept()[0] as there:
                there.recv(1 << 16)
                there.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                there.recv(1 << 16)

        serving = threading.Thread(target=answer)
        serving.start()
        with (
            Client(f"https://127.0.0.1:{listening.getsockname()[1]}", retries=0) as client,
            pytest.raises(ConnectionFailed, match="does not speak TLS"),
        ):
            client.enqueue("h")
        serving.join()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_copied_client_shares_connections_and_none_goes_to_another_process(kind: Any) -> None:
    client = kind(NOBODY)
    assert copy.deepcopy({"jobs": client})["jobs"]._transport is client._transport
    assert copy.copy(client)._transport is client._transport
    with pytest.raises(TypeError, match="make one in the other process"):
        pickle.dumps(client)


def test_errors_reach_other_processes_as_they_are() -> None:
    """A pool of processes waits for ever for an answer that it cannot read."""
    task: Any = _Failed()
    for error in (
        Invalid("no", field="queue"),
        RateLimited("slow", retry_after=7),
        ConnectionFailed("gone", maybe_sent=True),
        ServerError(421, "wrong_host", "who?"),
        TaskFailed(task),
    ):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is type(error)
            assert str(again) == str(error)
            assert again.code == error.code
            assert vars(again).keys() == vars(error).keys()


class _Failed:
    id = "t"
    last_error = None
