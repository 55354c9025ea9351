"""The parts that the commands over HTTP are made of: durations, times, tables, event streams, completion, start-up."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from jobpipe.cli import COMMANDS, build, exits, main
from jobpipe.cli.arguments import moment_of, seconds_of, time_of
from jobpipe.cli.output import Table, column, printable, put_json
from jobpipe.cli.remote import Remote
from jobpipe.cli.server_state import duration
from jobpipe.cli.watch import Event, Follower, events
from jobpipe.client.errors import ConnectionFailed
from jobpipe.client.setup import servers_of
from jobpipe.client.transport import Transport
from jobpipe.core.errors import JobpipeError
from jobpipe.settings.sources import Sources


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("250ms", 0.25), ("5m", 300), ("2h", 7200), ("1d", 86400), ("0", 0)],
)
def test_durations_have_units(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-1", "1w", "1e3", "inf", "nan", "1_0", "1 h", "٣"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be seconds"):
        seconds_of(text)


def test_a_moment_is_a_time_or_how_long_ago() -> None:
    assert moment_of("2026-11-22T10:00:00+01:00") == "2026-11-22T10:00:00+01:00"
    ago = datetime.now(UTC) - time_of(moment_of("2h"))
    assert timedelta(hours=2) <= ago < timedelta(hours=2, minutes=1)


@pytest.mark.parametrize("text", ["2026-11-22", "2026-11-22T10:00:00", "tomorrow", ""])
def test_a_time_without_an_offset_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with its offset"):
        time_of(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5.9, "5 s"), (65, "1 min 5 s"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_time_spans_are_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_could_steer_a_terminal_is_escaped() -> None:
    assert printable("a\x1b[2Jb\n\x9bc é") == r"a\x1b[2Jb\n\x9bc é"


def test_a_table_aligns_also_what_is_wide(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table((column("name"), column("n", right=True)))
    table.put([{"name": "日本", "n": 1}, {"name": "abc", "n": 1000}])
    table.put([{"name": None, "n": 7}])
    assert capsys.readouterr().out.splitlines() == ["NAME     N", "日本     1", "abc   1000", "-        7"]


# --- help, exit codes, completion, start-up ---


def test_every_command_says_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for commands in COMMANDS.values():
        for name in commands:
            assert f" {name}: " in shown, name
    for code, meaning in exits.MEANINGS.items():
        assert f"{code} {meaning}" in shown


def test_the_page_on_the_command_line_lists_the_exit_codes_and_the_commands() -> None:
    page = (Path(__file__).parents[2] / "docs/cli.md").read_text()
    for code, meaning in exits.MEANINGS.items():
        assert f"| {code} | {meaning} |" in page
    for commands in COMMANDS.values():
        assert all(f"`{name}" in page for name in commands)


def test_every_refusal_of_the_server_has_an_exit_code_that_is_listed() -> None:
    def tree(kind: type[JobpipeError]) -> Iterator[type[JobpipeError]]:
        yield kind
        for below in kind.__subclasses__():
            yield from tree(below)

    for kind in tree(JobpipeError):
        assert exits.code_of(kind.__new__(kind)) in exits.MEANINGS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_commands_and_parse(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["completion", "show", "--shell", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in ("enqueue", "task", "queue", "--error-type"))
    if which(shell):  # the machine may lack zsh and fish
        (tmp_path / "script").write_text(script)
        ran = subprocess.run([shell, "-n", tmp_path / "script"], capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, "")


def test_bash_completes_what_was_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "show", "--shell", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = (
        'complete() { for word; do :; done; }; source "$1"; COMP_WORDS=(jobpipe task li); COMP_CWORD=2; '
        'COMP_LINE="jobpipe task li"; COMP_POINT=15; _jobpipe; echo "${COMPREPLY[*]}"'
    )
    ran = subprocess.run(
        ["bash", "-c", ask, "bash", str(tmp_path / "script")], capture_output=True, text=True, check=False
    )
    assert ran.stdout.split() == ["list"], ran.stderr


def test_completion_is_installed_where_the_shell_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("SHELL", "/bin/fish")
    assert main(["completion", "install"]) == 0
    path = tmp_path / "config/fish/completions/jobpipe.fish"
    assert capsys.readouterr().out == f"{path}\n"
    assert "jobpipe" in path.read_text()
    monkeypatch.setenv("SHELL", "/bin/tcsh")
    assert main(["completion", "install"]) == 2


def test_a_command_over_http_loads_only_what_it_needs() -> None:
    heavy = ("httpx2", "rich.console", "starlette", "uvicorn", "apsw", "jobpipe.http", "jobpipe.storage")
    code = (
        "import sys, jobpipe.cli as c;"
        "c.main(['task', 'list', '--server', 'unix:/nowhere']); c.main(['enqueue']);"
        f"print([n for n in {heavy!r} if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "[]\n", ran


def test_a_command_is_built_without_importing_the_others() -> None:
    code = (
        "import sys; from jobpipe.cli import build; from jobpipe.settings.sources import Sources;"
        "build(Sources()); print([n for n in sys.modules if n.startswith('jobpipe.cli.')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jobpipe.cli.top" not in ran.stdout
    assert "jobpipe.cli.serve" not in ran.stdout
    assert set(build(Sources(), whole=True)) >= {"top", "serve"}


# --- event streams ---


def test_an_event_stream_is_read_as_its_specification_says() -> None:
    lines = [
        b": heartbeat", b"", b"id: 7-1", b"event: delta", b"data: {", b"data:}", b"", b"event: lost", b"",
        b"data: last", b"", b"data: unfinished",
    ]  # fmt: skip
    assert list(events(lines)) == [Event("7-1", "delta", b"{\n}"), Event("7-1", "message", b"last")]


class Streams(BaseHTTPRequestHandler):
    """A server of event streams: each request gets the next of `streams`, then the connection ends."""

    streams: list[bytes]
    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Last-Event-ID"])
        self.send_response(200 if self.streams else 404)
        self.end_headers()
        if self.streams:
            self.wfile.write(self.streams.pop(0))

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def streams() -> Iterator[ThreadingHTTPServer]:
    Streams.streams, Streams.asked = [], []
    with ThreadingHTTPServer(("127.0.0.1", 0), Streams) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def follower(server: ThreadingHTTPServer, output: str) -> Follower:
    return Follower(
        Remote(Transport(servers_of(f"http://127.0.0.1:{server.server_port}", None, None), 10)), output
    )


def change(**fields: Any) -> bytes:
    task = {"id": "t1", "status": "done", "queue": "mail", "handler": "send", "attempts": 1} | fields
    return json.dumps({"counts": {}, "rates": {}, "tasks": [task], "dropped": 0}).encode()


def test_watch_takes_a_broken_stream_up_again_where_it_stood(
    streams: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Streams.streams = [
        b"id: b-1\nevent: reset\ndata: {}\n\nid: b-2\nevent: delta\ndata: %b\n\n" % change(),
        b"id: b-3\nevent: delta\ndata: %b\n\n" % change(id="t2", status="failed", error_type="Boom"),
        b"id: c-1\nevent: reset\ndata: {}\n\n",
    ]
    with pytest.raises(JobpipeError, match="not an answer of a Jobpipe server: status 404"):
        follower(streams, "ndjson").run()
    out, err = capsys.readouterr()
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["t1", "t2"]
    assert Streams.asked == [None, "b-2", "b-3", "c-1"]
    assert "trying again" in err
    assert "connected again\n" in err
    assert "connected again, what happened meanwhile is lost" in err


def test_watch_is_a_line_a_change_and_says_what_was_left_out(
    streams: ThreadingHTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads(change(id="a\x1b[2J", error_type="Boom")) | {"dropped": 1200}
    Streams.streams = [b"event: delta\ndata: %b\n\n" % json.dumps(data).encode()]
    with pytest.raises(JobpipeError):
        follower(streams, "table").run()
    out, err = capsys.readouterr()
    assert out.split()[1:] == ["done", r"a\x1b[2J", "mail", "send", "attempt", "1", "Boom"]
    assert "1,200 more changes" in err


def test_watch_of_a_server_that_never_was_there_ends_at_once() -> None:
    with pytest.raises(ConnectionFailed):
        Follower(Remote(Transport(servers_of("unix:/nowhere", None, None), 10)), "table").run()


@pytest.mark.parametrize(
    "c", ["\x7f", "\x9b", "\u061c", "\u200f", "\u202e", "\u2066", "\u2028", "\U000e0041"]
)
@pytest.mark.parametrize("output", ["json", "ndjson"])
def test_json_means_the_same_and_steers_no_terminal(
    c: str, output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    value = {f"k{c}": f"\u00e4 {c}31m \U0001f600"}
    put_json([json.dumps(value, ensure_ascii=False).encode()], output, many=False)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert c not in text
    assert "\u00e4" in text
    assert "\U0001f600" in text
