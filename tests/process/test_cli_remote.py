"""The commands over HTTP against a live server: what they print, what they change, and how they end."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from programs import Server, until
from prove.ports import free_port
from terminal import Terminal

from jobpipe.cli import main

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

QUICK = ("--simulate-min", "0.005", "--simulate-max", "0.01", "--simulate-failures", "0")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory() as folder:
        server = Server(
            Path(folder), *QUICK, "--queue-size", "20000", "--store", "memory:", "--handler-wait", "0"
        ).up()
        yield server
        server.kill()


@pytest.fixture
def queue() -> str:
    """A queue of its own for each test."""
    return f"q{uuid.uuid4().hex[:12]}"


@pytest.fixture
def run(server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("JOBPIPE_URL", server.url)
    monkeypatch.delenv("JOBPIPE_KEY", raising=False)

    def run(*args: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main(args)
        return Ran(code, *capsys.readouterr())

    return run


def command(server: Server, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobpipe", *args], env={**os.environ, "JOBPIPE_URL": server.url},
        capture_output=True, text=True, check=False, timeout=60, **more,
    )  # fmt: skip


def held(server: Server, queue: str, count: int = 1, **fields: Any) -> list[str]:
    """Tasks that wait for longer than any test runs."""
    names = [f"{queue}-{i}" for i in range(count)]
    server.enqueue(*({"id": name, "queue": queue, "delay": 3600} | fields for name in names))
    return names


def failed(server: Server, queue: str, count: int = 1) -> list[str]:
    names = [f"{queue}-f{i}" for i in range(count)]
    server.enqueue(
        *({"id": name, "queue": queue, "handler": "nobody.knows", "max_retries": 0} for name in names)
    )
    for name in names:
        assert server.finished(name)["status"] == "failed"
    return names


# --- enqueue ---


def test_enqueue_prints_the_id_and_the_server_has_the_task(run: Run, server: Server, queue: str) -> None:
    ran = run("enqueue", "simulate", '{"n": 1.10}', "--queue", queue, "--delay", "1h", "--priority", "-5")
    assert ran.code == 0
    assert ran.err == ""
    task = server.task(ran.out.strip())
    assert (task["queue"], task["priority"], task["payload"], task["status"]) == (
        queue, -5, {"n": 1.1}, "queued",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("args", "stdin", "payload"),
    [
        ((), b"", None),
        (("-1.5",), b"", -1.5),
        (("--", "-1"), b"", -1),
        (("ada", "--text"), b"", "ada"),
        (("-",), b'{"a": [1, 2]}\n', {"a": [1, 2]}),
        (("-", "--text"), b"line 1\nline 2\n", "line 1\nline 2\n"),
    ],
)
def test_a_payload_is_json_or_text_from_the_arguments_or_stdin(
    args: tuple[str, ...], stdin: bytes, payload: Any, run: Run, server: Server, queue: str
) -> None:
    ran = run("enqueue", "simulate", "--delay", "1h", "--queue", queue, *args, stdin=stdin)
    assert ran.code == 0, ran.err
    assert server.task(ran.out.strip())["payload"] == payload


def test_a_task_that_is_there_already_is_as_good_as_a_new_one_if_one_says_so(run: Run, queue: str) -> None:
    again = ("enqueue", "simulate", "--id", f"{queue}/1", "--queue", queue, "--delay", "1h")
    assert run(*again).code == 0
    assert run(*again).code == 1
    assert run(*again, "--if-absent") == Ran(0, f"{queue}/1\n", "")
    assert run(*again, "--if-absent", "-o", "json").json["queue"] == queue
    assert run("enqueue", "simulate", "--if-absent").code == 2


def test_a_handler_that_no_app_has_told_of_is_said_at_once(run: Run, server: Server, queue: str) -> None:
    told = {"app": queue, "handlers": {"mail.send": {}}}
    server.ask("/declare", told)
    later = ("--delay", "1h", "--queue", queue)
    ran = run("enqueue", "mail.sned", *later)
    assert (ran.code, server.task(ran.out.strip())["handler"]) == (0, "mail.sned")
    assert "no app has told of a handler 'mail.sned'" in ran.err
    assert "is 'mail.send' meant?" in ran.err
    assert run("enqueue", "mail.send", *later).err == ""
    lines = run("enqueue", "mail.sned", "--ndjson", *later, stdin=b"1\n2\n")
    assert lines.err.count("no app has told") == 1
    server.ask("/declare", told | {"handlers": {}})
    assert run("enqueue", "mail.sned", *later).err == ""  # where nobody told of any, nothing can be said


def test_numbers_of_a_payload_stay_as_they_were_written(run: Run) -> None:
    ran = run("enqueue", "simulate", "[1.10, 1e999, 12345678901234567890123]", "-o", "ndjson")
    assert '"payload":[1.10,1e999,12345678901234567890123]' in ran.out
    shown = run("task", "show", ran.json["id"])
    assert "1.10" in shown.out
    assert "1e999" in shown.out


def test_waiting_gives_the_result_and_a_task_that_fails_is_exit_code_1(run: Run, queue: str) -> None:
    done = run("enqueue", "simulate", "--wait")
    assert (done.code, done.out) == (0, "null\n")
    lost = run("enqueue", "nobody.knows", "--max-retries", "0", "--wait", "30")
    assert (lost.code, lost.out) == (1, "")
    assert "is failed: unknown_handler" in lost.err
    late = run("enqueue", "simulate", "--delay", "1h", "--queue", queue, "--wait", "0.1")
    assert (late.code, late.out) == (10, "")


def test_a_taken_id_and_a_bad_field_are_the_servers_no(run: Run, server: Server, queue: str) -> None:
    (name,) = held(server, queue)
    taken = run("enqueue", "simulate", "--id", name)
    assert (taken.code, taken.out) == (1, "")
    assert taken.err == f"jobpipe: error: id: a task with id '{name}' exists (queued)\n"
    assert run("enqueue", "simulate", "--queue", "../x").err.startswith("jobpipe: error: queue: ")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "say which handler"),
        (("h", "{"), "not JSON"),
        (("h", "abc"), "for a string say --text"),
        (("h", "--nonsense"), "--nonsense"),
        (("h", "--delay", "soon"), "--delay: must be seconds"),
        (("h", "--run-at", "2030-01-01"), "--run-at: must be a time with its offset"),
        (("h", "--max-retries", "0x1"), "--max-retries: must be a whole number"),
        (("h", "1", "--ndjson"), "give no payload"),
        (("h", "--ndjson", "--tasks"), "exclude each other"),
        (("h", "--ndjson", "--wait"), "for one task"),
    ],
)
def test_bad_arguments_send_nothing(args: tuple[str, ...], said: str, run: Run, server: Server) -> None:
    before = sum(server.ask("/stats")["counts"].values())
    ran = run("enqueue", *args)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert sum(server.ask("/stats")["counts"].values()) == before


def test_ten_thousand_lines_become_ten_thousand_tasks_in_their_order(
    run: Run, server: Server, queue: str
) -> None:
    lines = b"".join(b'{"n": %d}\n' % n for n in range(10_000))
    ran = run("enqueue", "simulate", "--ndjson", "--queue", queue, "--delay", "1h", stdin=lines)
    assert ran.code == 0
    assert ran.err == "10,000 tasks enqueued\n"
    assert len(set(ran.lines)) == 10_000
    for place in (0, 4_321, 9_999):
        assert server.task(ran.lines[place])["payload"] == {"n": place}


def test_bad_lines_are_told_by_their_number_and_the_good_ones_go_in(
    run: Run, server: Server, queue: str
) -> None:
    lines = (
        b'{"id": "%(q)s-a", "payload": 1.10, "run_at": "2035-01-01T00:00:00Z"}\n'
        b"no json\n\n"
        b'{"id": "%(q)s-a"}\n'
        b'{"prioriti": 1}\n'
        b"\xff\n"
        b"[]\n"
        b'{"id": "%(q)s-b", "handler": "other", "delay": 3600}'
    ) % {b"q": queue.encode()}
    ran = run("enqueue", "simulate", "--tasks", "--queue", queue, stdin=lines)
    assert ran.code == 1
    assert ran.lines == [f"{queue}-a", f"{queue}-b"]
    told = {line.split(":")[0] for line in ran.err.splitlines()}
    assert told == {"line 2", "line 4", "line 5", "line 6", "line 7", "2 tasks enqueued, 5 lines refused"}
    assert server.task(f"{queue}-a")["handler"] == "simulate"
    assert server.task(f"{queue}-b")["handler"] == "other"
    assert server.task(f"{queue}-b")["queue"] == queue


def test_lines_whose_tasks_are_there_are_as_good_as_new_ones_where_that_is_said(
    run: Run, server: Server, queue: str
) -> None:
    first, more = (
        "".join(f'{{"id": "{queue}-{name}", "delay": 3600}}\n' for name in names).encode()
        for names in ("a", "abb")
    )
    lines = ("enqueue", "simulate", "--tasks", "--queue", queue)
    assert run(*lines, stdin=first).code == 0
    again = run(*lines, "--if-absent", "-o", "ndjson", stdin=more)
    assert (again.code, again.err) == (0, "3 tasks enqueued\n")
    assert [json.loads(one)["id"] for one in again.lines] == [f"{queue}-a", f"{queue}-b", f"{queue}-b"]
    assert len(server.ask(f"/tasks?queue={queue}")) == 2
    assert run(*lines, stdin=first).code == 1
    bare = run("enqueue", "simulate", "--ndjson", "--if-absent", stdin=b"1\n")
    assert (bare.code, bare.out) == (2, "")


@pytest.mark.parametrize(("id", "code"), [(b"null", 0), (b"7", 1), (b'""', 1)])
def test_an_id_that_is_none_is_the_servers_to_judge(
    id: bytes, code: int, run: Run, server: Server, queue: str
) -> None:
    lines = b'{"id": %b, "delay": 3600}\n{"id": "%b-ok", "delay": 3600}\n' % (id, queue.encode())
    ran = run("enqueue", "simulate", "--tasks", "--queue", queue, stdin=lines)
    assert ran.code == code, ran.err
    assert ran.lines[-1] == f"{queue}-ok"
    assert len(ran.lines) == 2 - code


def test_lines_wait_for_room_and_are_given_up_when_none_comes(tmp_path: Path, run: Run) -> None:
    small = Server(tmp_path, "--no-pool", "--queue-size", "5", "--store", "memory:").up()
    try:
        ran = run("enqueue", "h", "--ndjson", "--patience", "0.3", "--server", small.url, stdin=b"1\n" * 8)
    finally:
        small.kill()
    assert ran.code == 11
    assert len(ran.lines) == 5
    assert "5 tasks enqueued, 3 lines refused" in ran.err


def test_lines_pass_through_a_queue_that_is_smaller_than_they_are_many(tmp_path: Path, run: Run) -> None:
    small = Server(tmp_path, *QUICK, "--queue-size", "5", "--store", "memory:").up()
    try:
        ran = run("enqueue", "simulate", "--ndjson", "--server", small.url, stdin=b"1\n" * 40)
    finally:
        small.kill()
    assert (ran.code, len(set(ran.lines))) == (0, 40), ran.err


def test_a_tasks_own_key_is_no_api_key(run: Run, server: Server, queue: str) -> None:
    name = run("enqueue", "simulate", "--task-key", "order 7", "--queue", queue, "--delay", "1h").lines[0]
    held(server, queue)
    assert server.task(name)["key"] == "order 7"
    listed = run("task", "list", "--queue", queue, "--task-key", "order 7", "-o", "ndjson")
    assert [json.loads(line)["id"] for line in listed.lines] == [name]


# --- looking ---


def test_a_list_is_a_table_whose_lines_can_be_cut(run: Run, server: Server, queue: str) -> None:
    names = held(server, queue, 3, handler="mail")
    ran = run("task", "list", "--queue", queue)
    assert ran.code == 0
    assert ran.lines[0].split() == ["ID", "STATUS", "QUEUE", "HANDLER", "ATTEMPTS", "CREATED", "ERROR"]
    assert [line.split()[:4] for line in ran.lines[1:]] == [
        [name, "queued", queue, "mail"] for name in reversed(names)
    ]
    assert "\x1b" not in ran.out


def test_json_is_what_the_server_says(run: Run, server: Server, queue: str) -> None:
    names = held(server, queue, 2, payload=[1, None])
    said = server.ask(f"/tasks?queue={queue}")
    assert run("task", "list", "--queue", queue, "-o", "json").json == said
    lines = run("task", "list", "--queue", queue, "-o", "ndjson").lines
    assert [json.loads(line) for line in lines] == said
    assert run("task", "show", names[0], "-o", "json").json == said[1]
    assert run("stats", "-o", "json").json.keys() == server.ask("/stats").keys()
    assert run("queue", "list", "-o", "json").json == server.ask("/queues")


def test_a_limit_reaches_over_pages_and_none_is_all(run: Run, server: Server, queue: str) -> None:
    names = held(server, queue, 450)
    assert len(run("task", "list", "--queue", queue, "--limit", "7", "-o", "ndjson").lines) == 7
    assert len(run("task", "list", "--queue", queue, "--limit", "430", "-o", "json").json) == 430
    listed = run("task", "list", "--queue", queue, "--limit", "0").lines
    assert [line.split()[0] for line in listed[1:]] == names[::-1]


def test_filters_are_the_servers(run: Run, server: Server, queue: str) -> None:
    (bad,) = failed(server, queue)
    (waiting,) = held(server, queue)

    def ids(*args: str) -> list[str]:
        ran = run("task", "list", "--queue", queue, "-o", "ndjson", *args)
        assert ran.code == 0, ran.err
        return [json.loads(line)["id"] for line in ran.lines]

    assert ids("--status", "failed") == [bad]
    assert ids("--error-type", "unknown_handler") == [bad]
    assert ids("--handler", "simulate") == [waiting]
    assert ids("--id-prefix", f"{queue}-f") == [bad]
    assert ids("--created-after", "1h") == [waiting, bad]
    assert ids("--created-before", "1h") == []
    assert run("task", "list", "--status", "lost").err.startswith("jobpipe: error: status: must be one of")


def test_a_failed_task_is_shown_with_its_reason(run: Run, server: Server, queue: str) -> None:
    (name,) = failed(server, queue)
    shown = run("task", "show", name)
    assert shown.code == 0
    assert ["status", "failed"] in [line.split() for line in shown.lines]
    assert "unknown_handler" in shown.out


def test_what_tasks_carry_cannot_steer_the_terminal(run: Run, server: Server, queue: str) -> None:
    (name,) = held(server, queue, payload={"a": "\x9b31m", "b": "\x1b[2J\n<b>"})
    shown = run("task", "show", name)
    assert not {"\x9b", "\x1b"} & set(shown.out)
    assert "[2J" in shown.out


def test_top_without_a_terminal_is_one_picture(run: Run, server: Server, queue: str) -> None:
    held(server, queue, 3)
    ran = run("top")
    assert ran.code == 0
    assert [queue, "3"] in [line.split()[:2] for line in ran.lines]
    assert run("top", "-o", "json").json.keys() == {"stats", "queues", "workers", "running"}


def test_errors_are_grouped_and_a_group_is_retried(run: Run, server: Server, queue: str) -> None:
    server.enqueue({"id": queue, "queue": queue, "handler": f"gone.{queue}", "max_retries": 0})
    assert server.finished(queue)["status"] == "failed"

    def group() -> str | None:
        rows = [line.split() for line in run("errors", "list").lines]
        return next((row[0] for row in rows if f"gone.{queue}" in row), None)

    found = until("the group is listed", group)
    assert run("task", "retry", "--error-group", found, "--dry-run").out == "1\n"
    ran = run("task", "retry", "--error-group", found, "--yes")
    assert (ran.code, ran.err) == (0, "1 task queued again, 1 matched\n")


def test_attempts_that_did_not_succeed_are_shown(run: Run, server: Server, queue: str) -> None:
    server.enqueue({"id": queue, "queue": queue, "handler": "simulate", "max_retries": 1, "timeout": 1e-6})
    assert server.finished(queue)["attempts"] == 2
    shown = run("task", "show", queue).lines
    place = shown.index("attempts that did not succeed")
    assert [line.split()[0] for line in shown[place + 1 : place + 3]] == ["1", "2"]
    assert all("timed_out  timed_out: " in line for line in shown[place + 1 : place + 3])


def test_workers_are_listed(run: Run, server: Server) -> None:
    (worker,) = run("workers", "list", "-o", "json").json
    assert (worker["total"], worker["pid"]) == (4, server.process.pid)
    assert f"{worker['busy']}/4" in run("workers", "list").out


def test_watch_follows_a_server_over_its_restart(tmp_path: Path) -> None:
    server = Server(tmp_path, "--no-pool", "--store", "memory:").up()
    log = tmp_path / "watched"
    with log.open("wb") as out:
        watching = subprocess.Popen(
            [sys.executable, "-m", "jobpipe", "watch", "-o", "ndjson", "--server", server.url],
            stdout=out, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    numbers = itertools.count()

    def told(prefix: str) -> bool:
        """Whether a change has been told by now; what came before it was connected is not."""
        held(server, f"{prefix}-{next(numbers)}")
        return f'"{prefix}-'.encode() in log.read_bytes()

    try:
        until("a change is told", lambda: told("before"))
        server.kill()
        server = server.again()
        until("a change is told", lambda: told("after"))
        watching.send_signal(signal.SIGINT)
        _, said = watching.communicate(timeout=30)
        assert watching.returncode == 130
        assert "trying again" in said
        assert "connected again" in said
        ids = [json.loads(line)["id"] for line in log.read_text().splitlines()]
        assert len(ids) == len(set(ids))
        assert (ids[0].split("-")[0], ids[-1].split("-")[0]) == ("before", "after")
    finally:
        watching.kill()
        watching.wait()
        server.kill()


# --- waiting ---


def test_wait_tells_how_tasks_ended(run: Run, server: Server, queue: str) -> None:
    (bad,) = failed(server, queue)
    server.enqueue({"id": f"{queue}-ok"})
    assert run("task", "wait", f"{queue}-ok").code == 0
    both = run("task", "wait", f"{queue}-ok", bad)
    assert both.code == 1
    assert f"task '{bad}' is failed" in both.err
    assert [line.split()[:2] for line in both.lines[1:]] == [[f"{queue}-ok", "done"], [bad, "failed"]]
    (waiting,) = held(server, queue)
    assert run("task", "wait", waiting, "--timeout", "100ms").code == 10
    assert run("task", "wait", "nobody-has-this").code == 7


# --- steering ---


def test_ids_are_cancelled_retried_and_deleted_each_for_itself(run: Run, server: Server, queue: str) -> None:
    one, two = held(server, queue, 2)
    ran = run("task", "cancel", one, "nobody-has-this", two)
    assert ran.code == 7
    assert "task 'nobody-has-this': " in ran.err
    assert [line.split()[:2] for line in ran.lines[1:]] == [[one, "cancelled"], [two, "cancelled"]]
    assert run("task", "cancel", one).code == 1, "it is finished already"
    (waiting,) = held(server, f"{queue}-w")
    assert run("task", "delete", waiting, "--yes").code == 1, "it is not finished"
    ran = run("task", "retry", one)
    assert (ran.code, ran.lines[1].split()[:2]) == (0, [one, "queued"])
    ran = run("task", "delete", two, "--yes")
    assert (ran.code, ran.err) == (0, "1 task deleted\n")
    assert run("task", "show", two).code == 7


def test_all_that_match_are_counted_or_changed(run: Run, server: Server, queue: str) -> None:
    held(server, queue, 5)
    assert run("task", "cancel", "--queue", queue, "--dry-run").out == "5\n"
    assert run("task", "cancel", "--queue", queue, "--dry-run", "-o", "json").json == {
        "matched": 5,
        "changed": 0,
    }
    assert {task["status"] for task in server.ask(f"/tasks?queue={queue}")} == {"queued"}
    ran = run("task", "cancel", "--queue", queue, "--yes")
    assert (ran.code, ran.err) == (0, "5 tasks cancelled, 5 matched\n")
    assert run("task", "delete", "--queue", queue, "--yes", "-o", "ndjson").json["changed"] == 5
    assert server.ask(f"/tasks?queue={queue}") == []


@pytest.mark.parametrize("action", ["retry", "cancel", "delete"])
def test_where_nobody_can_be_asked_yes_must_be_said(
    action: str, run: Run, server: Server, queue: str
) -> None:
    held(server, queue, 2)
    ran = run("task", action, "--queue", queue)
    assert ran.code == 2
    assert "2 tasks? Nobody can be asked here: say --yes" in ran.err
    assert {task["status"] for task in server.ask(f"/tasks?queue={queue}")} == {"queued"}


@pytest.mark.parametrize(
    "args",
    [("retry",), ("cancel", "a", "--all"), ("delete", "a", "--dry-run"), ("retry", "a", "--queue", "b")],
)
def test_it_must_be_clear_which_tasks_are_meant(args: tuple[str, ...], run: Run) -> None:
    assert run("task", *args).code == 2


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3)])
def test_a_person_is_asked_with_the_count(
    answer: str, code: int, left: int, server: Server, queue: str
) -> None:
    held(server, queue, 3)
    with Terminal("task", "cancel", "--queue", queue, "--server", server.url) as terminal:
        terminal.shows("Cancel 3 tasks? [y/N]")
        terminal.press(answer)
        assert terminal.ended() == code, terminal.text
    assert len(server.ask(f"/tasks?queue={queue}&status=queued")) == left


# --- trouble ---


@pytest.mark.parametrize(
    "args", [("stats",), ("task", "list"), ("enqueue", "h"), ("top",), ("watch",), ("bench",)]
)
def test_a_server_that_is_away_is_one_line_and_its_own_exit_code(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*args, "--server", f"http://127.0.0.1:{free_port()}"]) == 8
    out, err = capsys.readouterr()
    assert out == ""
    assert "Connection refused" in err
    assert err.splitlines()[-1].startswith("jobpipe: error: http://127.0.0.1:")


def test_a_key_is_asked_for_and_taken(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from hashlib import sha256

    monkeypatch.setenv("JOBPIPE_API_KEYS", f"me:read:{sha256(b'secret').hexdigest()}")
    locked = Server(tmp_path, "--no-pool", "--store", "memory:").up()
    try:
        assert run("task", "list", "--server", locked.url).code == 9
        assert run("task", "list", "--server", locked.url, "--key", "secret").code == 0
        monkeypatch.setenv("JOBPIPE_KEY", "secret")
        assert run("task", "list", "--server", locked.url).code == 0
        assert run("enqueue", "h", "--server", locked.url).code == 9, "a reader may not"
        assert run("enqueue", "h", "--server", locked.url, "--key", "wrong").code == 9
    finally:
        locked.kill()


@pytest.mark.parametrize("url", ["ftp://x", "nonsense", "http://u:p@x"])
def test_an_address_that_cannot_be_is_bad_usage(url: str, run: Run) -> None:
    ran = run("stats", "--server", url)
    assert ran.code == 2
    assert ran.err.startswith("jobpipe: error: --server: ")


def test_files_with_settings_of_a_server_here_do_not_matter(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: str
) -> None:
    (tmp_path / "jobpipe.toml").write_text("timeout = 7\nnonsense = 1\n")
    monkeypatch.chdir(tmp_path)
    ran = run("enqueue", "simulate", "--delay", "1h", "--queue", queue, "-o", "json")
    assert (ran.code, ran.json["timeout"]) == (0, None)


# --- terminals, pipes ---


def test_a_reader_that_leaves_is_no_traceback(server: Server, queue: str) -> None:
    held(server, queue, 2000)
    line = f"'{sys.executable}' -m jobpipe task list --queue {queue} --limit 0 | head -n 1; echo ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", line], env={**os.environ, "JOBPIPE_URL": server.url},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.stderr == ""
    assert ran.stdout.splitlines()[0].startswith("ID ")
    assert ran.stdout.splitlines()[1] == "141"


@pytest.mark.parametrize(
    ("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_are_for_terminals_that_want_them(
    environ: dict[str, str], coloured: bool, server: Server, queue: str
) -> None:
    failed(server, queue)
    with Terminal("task", "list", "--queue", queue, "--server", server.url, environ=environ) as terminal:
        assert terminal.ended() == 0
        assert ("\x1b[31mfailed" in terminal.raw) is coloured
        assert "failed" in terminal.text


def test_a_wide_row_is_cut_to_the_terminal_and_whole_in_a_pipe(server: Server, queue: str) -> None:
    long = queue + "x" * 150
    server.enqueue({"id": long, "queue": queue, "delay": 3600})
    with Terminal("task", "list", "--queue", queue, "--server", server.url) as terminal:
        assert terminal.ended() == 0
        assert all(len(line) <= 120 for line in terminal.text.splitlines())
    assert long in command(server, "task", "list", "--queue", queue).stdout


def test_top_is_live_until_q_and_shows_the_fullest_queues(tmp_path: Path) -> None:
    server = Server(tmp_path, "--no-pool", "--store", "memory:").up()
    try:
        for number in range(60):
            held(server, f"small-{number:02}")
        with Terminal("top", "--interval", "0.2", "--server", server.url) as terminal:
            terminal.shows("q leaves")
            terminal.shows("... 47 more")
            held(server, "zz-large", 2)
            terminal.shows("zz-large")
            terminal.press("q")
            assert terminal.ended() == 0
    finally:
        server.kill()
    assert "\x1b[?1049l" in terminal.raw, "the screen of before is back"


def test_top_outlives_a_server_that_is_away_for_a_while(tmp_path: Path) -> None:
    one = Server(tmp_path, "--no-pool", "--store", "memory:").up()
    with Terminal("top", "--interval", "0.2", "--server", one.url) as terminal:
        terminal.shows("q leaves")
        one.kill()
        terminal.shows("does not answer")
        again = one.again()
        try:
            held(again, "comes-back")
            terminal.shows("comes-back")
        finally:
            again.kill()
        terminal.press("q")
        assert terminal.ended() == 0


def test_lines_from_a_file_have_a_progress_bar_on_a_terminal(
    server: Server, queue: str, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("1\n" * 3000)
    with (tmp_path / "lines").open("rb") as lines, Terminal(
        "enqueue", "simulate", "--ndjson", "--delay", "1h", "--queue", queue, "--server", server.url,
        stdin=lines,
    ) as terminal:  # fmt: skip
        assert terminal.ended() == 0
    assert "3,000 tasks enqueued" in terminal.text
    assert "enqueueing" in terminal.text


def test_ctrl_c_while_waiting_is_silent(server: Server, queue: str) -> None:
    (name,) = held(server, queue)
    process = subprocess.Popen(
        [sys.executable, "-m", "jobpipe", "task", "wait", name, "--server", server.url],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    until("it waits", lambda: _has_connection(process.pid))
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


def _has_connection(pid: int) -> bool:
    import psutil

    return any(one.status == "ESTABLISHED" for one in psutil.Process(pid).net_connections())


# --- bench, openapi ---


def test_bench_measures_and_leaves_nothing(run: Run, server: Server) -> None:
    ran = run("bench", "--tasks", "200", "--connections", "4", "-o", "json")
    assert ran.code == 0, ran.err
    assert (ran.json["accepted"], ran.json["refused"]) == (200, 0)
    assert 0 < ran.json["p50_ms"] <= ran.json["p99_ms"] <= ran.json["max_ms"]
    assert server.ask("/tasks?queue=bench") == []
    ended = run("bench", "--tasks", "50", "--handler", "simulate", "-o", "json").json
    assert ended["ended_per_s"] > 0
    assert ended["ended_after_s"] >= ended["seconds"]


def test_bench_says_what_was_refused(tmp_path: Path, run: Run) -> None:
    small = Server(tmp_path, "--no-pool", "--queue-size", "5", "--store", "memory:").up()
    try:
        ran = run("bench", "--tasks", "20", "--connections", "2", "--server", small.url)
    finally:
        small.kill()
    assert ran.code == 1
    assert ran.err == "refused: 15 queue_full\n"


@pytest.mark.parametrize(
    "args", [("--tasks", "0"), ("--tasks", "10000001"), ("--connections", "0"), ("--seconds", "1h")]
)
def test_bench_is_never_endless(args: tuple[str, ...], run: Run) -> None:
    assert run("bench", *args).code == 2


def test_bench_leaves_other_machines_alone_unless_told(run: Run) -> None:
    ran = run("bench", "--server", "http://192.0.2.1:8080")
    assert ran.code == 2
    assert "is not on this machine: say --yes" in ran.err


def test_openapi_is_that_of_the_server_or_of_the_package(run: Run, server: Server) -> None:
    assert run("openapi", "--server", server.url).json == server.ask("/openapi.json")
    assert run("openapi").json == server.ask("/openapi.json")


def test_a_unique_task_is_made_once_changed_and_shown(run: Run, queue: str) -> None:
    rules = json.dumps({"key": queue, "on_conflict": "replace"})
    enqueue = ("enqueue", "later", "--queue", queue, "--delay", "1h", "--expires", "2h")
    first = run(*enqueue, "1", "--unique", rules)
    assert first.code == 0, first.err
    again = run(*enqueue, "2", "--unique", rules, "-o", "json")
    assert (again.json["id"], again.json["replaced"], again.json["payload"]) == (first.lines[0], True, 2)
    assert "has the unique key: changed" in again.err
    assert run(*enqueue, "--unique", '{"key":').code == 2
    changed = run(
        "task", "change", first.lines[0], "--payload", "[3]", "--priority", "5", "--clear", "expires"
    )
    assert changed.code == 0, changed.err
    shown = run("task", "show", first.lines[0])
    assert f"unique            {queue}, until end, replace" in shown.out
    assert "expires_at" not in shown.out
    assert run("task", "show", first.lines[0], "-o", "json").json["payload"] == [3]
    assert run("task", "change", first.lines[0]).code == 2
    named = ("enqueue", "later", "--queue", queue, "--delay", "1h", "--idempotency-key", queue)
    assert run(*named).lines == run(*named).lines
    assert run(*named, "7").code != 0
