"""`python -m prove`: make the faults, compare, and print what was found as a table.

The exit code is 0 when every promise held, 1 when one did not or a proof could not be carried out. Several proofs run
as processes of their own, so that what one leaves behind disturbs no other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from prove import report
from prove.proof import Size, Trial
from prove.proofs import PROOFS
from prove.report import Result, Run

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    """Carry out what the command line asks for."""
    arguments = _arguments()
    names: list[str] = arguments.only or list(PROOFS)
    began = report.now()
    alone = len(names) == 1
    results = [_prove(names[0], arguments.seed, arguments.size)] if alone else _prove_all(names, arguments)
    run = Run(report.machine(), began, arguments.size, arguments.seed, results)
    print(report.table(run))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(run)) + b"\n")
    return 0 if all(result.holds for result in results) else 1


def _prove(name: str, seed: int, size: Size) -> Result:
    proof = PROOFS[name]
    missing = proof.needs()
    if missing is not None:
        return Result(name, proof.rows, proof.title, skipped=missing)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"jobpipe-prove-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            figures = list(proof.run(Trial(Path(folder), seed, size)))
            error = None
        except Exception:  # noqa: BLE001 - whatever stopped a proof is told in its row
            figures, error = [], traceback.format_exc()
            _say(error)
    return Result(name, proof.rows, proof.title, figures, time.monotonic() - began, error)


def _prove_all(names: Sequence[str], arguments: argparse.Namespace) -> list[Result]:
    """Side by side what only counts; alone, one after the other, what judges time."""
    beside = [name for name in names if not PROOFS[name].timed]
    with tempfile.TemporaryDirectory(prefix="jobpipe-prove-") as folder:

        def child(name: str) -> Result:
            return _in_child(name, arguments, Path(folder) / f"{name}.json")

        found = {name: child(name) for name in names if name not in beside}
        with ThreadPoolExecutor(arguments.jobs) as pool:
            found |= dict(zip(beside, pool.map(child, beside), strict=True))
    return [found[name] for name in names]


def _in_child(name: str, arguments: argparse.Namespace, file: Path) -> Result:
    _say(f"{name} ...")
    command = [sys.executable, "-m", "prove", "--only", name, f"--{arguments.size}"]
    command += ["--seed", str(arguments.seed), "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if not file.exists():
        proof = PROOFS[name]
        return Result(name, proof.rows, proof.title, error=f"it ended with {done.returncode}:\n{done.stderr}")
    (result,) = msgspec.json.decode(file.read_bytes(), type=Run).results
    _say(f"{name}: {result.verdict} after {result.seconds:.0f} s{_tail(result)}")
    return result


def _tail(result: Result) -> str:
    return f"\n{result.error}" if result.error else ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prove", description="Prove Jobpipe's promises.")
    parser.add_argument("--only", action="append", choices=list(PROOFS), help="this alone; may be repeated")
    size = parser.add_mutually_exclusive_group()
    for name in Size:
        size.add_argument(
            f"--{name}", dest="size", action="store_const", const=name, default=Size.DEFAULT,
            help=f"the {name} counts",
        )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="repeats a run (1)")
    parser.add_argument("--jobs", type=int, default=2, help="so many proofs side by side, where sound (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
