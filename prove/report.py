"""From figures to the table for people, the file for programs, and the page of docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import apsw
from msgspec import Struct

from prove.proof import Figure, Size


class Result(Struct):
    """What a proof found: `figures`, or the `error` that stopped it, or what was missing for it (`skipped`)."""

    name: str
    rows: tuple[int, ...]
    title: str
    figures: list[Figure] = []
    seconds: float = 0.0
    error: str | None = None
    skipped: str | None = None

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against the promise; a skipped proof does not."""
        return self.error is None and all(figure.holds for figure in self.figures)

    @property
    def verdict(self) -> str:
        """One word for people."""
        if self.skipped is not None:
            return f"skipped: {self.skipped}"
        if self.error is not None:
            return "broke"
        return "held" if self.holds else "NOT HELD"


class Run(Struct):
    """All results of one command, with what repeats it."""

    machine: dict[str, str]
    began: str
    size: Size
    seed: int
    results: list[Result]


def machine() -> dict[str, str]:
    """What the figures depend on beside the program."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(os.cpu_count()),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "jobpipe": version("jobpipe"),
    }


def now() -> str:
    """The date and time, for people."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def head(run: Run) -> str:
    """One line: where, when, how much, and the seed that repeats it."""
    about = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    return f"{about}; {run.began}; {run.size} counts, seed {run.seed}"


def table(run: Run) -> str:
    """Every proof with its verdict, and below it each figure, `!` before those that break a promise."""
    lines = [head(run), ""]
    for result in run.results:
        rows = ", ".join(map(str, result.rows))
        lines.append(
            f"{rows:>5}  {result.name:<12} {result.verdict:<9} {result.seconds:6.0f} s  {result.title}"
        )
        width = max((len(figure.name) for figure in result.figures), default=0)
        for figure in result.figures:
            mark = " " if figure.holds else "!"
            lines.append(f"     {mark} {figure.name:<{width}}  {shown(figure):>12}{_bound(figure)}")
        if result.error:
            lines.append(result.error)
    return "\n".join(lines)


def markdown(run: Run) -> str:
    """The same as a table for the documentation."""
    lines = ["| # | proof | figures | |", "|---|---|---|---|"]
    for result in run.results:
        rows = ", ".join(map(str, result.rows))
        lines.append(f"| {rows} | `{result.name}` | {_cell(result.figures)} | {result.verdict} |")
    return f"{head(run)}\n\n" + "\n".join(lines)


def shown(figure: Figure) -> str:
    """The value with its unit: counts whole, times with what they are worth."""
    value = f"{figure.value:,.0f}" if float(figure.value).is_integer() else f"{figure.value:,.3g}"
    return f"{value} {figure.unit}".rstrip()


def _cell(figures: Sequence[Figure]) -> str:
    return "; ".join(
        f"{figure.name} **{shown(figure)}**" if _bounded(figure) else f"{figure.name} {shown(figure)}"
        for figure in figures
    )


def _bounded(figure: Figure) -> bool:
    return figure.at_most is not None or figure.at_least is not None


def _bound(figure: Figure) -> str:
    if figure.at_most is not None:
        return f"  (at most {figure.at_most:,g})"
    return "" if figure.at_least is None else f"  (at least {figure.at_least:,g})"
