"""The examples keep what their pages promise, with real processes and a real SIGKILL in the middle of the work."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from prove.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PHOTOS = 60
SIZE = 256
CELL = SIZE + 8
BOUND_S = 60.0

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]
needs_bash = pytest.mark.skipif(
    not os.environ.get("CI") and not (shutil.which("bash") and shutil.which("curl")),
    reason="bash or curl is not installed",
)


class Server:
    """A started `jobpipe serve`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._process = process
        self._log = log

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=BOUND_S) as answer:
            return json.load(answer)

    def done(self) -> int:
        count: int = self.get("/stats")["counts"]["done"]
        return count

    def finished(self, task_id: str) -> dict[str, Any]:
        """The task, once it has come to its end."""
        task: dict[str, Any] = self.get(f"/tasks/{task_id}?wait=60")
        assert task["finished_at"] is not None, task
        return task

    def wait_until(self, what: str, is_so: Callable[[], bool]) -> None:
        """Ask until it is so; fail when the server ends before, and at a deadline."""
        deadline = time.monotonic() + BOUND_S
        while not is_so():
            assert time.monotonic() < deadline, f"{what}: not after {BOUND_S:g} s\n{self._log.read_text()}"
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=0.01)
                pytest.fail(f"the server ended\n{self._log.read_text()}")

    def answers(self) -> bool:
        try:
            return bool(self.get("/healthz") == {"status": "ok"})
        except OSError:
            return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert self._process.wait(timeout=BOUND_S) == 0, self._log.read_text()


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Server]:
    """A server that runs in `folder` and has its store there: what the repository's folder says does not reach it."""
    port = free_port()
    log = folder / "server.log"
    command = [sys.executable, "-m", "jobpipe", "serve", *arguments, "--port", str(port)]
    with log.open("ab") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=out)
    try:
        server = Server(process, port, log)
        server.wait_until("the first answer", server.answers)
        yield server
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    mine = ("JOBPIPE_", "WORKERS", "QUEUE_SIZE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(mine)}
    return kept | {"PYTHONPATH": str(ROOT), "no_proxy": "*"}


def run(*command: str | Path) -> str:
    """The output of a command that has to succeed."""
    ran = started(*command)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def started(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=BOUND_S, check=False
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    run(sys.executable, "-m", "examples.thumbnails.photos", folder, "--count", str(PHOTOS))
    assert len(list(folder.iterdir())) == PHOTOS
    return folder


def enqueue(server: Server, photos: Path, *options: str) -> str:
    """Run the example's own script."""
    module = [sys.executable, "-m", "examples.thumbnails.enqueue"]
    return run(*module, photos, photos.with_name("thumbnails"), "--url", server.url, *options)


def assert_whole(thumbnail: Path, photo: Path) -> None:
    """A readable image, of the photograph's shape and the right size."""
    with Image.open(thumbnail) as image, Image.open(photo) as original:
        image.load()
        assert max(image.size) == SIZE
        assert image.width / image.height == pytest.approx(original.width / original.height, rel=0.02)


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and rename over an open file are POSIX")
def test_a_server_killed_in_the_middle_finishes_every_thumbnail_when_it_starts_again(
    tmp_path: Path, photos: Path
) -> None:
    serve = ("examples.thumbnails.app:app", "--workers", "1")
    thumbnails = tmp_path / "thumbnails"

    with serving(tmp_path, *serve) as server:
        enqueue(server, photos)
        server.wait_until("some thumbnails", lambda: server.done() >= 3)
        server.kill()
    before = sorted(thumbnails.glob("*.jpg"))
    assert 3 <= len(before) < PHOTOS
    for thumbnail in before:
        assert_whole(thumbnail, photos / thumbnail.name)

    with serving(tmp_path, *serve) as server:
        tasks = [server.finished(f"thumbnail-{photo.stem}") for photo in photos.iterdir()]
        assert {task["status"] for task in tasks} == {"done"}
        assert sum(task["lost"] for task in tasks) <= 1, (
            "only what ran was interrupted, and there is one worker"
        )
        assert_sheet_comes_from_a_second_run(server, photos)
        server.stop()

    assert sorted(path.name for path in thumbnails.iterdir()) == sorted(p.name for p in photos.iterdir())
    for photo in photos.iterdir():
        assert_whole(thumbnails / photo.name, photo)


def assert_sheet_comes_from_a_second_run(server: Server, photos: Path) -> None:
    """Enqueuing all again adds nothing but the sheet."""
    shown = enqueue(server, photos, "--wait")
    assert server.done() == PHOTOS + 1
    sheet = photos.with_name("contact-sheet.jpg")
    assert str(sheet) in shown
    with Image.open(sheet) as image:
        image.load()
        assert image.size == (8 * CELL + 8, -(-PHOTOS // 8) * CELL + 8)


def test_a_file_that_is_no_photograph_fails_at_once_and_stops_nothing_else(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    run(sys.executable, "-m", "examples.thumbnails.photos", photos, "--count", "2")
    (photos / "broken.jpg").write_bytes(b"no photograph")

    with serving(tmp_path, "examples.thumbnails.app:app") as server:
        enqueue(server, photos)
        broken = server.finished("thumbnail-broken")
        others = [server.finished(f"thumbnail-{name}-00") for name in ("astronaut", "brick")]

    assert (broken["status"], broken["attempts"]) == ("failed", 1)
    assert broken["last_error"]["message"] == "broken.jpg is no image"
    assert [task["status"] for task in others] == ["done", "done"]


@needs_bash
def test_the_simulation_runs_to_the_end_of_every_task(tmp_path: Path) -> None:
    quick = ("--simulate-min", "0.01", "--simulate-max", "0.03")
    with serving(tmp_path, *quick) as server:
        shown = run("bash", "examples/simulate.sh", server.url)
        counts = server.get("/stats")["counts"]

    assert shown.count(" queued\n") == shown.count("attempt(s)") == 8
    assert counts["done"] + counts["failed"] == 8
    assert "the same id again: task already exists" in shown
    assert '"counts":' in shown


@needs_bash
def test_the_simulation_fails_where_no_server_answers() -> None:
    ran = started("bash", "examples/simulate.sh", f"http://127.0.0.1:{free_port()}")
    assert ran.returncode != 0
    assert "no answer from" in ran.stderr
