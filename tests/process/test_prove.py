"""The proofs run from their command, say what they found, and can be repeated by their seed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def prove(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prove", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_a_proof_prints_its_figures_and_writes_them_for_programs(tmp_path: Path) -> None:
    file = tmp_path / "prove.json"
    ran = prove("--short", "--only", "same_id", "--only", "once", "--seed", "5", "--json", str(file))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "seed 5" in ran.stdout
    written = json.loads(file.read_text())
    assert [result["name"] for result in written["results"]] == ["same_id", "once"]
    figures = {figure["name"]: figure["value"] for figure in written["results"][0]["figures"]}
    assert figures["ids"] > 0
    assert figures["ids not stored exactly once"] == 0


def test_an_unknown_proof_is_refused() -> None:
    ran = prove("--only", "everything")
    assert ran.returncode == 2
    assert "everything" in ran.stderr
