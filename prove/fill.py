"""`python -m prove.fill FILE.json`: put the figures of a run into docs/reliability.md, between its two marks."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from prove import report

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def filled(page: str, run: report.Run) -> str:
    """The page with the figures of `run` in place of what stood there."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{report.markdown(run)}\n\n{END}{after}"


def main() -> None:
    """Fill the page from the file that the command line names."""
    run = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=report.Run)
    PAGE.write_text(filled(PAGE.read_text("utf-8"), run), "utf-8")


if __name__ == "__main__":
    main()
