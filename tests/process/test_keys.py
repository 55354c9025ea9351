"""Servers with keys, their own workers and remote ones: real processes, and a file of keys that changes under them."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from programs import Program, Server, until

from jobpipe import Client
from jobpipe.cli import main
from jobpipe.core.errors import Forbidden, Unauthorized

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


class Keys:
    """A file of keys, and the keys themselves by name."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self._capsys = capsys
        self.secrets: dict[str, str] = {}

    def make(self, name: str, scope: str, *more: str) -> str:
        assert main(["keys", "new", "--name", name, "--scope", scope, "--file", str(self.path), *more]) == 0
        secret = self.secrets[name] = self._capsys.readouterr().out.strip()
        return secret


@pytest.fixture
def keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Keys:
    keys = Keys(tmp_path / "keys", capsys)
    for name, scope in (("boss", "admin"), ("web", "enqueue"), ("hand", "work,enqueue"), ("eye", "read")):
        keys.make(name, scope)
    return keys


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[list[Program]]:
    """Programs that are ended when the test is over."""
    started: list[Program] = []
    yield started
    for program in started:
        if program.alive():
            program.kill()


def serve(programs: list[Program], tmp_path: Path, keys: Keys, *args: str) -> Server:
    server = Server(
        tmp_path, *args, "--api-keys-file", str(keys.path), "--store", f"sqlite:///{tmp_path}/j.db"
    )
    programs.append(server)
    return server.up()


def status(server: Server, path: str, key: str | None = None, body: Any = None) -> int:
    data = None if body is None else json.dumps(body).encode()
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(server.url + path, data, headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_own_worker_processes_work_and_enqueue_without_a_key_of_anybodys(
    programs: list[Program], tmp_path: Path, keys: Keys
) -> None:
    server = serve(programs, tmp_path, keys, "keyed:app")
    with Client(server.url, key=keys.secrets["boss"]) as client:
        client.enqueue("parent", {"child": "c1"}, id="p1")
        assert client.wait("p1", timeout=30).status == "done"
        assert client.wait("c1", timeout=30).status == "done"
    assert "without keys" not in server.said


def test_a_remote_worker_needs_a_key_and_works_with_one(
    programs: list[Program], tmp_path: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(programs, tmp_path, keys, "--no-pool")
    worker = ["worker", "keyed:app", "--server", server.url]
    with Client(server.url, key=keys.secrets["boss"]) as client:
        client.enqueue("parent", {"child": "c1"}, id="p1")
        monkeypatch.setenv("JOBPIPE_KEY", keys.secrets["eye"])
        programs.append(blind := Program(tmp_path, "blind", *worker))
        until("the worker is refused", lambda: "lacks the scope work" in blind.said)
        assert client.get("p1").status == "queued"
        monkeypatch.setenv("JOBPIPE_KEY", keys.secrets["hand"])
        programs.append(Program(tmp_path, "worker", *worker))
        assert client.wait("p1", timeout=30).status == "done"
        assert client.wait("c1", timeout=30).status == "done"
    for program in programs:
        assert not [secret for secret in keys.secrets.values() if secret in program.said]


def test_a_running_server_takes_new_keys_and_refuses_removed_ones(
    programs: list[Program], tmp_path: Path, keys: Keys
) -> None:
    server = serve(programs, tmp_path, keys, "--no-pool")
    assert status(server, "/stats", keys.secrets["eye"]) == 200
    fresh = keys.make("fresh", "read")
    until("the new key opens", lambda: status(server, "/stats", fresh) == 200)
    assert main(["keys", "remove", "--name", "eye", "--file", str(keys.path)]) == 0
    until("the old one does not", lambda: status(server, "/stats", keys.secrets["eye"]) == 401)
    with keys.path.open("a") as file:
        file.write("half a li")
    until("the mistake is told", lambda: status(server, "/stats", fresh) and "are not taken" in server.said)
    assert status(server, "/stats", fresh) == 200
    assert status(server, "/stats") == 401


def test_clients_say_unauthorized_and_forbidden_at_once(
    programs: list[Program], tmp_path: Path, keys: Keys
) -> None:
    server = serve(programs, tmp_path, keys, "--no-pool")
    with Client(server.url) as client, pytest.raises(Unauthorized):
        client.stats()
    with Client(server.url, key=keys.secrets["web"]) as client, pytest.raises(Forbidden, match="read"):
        client.stats()


def test_a_client_waits_its_turn_when_it_asks_too_often(
    programs: list[Program], tmp_path: Path, keys: Keys
) -> None:
    slow = keys.make("slow", "enqueue", "--rate", "2")
    server = serve(programs, tmp_path, keys, "--no-pool")
    with Client(server.url, key=slow) as client:
        assert len({client.enqueue("x").id for _ in range(4)}) == 4


def test_a_start_without_its_file_of_keys_is_refused_and_touches_nothing(tmp_path: Path) -> None:
    store = tmp_path / "j.db"
    args = [
        "serve",
        "--api-keys-file",
        str(tmp_path / "none"),
        "--store",
        f"sqlite:///{store}",
        "--port",
        "0",
    ]
    program = Program(tmp_path, "server", *args)
    assert program.ended() == 2
    assert program.said.startswith("jobpipe: error: --api-keys-file: must hold API keys (cannot be read: ")
    assert program.said.count("\n") == 1
    assert not store.exists()


def test_a_key_for_work_cannot_have_the_servers_own_worker_killed(
    programs: list[Program], keys: Keys, tmp_path: Path
) -> None:
    """Whoever leases under its id and falls silent would have it taken for hung, and its runs with it."""
    server = serve(programs, tmp_path, keys, "faults:app", "--lease", "5", "--workers", "1")
    boss, hand = (Client(server.url, key=keys.secrets[name]) for name in ("boss", "hand"))
    with boss, hand:
        hand.enqueue("innocent", {"seconds": 9}, id="honest")
        until("it runs", lambda: boss.get("honest").status == "running")
        own = boss.get("honest").worker
        hand.enqueue("innocent", {}, id="bait")
        for name in ("hand", "boss"):
            for body in ({"worker_id": own, "lease": 5}, {"worker_id": own, "max": 1, "wait": 0}):
                assert status(server, "/lease", keys.secrets[name], body) == 403
            assert status(server, "/extend", keys.secrets[name], {"worker_id": own, "leases": []}) == 403
        # Under any other name the lease that ran out is the other's alone.
        assert status(server, "/lease", keys.secrets["hand"], {"worker_id": f"{own}x", "lease": 5}) == 200
        until("both have ended", lambda: {boss.get(id).status for id in ("honest", "bait")} == {"done"}, 30)
        honest, bait = boss.get("honest"), boss.get("bait")
        assert (honest.worker, honest.lost, honest.attempts) == (own, 0, 1)
        assert (bait.worker, bait.lost) == (own, 1)
    assert "worker process" in server.said
    assert "killed" not in server.said
