"""The command line: what it calls, what it prints, and how it refuses."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from cyclopts import App

from jobpipe.cli import build, main
from jobpipe.settings.server import KINDS, Settings, env_names
from jobpipe.settings.sources import Sources


class FakeServer(ModuleType):
    """Stands for jobpipe.server.serving, whose `run` would serve for ever; keeps what it was called with."""

    def __init__(self) -> None:
        super().__init__("jobpipe.server.serving")
        self.calls: list[tuple[Settings, str | None]] = []

    def run(self, settings: Settings, app: str | None, rules: object) -> int:
        self.calls.append((settings, app))
        return 7


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, none of our variables, and a terminal of a known width."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name in KINDS:
        for variable in env_names(name):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    fake = FakeServer()
    monkeypatch.setitem(sys.modules, "jobpipe.server.serving", fake)
    monkeypatch.setattr("jobpipe.server.serving", fake, raising=False)
    return fake


def test_serve_runs_the_server_with_the_settings_and_gives_its_exit_code(server: FakeServer) -> None:
    assert main(["serve"]) == 7
    assert main(["serve", "--workers", "2", "pkg.mod:app"]) == 7
    assert server.calls == [(Settings(), None), (Settings(workers=2), "pkg.mod:app")]


@pytest.fixture
def reloaders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], float]]:
    """The commands and graces of the servers that `dev` would start again and again."""
    made: list[tuple[list[str], float]] = []

    class FakeReloader:
        def __init__(self, command: list[str], grace: float, *_: object) -> None:
            made.append((command, grace))

        async def run(self) -> int:
            return 7

    monkeypatch.setattr("jobpipe.processes.dev.reload.Reloader", FakeReloader)
    monkeypatch.setattr("jobpipe.runtime.logs.configure", lambda *_: None)
    return made


def test_dev_starts_serve_with_the_same_arguments_and_a_short_grace(
    reloaders: list[tuple[list[str], float]],
) -> None:
    assert main(["dev", "pkg.mod:app", "--workers", "2"]) == 7
    ((command, grace),) = reloaders
    assert command[-6:] == ["serve", "pkg.mod:app", "--workers", "2", "--shutdown-grace", "2.0"]
    assert grace == 2.0


def test_dev_keeps_a_grace_that_was_given(
    reloaders: list[tuple[list[str], float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["dev", "--shutdown-grace", "9", "pkg.mod:app"]) == 7
    monkeypatch.setenv("JOBPIPE_SHUTDOWN_GRACE", "8")
    assert main(["dev", "pkg.mod:app"]) == 7
    assert [(command[command.index("serve") + 1 :], grace) for command, grace in reloaders] == [
        (["--shutdown-grace", "9", "pkg.mod:app"], 9.0),
        (["pkg.mod:app"], 8.0),
    ]


@pytest.mark.parametrize("spec", ["app", "app:", ":app", "a/b:app", "a..b:app", "a:b c", "mod.py:app()"])
def test_an_app_that_is_no_name_is_refused_before_the_start(
    spec: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", spec]) == 2
    assert "app: must look like package.module:app" in capsys.readouterr().err
    assert server.calls == []


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nonsense"], "--nonsense"),
        (["nonsense"], "nonsense"),
        (["serve", "--nonsense"], "--nonsense"),
        (["serve", "a:b", "c:d"], "c:d"),
        (["dev"], "APP"),
        (["dev", "tasks"], "app"),
        (["serve", "--port"], "--port"),
        (["serve", "--workers", "2", "--workers", "3"], "--workers"),
        (["serve", "--pool=maybe"], "maybe"),
        (["serve", "--settings.workers", "3"], "--settings.workers"),
        (["config", "-o", "xml"], "xml"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    argv: list[str], said: str, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jobpipe: error: ")
    assert err.count("\n") == 1
    assert said in err
    assert server.calls == []


def test_ctrl_c_before_the_server_listens_is_no_traceback(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(settings: Settings, app: str | None, rules: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "run", interrupted)
    assert main(["serve"]) == 130


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"jobpipe {version('jobpipe')}\n"


def test_help_lists_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    words = set(shown.replace(",", " ").replace("]", " ").split())
    assert {f"--{name.replace('_', '-')}" for name in KINDS} <= words
    assert {variable for name in KINDS for variable in env_names(name)} <= words


def test_config_is_an_aligned_table_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--queue-size", "9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["setting", "value", "source"]
    assert ["queue_size", "9", "flag"] in [line.split() for line in lines]
    assert [line.split()[0] for line in lines[1:]] == list(KINDS)
    column = lines[0].index("source")
    assert all(line[column - 1] == " " != line[column] for line in lines)


def test_config_is_a_rich_table_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["config", "--store", "memory:"]) == 0
    shown = capsys.readouterr().out
    assert "memory:" in shown
    assert all(name in shown for name in KINDS)


def test_config_gives_valid_json_without_infinity(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--timeout", "inf", "-o", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["timeout"] == {"value": "inf", "source": "flag"}
    assert list(shown) == list(KINDS)


def test_python_m_jobpipe_is_the_same_command() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "jobpipe", "config", "--workers", "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert ran.stderr == "jobpipe: error: --workers: must be a whole number from 1 to 10000, not '0'\n"


def test_the_command_line_loads_neither_the_server_nor_rich() -> None:
    heavy = (
        "rich",
        "starlette",
        "uvicorn",
        "apsw",
        "jobpipe.server.serving",
        "jobpipe.http",
        "jobpipe.storage",
        "dotenv",
    )
    code = (
        "import sys, jobpipe.cli as c; c.main(['config']);"
        f"print([n for n in {heavy!r} if n in sys.modules], file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "[]\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_an_output_that_takes_nothing_is_told_in_one_line() -> None:
    command = f"{shlex.quote(sys.executable)} -m jobpipe openapi > /dev/full"
    ran = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert ran.returncode == 1
    assert ran.stderr.splitlines() == [
        "jobpipe: error: the output cannot be written: No space left on device"
    ]


def test_a_closed_output_is_one_that_nobody_reads() -> None:
    command = f"{shlex.quote(sys.executable)} -m jobpipe openapi >&-"
    ran = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_no_command_has_two_flags_of_one_name() -> None:
    """Two groups of flags that a command shares may each have a good word for something else."""

    def look(app: App, path: str) -> int:
        flags = [] if app.default_command is None else app.assemble_argument_collection()
        names = [name for argument in flags for name in argument.names if name.startswith("-")]
        assert len(names) == len(set(names)), (path, sorted(names))
        subs = [name for name in app if not name.startswith("-")]
        return bool(names) + sum(look(app[name], f"{path} {name}") for name in subs)

    assert look(build(Sources(), whole=True), "jobpipe") > 20
