"""`python -m prove.fill FILE.json ...`: put the figures of a run into docs/reliability.md, between its two marks.

Proofs that were run one by one, each with its own file, make one table; of one that is in several, the last counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from prove import report
from prove.proofs import PROOFS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def filled(page: str, run: report.Run) -> str:
    """The page with the figures of `run` in place of what stood there."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{report.markdown(run)}\n\n{END}{after}"


def joined(runs: Sequence[report.Run]) -> report.Run:
    """One run of what several did. Raises ValueError when their counts differ in size."""
    if len({run.size for run in runs}) != 1:
        raise ValueError("runs of different sizes make no table")
    found = {result.name: result for run in runs for result in run.results}
    first = min(runs, key=lambda run: run.began)
    return replace(first, results=[found[name] for name in PROOFS if name in found])


def main() -> None:
    """Fill the page from the files that the command line names."""
    runs = [msgspec.json.decode(Path(name).read_bytes(), type=report.Run) for name in sys.argv[1:]]
    PAGE.write_text(filled(PAGE.read_text("utf-8"), joined(runs)), "utf-8")


if __name__ == "__main__":
    main()
