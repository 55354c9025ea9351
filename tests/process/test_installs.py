"""Jobpipe where only `sys.path` knows it, and the event loop that handlers ask for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from programs import Program, Server

import jobpipe
from jobpipe.runtime.interpreter import python

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]

PACKAGE = Path(jobpipe.__file__).parent
TELL = """
from jobpipe.runtime.interpreter import python
print(json.dumps(python("jobpipe.processes.worker")))
"""


@pytest.fixture(params=["folder", "zip"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Jobpipe in a folder or a file that no interpreter looks into, and where what it needs is."""
    needed = [path for path in sys.path if path.endswith("site-packages")]
    if request.param == "folder":
        (folder := tmp_path / "target").mkdir()
        (folder / "jobpipe").symlink_to(PACKAGE)
        return [str(folder), *needed]
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        for file in PACKAGE.rglob("*.py"):
            archive.write(file, Path("jobpipe") / file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.sql"):
            archive.write(file, Path("jobpipe") / file.relative_to(PACKAGE))
    return [str(tmp_path / "app.zip"), *needed]


def test_another_python_finds_what_only_sys_path_knows(elsewhere: list[str], tmp_path: Path) -> None:
    """-S: the interpreter itself knows of no installed package."""
    code = f"import json, sys\nsys.path[:0] = {elsewhere!r}\n{TELL}"
    run = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    command = json.loads(run.stdout)
    worker = subprocess.run(
        [command[0], "-S", *command[1:]], input=b"no orders\n", capture_output=True, timeout=60, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, cwd=tmp_path,
    )  # fmt: skip
    assert b"jobpipe/processes/supervisor/orders.py" in worker.stderr, "it came as far as its orders"
    assert b"No module named" not in worker.stderr


def test_the_folder_that_jobpipe_is_started_in_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('the wrong one')")
    (tmp_path / "queue.py").write_text("raise SystemExit('the wrong one')")
    worker = subprocess.run(
        python("jobpipe.processes.worker"),
        input=b"no orders\n",
        capture_output=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert b"the wrong one" not in worker.stderr


@contextmanager
def served(tmp_path: Path, *args: str) -> Iterator[Server]:
    server = Server(tmp_path, *args, "--store", "memory:").up()
    try:
        yield server
    finally:
        server.kill()


def loop_of(server: Server) -> str:
    server.enqueue({"id": "loop", "handler": "loop"})
    task = server.finished("loop")
    assert task["status"] == "done", task
    return str(task["result"])


@pytest.mark.parametrize("processes", ["0", "1"])
def test_handlers_get_the_loop_that_was_asked_for(tmp_path: Path, processes: str) -> None:
    pytest.importorskip("uvloop")
    for args, loop in (([], "uvloop"), (["--loop", "asyncio"], "asyncio.unix_events")):
        with served(tmp_path, "loops:app", "--processes", processes, *args) as server:
            assert loop_of(server) == loop


def test_a_worker_elsewhere_gives_its_handlers_that_loop_too(tmp_path: Path) -> None:
    with served(tmp_path, "--no-pool") as server:
        worker = Program(
            tmp_path, "worker", "worker", "loops:app", "--server", server.url, "--loop", "asyncio"
        )
        assert loop_of(server) == "asyncio.unix_events"
        assert worker.stop() == 0


def test_a_loop_that_is_none_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "--loop", "trio")
    assert server.ended() == 2
    assert "--loop: must be auto or asyncio, not 'trio'" in server.said


@pytest.mark.parametrize("processes", ["0", "1"])
def test_an_app_lies_in_the_folder_that_is_named(
    tmp_path: Path, processes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "laid_out.py").write_text(Path(__file__).with_name("loops.py").read_text())
    monkeypatch.setenv("JOBPIPE_APP_DIR", str(tmp_path / "src"))
    with served(tmp_path, "laid_out:app", "--processes", processes) as server:
        assert loop_of(server)
    monkeypatch.delenv("JOBPIPE_APP_DIR")
    with served(tmp_path, "--no-pool") as server:
        folder = os.path.relpath(tmp_path / "src", Path(__file__).parent)
        worker = Program(
            tmp_path, "worker", "worker", "laid_out:app", "--server", server.url, "--app-dir", folder
        )
        assert loop_of(server)
        assert worker.stop() == 0


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_folder_for_apps_that_is_not_there_is_told_in_one_line(tmp_path: Path, processes: str) -> None:
    gone = str(tmp_path / "gone")
    server = Server(tmp_path, "laid_out:app", "--processes", processes, "--app-dir", gone)
    assert server.ended() == 3
    assert f"{gone}, in which 'laid_out' is looked for, is no folder" in server.said
    assert "Traceback" not in server.said
