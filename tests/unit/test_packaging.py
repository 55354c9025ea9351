"""The image, the compose file, CI and the Makefile keep what they promise.

The Dockerfile is read, never repeated: its own lines are checked, and in the `process` test carried out in a fresh
environment, with folders of the test in place of the image's.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import venv
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from prove.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


class Line(NamedTuple):
    """An instruction of a Dockerfile, its continuation lines joined."""

    word: str
    rest: str


def _lines() -> list[Line]:
    kept = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", "", "\n".join(kept))
    return [Line(*line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def _stages() -> list[list[Line]]:
    stages: list[list[Line]] = []
    for line in _lines():
        if line.word == "FROM":
            stages.append([])
        stages[-1].append(line)
    return stages


BUILDER, FINAL = _stages()


def only(stage: list[Line], word: str) -> str:
    """The rest of the only line with this word."""
    (found,) = [line.rest for line in stage if line.word == word]
    return found


def environment() -> dict[str, str]:
    """What the image sets."""
    words = [word for line in FINAL if line.word == "ENV" for word in shlex.split(line.rest)]
    return dict(word.split("=", 1) for word in words)


def exec_form(text: str) -> list[str]:
    """The arguments of an instruction in the exec form, a JSON array."""
    arguments = json.loads(text)
    assert isinstance(arguments, list)
    assert all(isinstance(argument, str) for argument in arguments)
    return arguments


def health_check() -> list[str]:
    """The command of the image's health check."""
    return exec_form(only(FINAL, "HEALTHCHECK").partition("CMD ")[2])


def copied() -> list[tuple[list[str], str]]:
    """Sources and target of each COPY from the context."""
    lines = [shlex.split(line.rest) for line in BUILDER + FINAL if line.word == "COPY"]
    return [(words[:-1], words[-1]) for words in lines if not words[0].startswith("--from")]


# The image


def test_the_image_runs_without_root() -> None:
    user = only(FINAL, "USER")
    assert user not in ("root", "0")
    words = [line.word for line in FINAL]
    assert words.index("USER") > max(i for i, word in enumerate(words) if word == "RUN")
    assert f"--uid {user}" in " ".join(line.rest for line in FINAL if line.word == "RUN")


def test_the_image_keeps_its_tasks_in_a_volume_that_its_user_owns() -> None:
    volume = only(FINAL, "VOLUME")
    assert volume == "/data" == only(FINAL, "WORKDIR")
    assert environment()["JOBPIPE_STORE"] == "sqlite:////data/jobpipe.db"
    owned = next(i for i, line in enumerate(FINAL) if "chown jobpipe:jobpipe /data" in line.rest)
    assert owned < [line.word for line in FINAL].index("VOLUME")


def test_the_image_listens_on_all_interfaces_on_the_port_it_names() -> None:
    assert environment()["JOBPIPE_HOST"] == "0.0.0.0"
    assert only(FINAL, "EXPOSE") == "8080"
    assert "JOBPIPE_PORT" not in environment()


def test_the_server_is_process_1_and_gets_the_signal_itself() -> None:
    assert exec_form(only(FINAL, "ENTRYPOINT")) + exec_form(only(FINAL, "CMD")) == ["jobpipe", "serve"]
    assert only(FINAL, "STOPSIGNAL") == "SIGTERM"


def test_the_image_asks_its_own_health() -> None:
    command = health_check()
    assert command[0] == "python"
    assert "/healthz" in command[-1]
    compile(command[-1], "HEALTHCHECK", "exec")


def test_the_image_holds_the_wheel_and_not_the_sources() -> None:
    assert only(FINAL, "FROM").startswith("python:3.12-slim")
    assert [line.rest for line in FINAL if line.word == "COPY"] == ["--from=builder /wheels /wheels"]


def test_everything_copied_exists_and_is_not_ignored() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = {source for sources, _ in copied() for source in sources}
    assert sources == let_in
    assert all((ROOT / source).exists() for source in sources)


# Compose


def compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service: dict[str, Any] = loaded["services"]["jobpipe"]
    (volume,) = [entry.split(":")[0] for entry in service["volumes"]]
    assert volume in loaded["volumes"]
    return service


def test_compose_waits_longer_than_the_server_before_it_kills() -> None:
    assert compose()["stop_grace_period"] == "40s"


def test_compose_keeps_tasks_in_a_named_volume() -> None:
    assert compose()["volumes"] == ["jobpipe-data:/data"]


def test_compose_asks_the_health_and_publishes_on_this_machine_alone() -> None:
    service = compose()
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "/healthz" in service["healthcheck"]["test"][-1]
    compile(service["healthcheck"]["test"][-1], "healthcheck", "exec")
    assert service["ports"] == ["127.0.0.1:8080:8080"]


def many_servers() -> dict[str, Any]:
    """The services of the profile `postgres`, as they are with what they share merged in."""
    services: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return {name: service for name, service in services.items() if "profiles" in service}


