"""The guide does what it says: its marked blocks are run page by page, and no link between the documents is broken.

A comment before a block says what it is: `file NAME` is written, `background` is started and stays until `stop` or the
page's end, `run` must succeed and `fails` must not, each `shows` some text. The port 8080 is replaced by a free one.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from programs import Server, until
from prove.ports import free_port

import postgres

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs/guide"
PAGES = sorted(path.name for path in GUIDE.glob("*.md"))
DATABASE = "postgresql://jobpipe:secret@db.example.com/jobpipe"
MARK = re.compile(
    r'<!-- (?P<what>file|background|run|fails|stop)(?: (?P<name>[\w.]+))?(?:, shows "(?P<shows>[^"]+)")? -->'
    r"(?:\n```\w+\n(?P<body>.*?)```)?",
    re.DOTALL,
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
DOCUMENTS = sorted(
    path
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("bench/**/*.md"),
                 *ROOT.glob("examples/**/*.md")]
    if "node_modules" not in path.parts
)  # fmt: skip


class Background(NamedTuple):
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Reader:
    """Somebody who follows a page, in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {"8080": str(free_port()), "8081": str(free_port())}
        self._started: list[Background] = []
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("JOBPIPE_")},
            "PATH": f"{folder}/bin:{os.environ['PATH']}",
            "JOBPIPE_URL": f"http://127.0.0.1:{self._ports['8080']}",
            "JOBPIPE_PORT": self._ports["8080"],
        }
        (folder / "bin").mkdir()
        for name, words in (("jobpipe", "-m jobpipe"), ("python", "")):
            program = folder / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
            program.chmod(0o755)

    def follow(self, page: str) -> None:
        for mark in MARK.finditer(page):
            body = mark["body"] or ""
            if mark["what"] == "file":
                (self._folder / mark["name"]).write_text(body)
            elif mark["what"] == "background":
                self._start(self._local(body))
            elif mark["what"] == "stop":
                assert self._started.pop().stop() == 0
            else:
                self._run(self._local(body), mark["shows"], succeeds=mark["what"] == "run")

    def close(self) -> None:
        for one in reversed(self._started):
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()

    def _local(self, body: str) -> str:
        if DATABASE in body:
            body = body.replace(DATABASE, postgres.empty_store("real"))
        return re.sub("808[01]", lambda port: self._ports[port[0]], body)

    def _start(self, body: str) -> None:
        log = self._folder / f"background-{len(self._started)}.log"
        with log.open("ab") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {body}"], cwd=self._folder, env=self._environ, stdout=file, stderr=file
            )
        self._started.append(Background(process, log))
        if "jobpipe worker" not in body:
            other = f"--port {self._ports['8081']}" in body
            server = Server.__new__(Server)
            server.url = f"http://127.0.0.1:{self._ports['8081' if other else '8080']}"
            until(f"{body} answers", lambda: _answers(server, process, log))

    def _run(self, body: str, shows: str | None, *, succeeds: bool) -> None:
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body], cwd=self._folder, env=self._environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=90, check=False,
        )  # fmt: skip
        told = [one.log.read_text()[-2000:] for one in self._started]
        assert (ran.returncode == 0) is succeeds, (body, ran.stdout, told)
        assert shows is None or shows in ran.stdout, (body, ran.stdout, told)


def _answers(server: Server, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return bool(server.ask("/livez"))
    except OSError:
        return False


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_guide_does_what_it_says(name: str, reader: Reader) -> None:
    if not shutil.which("curl"):
        pytest.skip("no curl here, which the guide uses")
    page = (GUIDE / name).read_text()
    marks = [mark for mark in MARK.finditer(page) if mark["what"] != "stop"]
    assert all(mark["body"] for mark in marks), "a mark stands right before its block"
    assert len(marks) > 0 or name == "README.md"
    reader.follow(page)


def test_the_guide_leads_through_all_its_pages() -> None:
    index = (GUIDE / "README.md").read_text()
    order = re.findall(r"^\d+\. \[.*\]\((.*)\)$", index, re.MULTILINE)
    assert sorted([*order, "README.md"]) == PAGES
    for page, following in pairwise(order):
        assert f"]({following})" in (GUIDE / page).read_text().splitlines()[-1]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_between_the_documents_is_broken(path: Path) -> None:
    for match in LINK.finditer(re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)):
        link = urlsplit(match[1] or match[2])
        if link.scheme:
            continue
        target = (path.parent / unquote(link.path)) if link.path else path
        assert target.exists(), f"{path.name}: {match[0]}"
        if link.fragment:
            assert link.fragment in _anchors(target), f"{path.name}: {match[0]}"


def _anchors(page: Path) -> set[str]:
    """The names that headings get on the usual hosts of repositories."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
