"""`python -m prove.fill FILE.json ...`: put the figures of runs into docs/reliability.md, between its two marks.

Proofs that were run one by one, each with its own file, make one table for each size. A proof is shown at the largest
that it was run at; of one that is in several files of a size, the last counts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from prove import report
from prove.proof import Size
from prove.proofs import PROOFS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def filled(page: str, runs: Sequence[report.Run]) -> str:
    """The page with the figures of `runs`, a table each, in place of what stood there."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    tables = "\n\n".join(report.markdown(run) for run in runs)
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def joined(runs: Sequence[report.Run]) -> list[report.Run]:
    """One run for each size, the largest first, of what several did."""
    tables: list[report.Run] = []
    shown: set[str] = set()
    for size in (Size.FULL, Size.DEFAULT, Size.SHORT):
        of_size = [run for run in runs if run.size == size]
        found = {result.name: result for run in of_size for result in run.results if result.name not in shown}
        if found:
            first = min(of_size, key=lambda run: run.began)
            tables.append(replace(first, results=[found[name] for name in PROOFS if name in found]))
            shown |= found.keys()
    return tables


def main() -> None:
    """Fill the page from the files that the command line names."""
    runs = [msgspec.json.decode(Path(name).read_bytes(), type=report.Run) for name in sys.argv[1:]]
    PAGE.write_text(filled(PAGE.read_text("utf-8"), joined(runs)), "utf-8")


if __name__ == "__main__":
    main()