def test_compose_has_a_profile_of_two_servers_and_two_workers_on_one_database() -> None:
    services = many_servers()
    assert set(services) == {"postgres", "server-1", "server-2", "worker-1", "worker-2"}
    assert all(service["profiles"] == ["postgres"] for service in services.values())
    servers = [services["server-1"], services["server-2"]]
    (store,) = {server["environment"]["JOBPIPE_STORE"] for server in servers}
    assert store.startswith("postgresql://")
    assert "@postgres/" in store
    assert [server["ports"] for server in servers] == [["127.0.0.1:8081:8080"], ["127.0.0.1:8082:8080"]]
    assert all(server["depends_on"]["postgres"]["condition"] == "service_healthy" for server in servers)


def test_the_workers_of_compose_work_for_a_server_each_and_find_their_app() -> None:
    for number in (1, 2):
        worker = many_servers()[f"worker-{number}"]
        assert f"http://server-{number}:8080" in worker["command"]
        assert worker["depends_on"] == [f"server-{number}"]
        folder, place, _ = worker["volumes"][0].split(":")
        assert worker["working_dir"] == place
        assert (ROOT / folder / "tasks.py").is_file()


def test_the_database_of_compose_is_not_published_and_keeps_its_data() -> None:
    database = many_servers()["postgres"]
    assert "ports" not in database
    volumes = yaml.safe_load((ROOT / "compose.yaml").read_text())["volumes"]
    assert database["volumes"][0].split(":")[0] in volumes


# CI and make


def test_ci_checks_every_python_on_push_and_pull_request() -> None:
    loaded = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    # `on` is a boolean to YAML 1.1.
    assert set(loaded[True]) == {"push", "pull_request"}
    job = loaded["jobs"]["check"]
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert "make check" in [step.get("run") for step in job["steps"]]


def test_the_script_of_ci_runs_checks_benchmarks_and_the_example_and_stops_at_a_failure() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    text = script.read_text()
    commands = (
        "set -euo pipefail",
        "export CI=true",
        "make check COVERAGE=1 AGAIN=1",
        "make bench BENCH_ARGS=--quick",
    )
    assert all(re.search(f"^{re.escape(command)}$", text, re.MULTILINE) for command in commands)
    assert "examples/simulate.sh" in text


def make(*arguments: str) -> str:
    # The run under test may itself come from make: its flags must not reach this one.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        env=clean,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_target() -> None:
    phony = " ".join(re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))
    listed = [line.split()[0] for line in make("help").splitlines()]
    assert sorted(listed) == sorted(phony.split())
    assert {"run", "test", "test_race", "coverage", "vet", "check", "bench", "build", "docker-build"} <= set(
        listed
    )


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_alone_runs_the_server_and_an_example_brings_its_extra() -> None:
    assert "jobpipe serve" in make("-n")
    assert "[examples]" not in make("-n", "-W", "pyproject.toml", "run", "APP=mine:app")
    shown = make("-n", "-W", "pyproject.toml", "run", "APP=examples.thumbnails:app")
    assert "[examples]" in shown
    assert "jobpipe serve examples.thumbnails:app" in shown


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_what_ci_installs_is_pinned_by_hash_and_what_people_install_is_not() -> None:
    # Named as changed, the project is installed anew: by its pins, or by what it asks for.
    pinned = make("-n", "-W", "pyproject.toml", "vet", "PINNED=1")
    assert "--require-hashes -r constraints/ci.txt" in pinned
    assert "--no-deps --no-build-isolation -e ." in pinned
    assert "'.[dev]'" not in pinned
    newest = make("-n", "-W", "pyproject.toml", "vet", "PINNED=")
    assert "constraints" not in newest
    assert "'.[dev]'" in newest
    assert re.search(r'^export PINNED="\$\{PINNED-1\}"', (ROOT / ".ci/run").read_text(), re.MULTILINE)
    ci = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    assert ci["env"] == {"PINNED": "1"}
    assert ci["jobs"]["newest"]["env"] == {"PINNED": ""}
    assert "make check" in [step.get("run") for step in ci["jobs"]["newest"]["steps"]]
    installs = [line.rest for line in BUILDER + FINAL if "pip install" in line.rest]
    assert installs
    assert all("--require-hashes -r " in line for line in installs)


# What is pinned


def pins(name: str) -> dict[str, tuple[Version, int]]:
    """The versions in a file of constraints, with how many hashes each has."""
    text = (ROOT / "constraints" / name).read_text()
    assert "://" not in text
    found: dict[str, tuple[Version, int]] = {}
    for entry in re.split(r"\n(?=[a-zA-Z])", "\n".join(text.splitlines()[1:])):
        project, version = re.match(r"([\w.-]+)==([\w.!+]+)", entry).groups()  # type: ignore[union-attr]
        found[canonicalize_name(project)] = (Version(version), entry.count("--hash=sha256:"))
    return found


