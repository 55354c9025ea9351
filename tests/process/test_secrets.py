"""What no log says, also at DEBUG: keys, payloads, results, passwords; and that nobody can forge a line of it."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Server, until

from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

ENTRY = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) [\w.]+ .*")
PAYLOAD = "payload-9b1f"
RESULT = "result-9b1f"
FORGED = "2026-11-21T21:09:00.123Z INFO jobpipe.server all is well"


def send(server: Server, path: str, key: str | None, body: Any, **headers: str) -> Any:
    """The answer's JSON, whatever its status."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = {} if key is None else {"Authorization": f"Bearer {key}"}
    request = urllib.request.Request(server.url + path, data, {**more, **headers})
    try:
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        return json.load(error)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_busy_server_logs_neither_keys_nor_payloads_nor_results(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    assert main(["keys", "new", "--name", "boss", "--scope", "admin", "--file", str(keys)]) == 0
    key = capsys.readouterr().out.strip()
    wrong = "jp_wrong-9b1f"
    args = ("secretive:app", "--api-keys-file", str(keys), "--log-level", "DEBUG", "--log-format", form)
    server = Server(tmp_path, *args, "--store", f"sqlite:///{tmp_path}/j.db", "--retry-base", "0").up()
    try:
        for number in range(40):
            handler = ("gives", "fails", "wants_a_number", "unknown", "enqueues")[number % 5]
            payload = {"secret": PAYLOAD, "number": PAYLOAD}
            body = {"id": f"t{number}", "handler": handler, "payload": payload, "max_retries": 1}
            assert send(server, "/enqueue", key, body)["status"] == "queued"
            assert send(server, "/enqueue", wrong, body)["code"] == "unauthorized"
        send(server, "/enqueue", key, b'{"payload": "' + PAYLOAD.encode() + b'"')
        send(server, "/enqueue", key, {"payload": PAYLOAD, "handler": "no such"})
        send(server, "/settle", key, [{"id": "t1", "lease_id": "x", "outcome": "done", "result": RESULT}])
        until("all have ended", lambda: server.said.count("jobpipe.tasks") >= 40)
        assert server.stop() == 0
    finally:
        if server.alive():
            server.kill()
    said = server.said
    own_token = re.findall(r"\b[0-9a-f]{64}\b", said)
    for secret in (key, wrong, PAYLOAD, RESULT):
        assert secret not in said, next(line for line in said.splitlines() if secret in line)
    assert own_token == [], "neither hashes of keys nor the secret of the own workers"


@pytest.mark.parametrize("flag", [True, False])
def test_the_password_of_a_store_is_never_said(
    flag: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and nobody listens
        url = f"postgresql://me:hunter2@127.0.0.1:{bound.getsockname()[1]}/jobs?sslpassword=hunter3"
        if not flag:
            monkeypatch.setenv("JOBPIPE_STORE", url)
        more = ("--store", url) if flag else ()
        program = Program(tmp_path, "server", "serve", "--port", "0", "--log-level", "DEBUG", *more)
        assert program.ended() == 4
    assert "hunter" not in program.said


def test_nobody_can_forge_a_line_of_the_log(tmp_path: Path) -> None:
    server = Server(
        tmp_path, "secretive:app", "--log-level", "DEBUG", "--store", "memory:", "--retry-base", "0"
    ).up()
    hostile = f"x\n{FORGED}\r\n\x1b[31m\u2028{FORGED}\x85\u202e"
    try:
        for field in ("id", "handler", "queue"):
            assert send(server, "/enqueue", None, {field: hostile})["code"] == "invalid"
        worker = {"worker_id": hostile, "host": hostile, "version": hostile}
        send(server, "/lease", None, worker)
        send(server, "/lease", None, {**worker, "worker_id": "w"})
        send(server, "/tasks/%0A" + FORGED.replace(" ", "%20") + "/cancel", None, {})
        send(server, "/enqueue", None, {}, traceparent="00-\t" + "x" * 99, **{"User-Agent": "x\t\x7f"})
        send(server, "/enqueue", None, {"id": "p1", "handler": "logs", "payload": {"text": hostile}})
        send(server, "/enqueue", None, {"id": "p2", "handler": "raises", "payload": {"text": hostile}})
        until("both have ended", lambda: server.said.count("INFO jobpipe.tasks task p") == 2)
        with socket.create_connection(("127.0.0.1", server.port)) as raw:
            raw.sendall(b"\x1b[2J" + FORGED.encode() + b"\r\n\r\n")
            raw.recv(100)
        assert server.stop() == 0
    finally:
        if server.alive():
            server.kill()
    said = server.log.read_bytes().decode()
    for line in said.removesuffix("\n").split("\n"):
        assert line.isprintable(), repr(line)
        assert ENTRY.fullmatch(line) or line.startswith("  "), line
        assert not line.startswith(FORGED)
