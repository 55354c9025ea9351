"""The benchmarks run: each prints its table beside the limits of the same run, and writes the file for programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench import guard, openloop, overload

import postgres

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def bench(*arguments: str, module: str = "bench") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
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
    assert re.search(
        r"\d\.\d\d HTTP/64, \d\.\d\d protocol/64, \d\.\d\d SQLite/64$", lines["enqueue, 64 connections"]
    )
    assert "<= 2" in lines["pick-up when idle, sent to started, p50"]
    assert lines["bare SQLite, 64 rows a commit"].endswith("SQLite/64")

    written = json.loads(file.read_text())
    assert written["quick"] is True
    assert written["figures"].keys() >= {"parallel", "pickup_p50"}
    assert all(value > 0 for value in written["figures"]["parallel"]["values"])
    assert set(written["figures"]["parallel"]["ratios"]) == {"http_64", "protocol_64", "sqlite_64"}


def test_rounds_are_counted_and_show_their_spread() -> None:
    ran = bench("--quick", "--rounds", "2", "--only", "idle")
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("start to first 200")]
    assert " - " in line


def test_levels_are_measured_beside_one_on_both_engines() -> None:
    postgres.require()
    ran = bench("--most", "2000", "--rounds", "1", "--claims", "2", module="bench.levels")
    assert ran.returncode == 0, ran.stderr
    for engine in ("SQLite", "PostgreSQL"):
        one, many = (line for line in ran.stdout.splitlines() if line.startswith(f"| {engine}, "))
        assert [one.split("|")[3].strip(), one.split("|")[5].strip()] == ["1.00", "1.00"]
        assert "1,000 x 2" in many


def test_a_database_that_is_far_away_is_measured() -> None:
    postgres.require()
    ran = bench("--ms", "5", "--tasks", "128", module="bench.far")
    assert ran.returncode == 0, ran.stderr
    cells = ran.stdout.splitlines()[-1].split("|")[1:-1]
    assert len(cells) == 7
    assert all(float(cell.replace(",", "")) > 0 for cell in cells)


def test_claims_with_two_backlogs_are_shown_with_their_ratio() -> None:
    postgres.require()
    ran = bench("--most", "2000", "--rounds", "2", "--claims", "2", module="bench.backlog")
    assert ran.returncode == 0, ran.stderr
    assert re.search(
        r"^ +1,000 waiting .*^ +2,000 waiting .*^ratio \d\.\d\d, target >= 0\.9$", ran.stdout, re.M | re.S
    )


def test_an_unknown_benchmark_is_refused() -> None:
    ran = bench("--only", "everything")
    assert ran.returncode == 2
    assert "everything" in ran.stderr


def test_growth_shows_a_line_for_each_size() -> None:
    ran = bench("--rounds", "1", "--most", "1000", module="bench.growth")
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("| 1k waiting")]
    assert all(cell.strip() for cell in line.strip("|").split("|"))


def test_overload_refuses_what_is_too_much_and_nothing_else() -> None:
    plan = openloop.Steady(port=0, request=overload.TASK, rate=3000, seconds=1)
    with overload._server("--workers", "4", "--queue-size", "20", "--processes", "0") as server:
        answers = openloop.offer(msgspec.structs.replace(plan, port=server.port))
    assert set(answers.statuses) == {"202", "503"}
    assert sum(answers.statuses.values()) == 3000


def test_jobpipe_is_measured_as_its_peers_are() -> None:
    ran = bench("--rounds", "1", "--scale", "0.05", "--only", "Jobpipe, memory:", module="bench.peers")
    assert ran.returncode == 0, ran.stderr
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("| Jobpipe, memory: |")][:1]
    assert all(cell.strip() for cell in line.strip("|").split("|"))


def test_the_guard_knows_every_ratio_that_it_compares() -> None:
    assert msgspec.json.decode(guard.STORED.read_bytes()).keys() == guard.RATIOS.keys()