def needed(name: str, extras: frozenset[str] = frozenset()) -> Iterator[Requirement]:
    """What an installed project needs here, and what that needs."""
    wanted, seen = [(name, extras)], set()
    while wanted:
        project, chosen = wanted.pop()
        for text in metadata.requires(project) or ():
            one = Requirement(text)
            if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in chosen or {""}):
                continue
            yield one
            if (key := (canonicalize_name(one.name), frozenset(one.extras))) not in seen:
                seen.add(key)
                wanted.append(key)


@pytest.mark.parametrize(("name", "extra"), [("image.txt", "postgres"), ("ci.txt", "dev")])
def test_everything_that_is_installed_is_pinned_with_hashes_and_fits(name: str, extra: str) -> None:
    pinned = pins(name)
    for one in needed("jobpipe", frozenset({"", extra})):
        if (project := canonicalize_name(one.name)) == "jobpipe":
            continue
        assert project in pinned, f"{name} lacks {one}: run .ci/pin.py"
        assert one.specifier.contains(pinned[project][0], prereleases=True), f"{one} in {name}"
    assert all(hashes >= 1 for _, hashes in pinned.values())


def test_what_builds_the_wheel_is_pinned() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for name in ("build.txt", "ci.txt"):
        pinned = pins(name)
        for one in map(Requirement, [*build, "editables"]):
            assert one.specifier.contains(pinned[canonicalize_name(one.name)][0]), f"{one} in {name}"


# The Dockerfile's own lines, carried out


class Image:
    """The folders that stand for those of the image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")

    def placed(self, text: str) -> str:
        """`text` with the image's folders replaced by ours."""
        return re.sub(r"(?<![\w.])/(wheels|data|src)\b", lambda match: str(self.folder / match[1]), text)

    def environ(self, **more: str) -> Mapping[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("JOBPIPE_")}
        return inherited | {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"} | more

    def shell(self, command: str) -> None:
        """Run a RUN line, which may touch nothing outside of our folders."""
        placed = self.placed(command)
        ours = placed.replace(str(self.folder), "").replace("/wheels", "").replace("constraints/", "")
        assert "/" not in ours.replace("/*.whl", "").replace("/image.txt", "")
        ran = subprocess.run(
            placed,
            shell=True,
            cwd=self.folder / "src",
            env=self.environ(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """What the Dockerfile's COPY and pip lines make, in a fresh environment."""
    made = Image(tmp_path)
    (tmp_path / "data").mkdir()
    for sources, target in copied():
        for source in sources:
            _copy(ROOT / source, tmp_path / "src" / target / (source if target.endswith("/") else ""))
    venv.create(tmp_path / "venv", with_pip=True)
    for line in BUILDER + FINAL:
        if line.word == "RUN" and line.rest.startswith("python -m pip "):
            made.shell(line.rest)
    return made


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def started(image: Image, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Mapping[str, str]]]:
    """The server of the image, by its own start line and variables; on loopback, because a test opens no door."""
    variables = {name: image.placed(value) for name, value in environment().items()}
    env = image.environ(**variables | {"JOBPIPE_HOST": "127.0.0.1", "JOBPIPE_PORT": str(port)})
    command = exec_form(only(FINAL, "ENTRYPOINT")) + exec_form(only(FINAL, "CMD"))
    command[0] = str(image.bin / command[0])
    with subprocess.Popen(command, cwd=image.placed(only(FINAL, "WORKDIR")), env=dict(env)) as server:
        yield server, env
        server.kill()


@pytest.mark.process
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform == "win32", reason="the lines of the Dockerfile are for a POSIX shell")
def test_the_lines_of_the_dockerfile_build_and_start_a_server_that_stops_cleanly(
    image: Image, started: tuple[subprocess.Popen[bytes], Mapping[str, str]]
) -> None:
    server, env = started
    assert not (image.folder / "wheels").exists()
    _wait_healthy(image, server, env)
    assert (image.folder / "data" / "jobpipe.db").exists()
    server.send_signal(getattr(signal, only(FINAL, "STOPSIGNAL")))
    assert server.wait(timeout=30) == 0


def _wait_healthy(image: Image, server: subprocess.Popen[bytes], env: Mapping[str, str]) -> None:
    """Ask by the image's own health check until it is well."""
    _, *arguments = health_check()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        asked = subprocess.run([image.bin / "python", *arguments], env=env, capture_output=True, check=False)
        if asked.returncode == 0:
            return
        try:
            code = server.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the server ended with {code}")
    pytest.fail(f"not healthy after 30 s: {asked.stderr.decode()}")


def test_no_two_test_files_have_one_name() -> None:
    """pytest takes them for one module, and then runs nothing at all."""
    names = [
        file.name
        for file in (ROOT / "tests").rglob("*.py")
        if file.name not in ("__init__.py", "conftest.py")
    ]
    assert sorted(names) == sorted(set(names))
