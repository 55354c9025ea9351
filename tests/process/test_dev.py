"""`jobpipe dev`: a change of the code is in the next task, no mistake ends it, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from programs import Server, until
from prove.ports import free_port

pytestmark = [
    pytest.mark.process,
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform == "win32", reason="a Ctrl+C cannot be sent to one process there"),
]

CODE = """
import time
from jobpipe import App
app = App()

@app.handler
async def version() -> int:
    return {}

@app.handler
def slow(seconds: float) -> str:
    time.sleep(seconds)
    return "finished"
"""


class Dev(Server):
    """`jobpipe dev tasks:app` in a folder with a `tasks.py`."""

    def __init__(self, folder: Path, *args: str) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", "jobpipe", "dev", "tasks:app", "--port", str(self.port), *args]
        with self.log.open("wb") as log:
            # A group of its own: a Ctrl+C is sent to all of it, as a terminal does.
            self.process = subprocess.Popen(
                command, cwd=folder, stderr=log, stdout=log, start_new_session=True
            )

    def tree(self) -> list[psutil.Process]:
        """The server and its worker processes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def write(self, text: str) -> None:
        (self.folder / "tasks.py").write_text(text)

    def says(self, words: str, times: int = 1) -> None:
        until(f"it says {words!r}", lambda: self.said.count(words) >= times or not self.alive())
        assert self.alive(), self.said

    def version(self, id: str) -> int:
        """What the code that serves now returns."""
        self.enqueue({"id": id, "handler": "version"})
        result: int = self.finished(id)["result"]
        return result

    def interrupt(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.ended()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tasks.py").write_text(CODE.format(1))
    return tmp_path


@pytest.fixture
def dev(folder: Path) -> Iterator[Dev]:
    dev = Dev(folder)
    yield dev
    if dev.alive():
        tree = dev.tree()
        dev.kill()
        psutil.wait_procs(tree, timeout=10)


def test_the_next_task_runs_the_code_that_was_saved(dev: Dev) -> None:
    assert dev.up().version("before") == 1
    # The size and the second are those of the compiled file before.
    dev.write(CODE.format(2))
    dev.says("tasks.py changed")
    dev.says("listening", times=2)
    assert dev.version("after") == 2
    assert dev.task("before")["result"] == 1
    tree = dev.tree()
    assert len(tree) >= 2
    assert dev.interrupt() == 0
    assert psutil.wait_procs(tree, timeout=5)[1] == []
    assert "Traceback" not in dev.said


def test_a_mistake_is_told_in_one_line_and_waited_for(dev: Dev) -> None:
    assert dev.up().version("before") == 1
    dev.write("def broken(:\n")
    dev.says("waiting for a change")
    (line,) = [line for line in dev.said.splitlines() if "SyntaxError" in line]
    assert line.startswith("jobpipe: error: importing 'tasks' raised SyntaxError: ")
    assert "tasks.py:1" in line
    dev.write("import not_there\n")
    dev.says("No module named 'not_there'")
    dev.says("waiting for a change", times=2)
    dev.write(CODE.format(3))
    assert dev.up().version("after") == 3
    assert dev.stop() == 0


def test_an_app_that_is_not_there_yet_is_waited_for(folder: Path) -> None:
    (folder / "tasks.py").unlink()
    dev = Dev(folder)
    try:
        dev.says("no module named 'tasks'")
        dev.says("waiting for a change")
        dev.write(CODE.format(4))
        assert dev.up().version("first") == 4
    finally:
        assert dev.interrupt() == 0


def test_a_restart_loses_no_task_and_does_not_wait_for_a_long_one(dev: Dev) -> None:
    dev.up().enqueue({"id": "long", "handler": "slow", "payload": {"seconds": 60}})
    until("it runs", lambda: dev.task("long")["status"] == "running")
    dev.write(CODE.format(5).replace("time.sleep(seconds)", ""))
    dev.says("listening", times=2)
    task = dev.finished("long")
    assert (task["result"], task["failures"], task["lost"]) == ("finished", 0, 0)


def test_what_no_change_of_code_mends_ends_it_with_the_servers_code(dev: Dev) -> None:
    dev.up()
    second = subprocess.run(
        [sys.executable, "-m", "jobpipe", "dev", "tasks:app", "--port", str(dev.port), "--store", "memory:"],
        cwd=dev.folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert second.returncode == 5
    assert f"cannot listen on 127.0.0.1:{dev.port}" in second.stderr
    assert dev.stop() == 0


def test_a_bad_flag_is_refused_before_anything_starts(folder: Path) -> None:
    dev = Dev(folder, "--workers", "0")
    assert dev.ended() == 2
    assert dev.said == "jobpipe: error: --workers: must be a whole number from 1 to 10000, not '0'\n"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_the_server_does_not_outlive_a_parent_that_was_killed(dev: Dev) -> None:
    dev.up()
    tree = dev.tree()
    dev.kill()
    assert psutil.wait_procs(tree, timeout=10)[1] == []


WRITES = """
import pathlib, time
pathlib.Path(__file__).with_name("made.py").write_text(f"AT = {time.time_ns()}")
"""


def test_what_an_app_writes_as_it_is_imported_starts_nothing_anew(folder: Path) -> None:
    (folder / "tasks.py").write_text(WRITES + CODE.format(1))
    dev = Dev(folder)
    try:
        assert dev.up().version("first") == 1
        dev.says("made.py changed during the start")
        time.sleep(3)  # several looks
        assert dev.said.count("listening") == 1
        dev.write(WRITES + CODE.format(2))
        dev.says("listening", times=2)
        assert dev.up().version("second") == 2
        time.sleep(2)
        assert dev.said.count("starting anew") == 1
    finally:
        assert dev.interrupt() == 0


def test_what_is_written_again_and_again_is_told_and_can_be_excluded(folder: Path, tmp_path: Path) -> None:
    other = tmp_path.with_name(f"{tmp_path.name}-other")
    made = [place / "generated" / "made.py" for place in (folder, other)]
    for file in made:
        file.parent.mkdir(parents=True)
    (other / "tasks.py").write_text(CODE.format(1))
    dev, quiet = Dev(folder), Dev(other, "--exclude", "generated", "--exclude=*_pb2.py")
    try:
        dev.up()
        quiet.up()
        end = time.monotonic() + 60
        while "--exclude" not in dev.said and time.monotonic() < end:
            for file in made:
                file.write_text(f"AT = {time.time_ns()}")
            time.sleep(0.2)
        assert "say --exclude 'made.py'" in dev.said
        assert dev.said.count("starting anew") == 3
        assert quiet.said.count("listening") == 1
    finally:
        dev.interrupt()
        assert quiet.interrupt() == 0


def test_an_app_in_a_folder_of_its_own_is_imported_from_there_and_watched(folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "tasks.py").rename(folder / "src" / "tasks.py")
    dev = Dev(folder, "--app-dir", "src")
    try:
        assert dev.up().version("first") == 1
        (folder / "src" / "tasks.py").write_text(CODE.format(2))
        dev.says("listening", times=2)
        assert dev.up().version("second") == 2
    finally:
        assert dev.interrupt() == 0
