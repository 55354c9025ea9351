"""`python -m bench.guard`: has anything become slower? Key ratios beside the stored ones.

A ratio is a figure divided by what the same machine gave to something simpler in the same minute, so that it means
the same on another machine. One that falls below 0.7 of the stored value is measured again, up to three times; when it
never reaches it, the exit code is 1. `--store` writes what was measured into `bench/guard.json`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from statistics import median

import msgspec

from bench import limits
from bench.cases import CASES
from bench.sizes import Sizes

STORED = Path(__file__).with_name("guard.json")
TRIES = 3
ENOUGH = 0.7
RATIOS = {
    "parallel": ("parallel", "http_64"),
    "array": ("array", "http_64"),
    "done": ("done", "http_64"),
    "drain": ("drain", "http_64"),
}
"""By the name of the case: its figure, and the limit that it is divided by. All of these are bound by the processor, so
the limit is as well: a disk that syncs faster must not look like a slower server."""
SIZES = Sizes(
    single=500, parallel=10_000, batches=40, done=10_000, drain=60_000, pickups=50, idle_s=1.0,
    http_1=1_000, http_64=20_000, commits_1=500, commits_64=400, commits_1000=40,
)  # fmt: skip


def measure(cases: list[str]) -> dict[str, float]:
    """The ratio of each case."""
    with tempfile.TemporaryDirectory(prefix="jobpipe-guard-") as folder:
        bounds = limits.measure(Path(folder), SIZES)
    found = {}
    for case in cases:
        figure, limit = RATIOS[case]
        with tempfile.TemporaryDirectory(prefix="jobpipe-guard-") as folder:
            found[case] = CASES[case](Path(folder), SIZES)[figure] / bounds[limit]
    return found


def main() -> int:
    """Compare, and say which ratio fell."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.guard", description="Compare key ratios with stored ones."
    )
    parser.add_argument(
        "--store", action="store_true", help="store the medians of three measurements instead"
    )
    if parser.parse_args().store:
        rounds = [measure(list(RATIOS)) for _ in range(TRIES)]
        stored = {case: round(median(found[case] for found in rounds), 4) for case in RATIOS}
        STORED.write_bytes(msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
        print(STORED.read_text())
        return 0
    return 1 if _fallen(msgspec.json.decode(STORED.read_bytes(), type=dict[str, float])) else 0


def _fallen(stored: dict[str, float]) -> list[str]:
    """The cases whose ratio was too low each time."""
    left = list(RATIOS)
    for number in range(1, TRIES + 1):
        found = measure(left)
        for case, ratio in found.items():
            share = ratio / stored[case]
            print(
                f"try {number}: {case:10} {ratio:.4f}, stored {stored[case]:.4f}, {share:.2f} of it",
                flush=True,
            )
        left = [case for case, ratio in found.items() if ratio < ENOUGH * stored[case]]
        if not left:
            return []
    print(f"slower than {ENOUGH:g} of what is stored, {TRIES} times: {', '.join(left)}", file=sys.stderr)
    return left


if __name__ == "__main__":
    sys.exit(main())
