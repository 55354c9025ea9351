"""The benchmarks run: each prints its table beside the limits of the same run, and writes the file for programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_quick_run_prints_figures_beside_targets_and_limits(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    ran = bench("--quick", "--only", "parallel", "--only", "pickup", "--json", str(file))

    assert ran.returncode == 0, ran.stderr
    lines = {line.split("  ")[0]: line for line in ran.stdout.splitlines()}
    assert ">= 10,000" in lines["enqueue, 64 connections"]
    assert re.search(r"\d\.\d\d HTTP/64, \d\.\d\d SQLite/64$", lines["enqueue, 64 connections"])
    assert "<= 2" in lines["pick-up when idle, sent to started, p50"]
    assert lines["bare SQLite, 64 rows a commit"].endswith("SQLite/64")

    written = json.loads(file.read_text())
    assert written["quick"] is True
    assert written["figures"].keys() >= {"parallel", "pickup_p50"}
    assert all(value > 0 for value in written["figures"]["parallel"]["values"])
    assert set(written["figures"]["parallel"]["ratios"]) == {"http_64", "sqlite_64"}


def test_rounds_are_counted_and_show_their_spread() -> None:
    ran = bench("--quick", "--rounds", "2", "--only", "idle")
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("start to first 200")]
    assert " - " in line


def test_an_unknown_benchmark_is_refused() -> None:
    ran = bench("--only", "everything")
    assert ran.returncode == 2
    assert "everything" in ran.stderr
