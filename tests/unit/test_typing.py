"""What type checkers make of the API: mypy reads `tests/typing/api.py`, whose wrong lines say which error they want."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "typing" / "api.py"


def test_mypy_finds_the_wrong_calls_and_no_others() -> None:
    wanted = {
        (number, code)
        for number, line in enumerate(FILE.read_text().splitlines(), 1)
        for code in re.findall(r"# E: ([a-z-]+)", line)
    }
    command = [sys.executable, "-m", "mypy", "--strict", str(FILE)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    found = {
        (int(number), code)
        for number, code in re.findall(
            r"^tests/typing/api\.py:(\d+): error: .*\[([a-z-]+)\]$", run.stdout, re.M
        )
    }
    assert found == wanted, run.stdout + run.stderr
    assert len(wanted) > 10
