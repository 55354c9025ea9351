"""Which server a client asks, and by which way: several in turn, over TLS, through a proxy, over a Unix socket."""

from __future__ import annotations

import base64
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from test_client_api import TASK, Run, as_json, run_async, run_sync
from test_client_fakes import Answers, Cut, http, leased

from jobpipe.client import Client
from jobpipe.client.address import parse_addresses
from jobpipe.client.destination import parse_proxy
from jobpipe.core.errors import Draining, Invalid

DRAINS = as_json(503, {"code": "draining", "error": "server is shutting down"}, b"retry-after: 5")


@pytest.fixture(params=[run_sync, run_async])
def run(request: pytest.FixtureRequest) -> Run:
    return request.param  # type: ignore[no-any-return]


def nobody() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_server_that_is_gone_costs_no_call_where_there_is_another(run: Run) -> None:
    with Answers(TASK) as server:
        assert run(server, "cancel", "t1", url=None, urls=[nobody(), server.url], retries=0).id == "t1"


def test_a_server_that_drains_sends_its_callers_to_the_other_at_once(run: Run) -> None:
    began = time.monotonic()
    with Answers(DRAINS) as one, Answers(TASK) as other:
        assert run(one, "cancel", "t1", url=None, urls=[one.url, other.url], retries=0).id == "t1"
    assert time.monotonic() - began < 2
    with Answers(DRAINS) as one, Answers(DRAINS) as other, pytest.raises(Draining):
        run(one, "cancel", "t1", url=None, urls=[one.url, other.url], retries=0)
    assert (len(one.asked), len(other.asked)) == (1, 1)


def test_a_lost_answer_is_asked_for_at_the_next_server(run: Run) -> None:
    with Answers(Cut()) as one, Answers(TASK) as other:
        assert run(one, "get", "t1", url=None, urls=[one.url, other.url]).id == "t1"


def test_the_environment_may_name_several(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with Answers(TASK) as server:
        monkeypatch.setenv("JOBPIPE_URL", f"{nobody()}, {server.url}")
        assert run(server, "get", "t1", url=None).id == "t1"


def test_a_comma_alone_may_belong_to_a_path() -> None:
    assert [str(one) for one in parse_addresses("unix:/tmp/a,b.sock,http://c/d,e")] == [
        "unix:/tmp/a,b.sock",
        "http://c/d,e",
    ]


@pytest.mark.parametrize("urls", [[], "http://a", ["ftp://a"]])
def test_urls_are_a_list_of_urls(urls: Any) -> None:
    with pytest.raises(Invalid):
        Client(urls=urls)
    with pytest.raises(Invalid):
        Client("http://a", urls=["http://b"])


# --- proxies ---


def test_proxies_of_the_environment_are_not_used(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, nobody())
    with Answers(TASK) as server:
        assert run(server, "get", "t1").id == "t1"


def test_a_proxy_that_was_asked_for_is_told_the_whole_url(run: Run) -> None:
    with Answers(TASK) as proxy:
        way = proxy.url.replace("http://", "http://ann:se%40cret@")
        assert run(proxy, "get", "t1", url="http://jobs.example:9000/base", proxy=way).id == "t1"
    (asked,) = proxy.asked
    assert asked.path == "http://jobs.example:9000/base/tasks/t1"
    assert asked.headers["host"] == "jobs.example:9000"
    assert asked.headers["proxy-authorization"] == "Basic " + base64.b64encode(b"ann:se@cret").decode()


@pytest.mark.parametrize("url", ["https://a", "a:1", "http://", "http://a:b:c"])
def test_a_proxy_is_an_http_url(url: str) -> None:
    with pytest.raises(Invalid):
        parse_proxy(url)


# --- TLS ---


class Tls:
    """TLS before a server: all that comes is decrypted and passed on. Also a proxy, when asked to CONNECT."""

    def __init__(self, server: Answers, certificate: Path) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(certificate)
        self.server = server
        self.connects: list[bytes] = []
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if connection.recv(7, socket.MSG_PEEK) == b"CONNECT":
                self.connects.append(connection.recv(4096).split(b"\r\n")[0])
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            with self.context.wrap_socket(connection, server_side=True) as tls:
                with socket.create_connection(("127.0.0.1", self.server.port)) as plain:
                    threading.Thread(target=self._pass, args=(plain, tls), daemon=True).start()
                    self._pass(tls, plain)

    @staticmethod
    def _pass(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run(
        [*command, "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True
    )
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "cert").read_bytes())
    return both


@pytest.fixture
def tls(certificate: Path) -> Iterator[Callable[[Answers], Tls]]:
    made: list[Tls] = []

    def make(server: Answers) -> Tls:
        made.append(Tls(server, certificate))
        return made[-1]

    yield make
    for one in made:
        one.listening.close()


def test_tls_carries_large_bodies_both_ways_on_one_connection(
    run: Run, tls: Callable[[Answers], Tls], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert")))
    large = "x" * 3_000_000

    def stored(asked: Any) -> bytes:
        task = msgspec.json.decode(asked.body)
        return as_json(202, leased(task["id"], payload=task["payload"]))

    with Answers(stored) as server:
        task = run(server, "enqueue", "h", large, url=f"https://localhost:{tls(server).port}")
    assert task.payload == large


def test_a_certificate_that_nobody_vouches_for_is_refused_and_nothing_sent(
    run: Run, tls: Callable[[Answers], Tls]
) -> None:
    with Answers() as server, pytest.raises(Exception, match="certificate"):
        run(server, "cancel", "t1", url=f"https://localhost:{tls(server).port}", retries=0)
    assert server.asked == []


def test_tls_goes_through_a_proxy_by_a_tunnel(
    run: Run, tls: Callable[[Answers], Tls], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name("cert")))
    with Answers(TASK) as server:
        proxy = tls(server)
        task = run(server, "get", "t1", url="https://localhost:443", proxy=f"http://127.0.0.1:{proxy.port}")
    assert task.id == "t1"
    assert proxy.connects == [b"CONNECT localhost:443 HTTP/1.1"]


def test_an_answer_of_no_said_length_ends_with_its_connection(run: Run) -> None:
    answer = b"HTTP/1.0 200 OK\r\n\r\n" + msgspec.json.encode(leased("t1"))
    with Answers(Cut(answer)) as server:
        assert run(server, "get", "t1").id == "t1"
    assert http(200, b"")


@pytest.mark.parametrize(
    "url",
    ["u:hunter@h:8080", "ftp://u:hunter@h", "http://u:hunter@h:port", "http://h/?key=hunter",
     "http://u:x/hunter@h", "http://h:1,http://u:hunter@h:port", "http://u:@hunter#@h"],
)  # fmt: skip
def test_what_is_said_of_a_bad_url_has_no_password(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_addresses(url)
    assert "hunter" not in str(refused.value)


@pytest.mark.parametrize("url", ["u:hunter@h:8080", "http://u:x/hunter@h", "http://u:hunter@h:port"])
def test_what_is_said_of_a_bad_proxy_has_no_password(url: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_proxy(url)
    assert "hunter" not in str(refused.value)
