"""The audit of CI: it fails on a known vulnerability, and only warns when nothing can be known."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "audit.py"


@pytest.fixture
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clean(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": []}


def vulnerable(name: str) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}


def unknown(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": "Dependency not found"}


def test_a_vulnerability_fails_and_is_named(audit: ModuleType) -> None:
    code, lines = audit.judge({"dependencies": [clean("a"), vulnerable("b"), unknown("c")]})
    assert code == 1
    assert lines[0] == "b 1.0: PYSEC-1, mended in 1.1"
    assert lines[-1] == "2 packages audited, 1 vulnerabilities"


def test_the_tools_of_the_environment_are_left_out(audit: ModuleType) -> None:
    code, lines = audit.judge({"dependencies": [clean("a"), vulnerable("setuptools"), vulnerable("pip")]})
    assert (code, lines) == (0, ["1 packages audited, 0 vulnerabilities"])


def test_where_nothing_is_known_of_any_package_it_warns(audit: ModuleType) -> None:
    code, lines = audit.judge({"dependencies": [unknown("a"), vulnerable("pip")]})
    assert code == 0
    assert lines == ["warning: the advisories could not be reached, nothing was audited"]


@pytest.mark.parametrize("said", ["", "Traceback ...", None])
def test_without_a_report_it_warns(
    said: str | None, audit: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(command: Any, timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        if said is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, 1, stdout=said, stderr="cannot resolve the name")

    monkeypatch.setattr(subprocess, "run", run)
    assert audit.main() == 0
    assert capsys.readouterr().out.startswith("warning: ")


def test_ci_runs_it() -> None:
    assert ".venv/bin/python .ci/audit.py" in (SCRIPT.parent / "run").read_text().splitlines()
