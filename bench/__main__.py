"""`python -m bench`: measure, and print each figure beside its target and the limits of the same run.

The exit code is 0 when everything could be measured, whatever the figures; 1 when something broke.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from bench import limits, report
from bench.cases import CASES
from bench.client import BenchError
from bench.sizes import FULL, QUICK, Sizes

Values = dict[str, list[float]]


def main() -> int:
    """Measure what the command line asks for; what was measured before something broke is shown as well."""
    arguments = _arguments()
    figures: Values = {}
    bounds: Values = {}
    code = 0
    try:
        for number in range(1, arguments.rounds + 1):
            _say(f"round {number} of {arguments.rounds}")
            _round(arguments.only or list(CASES), QUICK if arguments.quick else FULL, figures, bounds)
    except (BenchError, OSError, subprocess.TimeoutExpired) as error:
        _say(f"bench: error: {error}")
        code = 1
    print(_head(arguments.quick, arguments.rounds))
    print(report.table(figures, bounds))
    if arguments.json:
        document = report.document(figures, bounds, quick=arguments.quick)
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document)) + b"\n")
    return code


def _round(names: list[str], sizes: Sizes, figures: Values, bounds: Values) -> None:
    _say("  limits")
    with tempfile.TemporaryDirectory(prefix="jobpipe-bench-") as folder:
        _add(bounds, limits.measure(Path(folder), sizes))
    for name in names:
        _say(f"  {name}")
        with tempfile.TemporaryDirectory(prefix="jobpipe-bench-") as folder:
            _add(figures, CASES[name](Path(folder), sizes))


def _add(values: Values, measured: dict[str, float]) -> None:
    for name, value in measured.items():
        values.setdefault(name, []).append(value)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure a Jobpipe server.")
    parser.add_argument("--quick", action="store_true", help="tiny counts: only shows that everything runs")
    parser.add_argument(
        "--rounds", type=_at_least_one, help="rounds to take the median of (3; 1 with --quick)"
    )
    parser.add_argument(
        "--only", action="append", choices=list(CASES), help="measure this alone; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the values of all rounds there too")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _head(quick: bool, rounds: int) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in report.machine().items())
    kind = "quick: shows that everything runs, far too short to judge by" if quick else f"rounds: {rounds}"
    return f"{machine}\n{kind}\n"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
