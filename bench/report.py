"""From the values of all rounds to the table for people and the file for programs."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import apsw

from bench.cases import FIGURES, Figure
from bench.limits import LIMITS

Rounds = Mapping[str, Sequence[float]]
"""A value per round, by name."""
Row = tuple[str, ...]


def table(figures: Rounds, limits: Rounds) -> str:
    """All figures and then all limits, aligned."""
    measured = [_figure_row(name, figures[name], limits) for name in FIGURES if name in figures]
    bounds = [_limit_row(name, limits[name]) for name in LIMITS if name in limits]
    head: Row = ("figure", "median", "min - max", "target", "", "times the limit")
    between: Row = ("limit", "median", "min - max", "", "", "called")
    return _aligned([head, *measured, ("",) * 6, between, *bounds])


def document(figures: Rounds, limits: Rounds, *, quick: bool) -> dict[str, Any]:
    """The same as one JSON object."""
    return {
        "machine": machine(),
        "quick": quick,
        "figures": {name: _entry(FIGURES[name], values, limits) for name, values in figures.items()},
        "limits": {
            name: {"title": LIMITS[name].title, "unit": LIMITS[name].unit, "values": list(values)}
            for name, values in limits.items()
        },
    }


def machine() -> dict[str, str | int | None]:
    """What the figures depend on beside the program."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "uvicorn": version("uvicorn"),
        "jobpipe": version("jobpipe"),
    }


def _entry(figure: Figure, values: Sequence[float], limits: Rounds) -> dict[str, Any]:
    return {
        "title": figure.title.strip(),
        "unit": figure.unit,
        "values": list(values),
        "median": statistics.median(values),
        "target": figure.target,
        "ok": _reached(figure, values),
        "ratios": {name: _ratio(values, limits[name]) for name in figure.limits},
    }


def _figure_row(name: str, values: Sequence[float], limits: Rounds) -> Row:
    figure = FIGURES[name]
    ratios = [f"{_ratio(values, limits[name]):.2f} {LIMITS[name].short}" for name in figure.limits]
    target, verdict = "", ""
    if figure.target is not None:
        target = f"{'<=' if figure.at_most else '>='} {figure.target:,g}"
        verdict = "ok" if _reached(figure, values) else "below"
    return figure.title, *_middle(values, figure.unit), target, verdict, ", ".join(ratios)


def _limit_row(name: str, values: Sequence[float]) -> Row:
    limit = LIMITS[name]
    return limit.title, *_middle(values, limit.unit), "", "", limit.short


def _middle(values: Sequence[float], unit: str) -> tuple[str, str]:
    """The median and, of several rounds, the spread."""
    spread = f"{_number(min(values))} - {_number(max(values))}" if len(values) > 1 else ""
    return f"{_number(statistics.median(values))} {unit:<2}", spread


def _reached(figure: Figure, values: Sequence[float]) -> bool | None:
    if figure.target is None:
        return None
    median = statistics.median(values)
    return median <= figure.target if figure.at_most else median >= figure.target


def _ratio(values: Sequence[float], limit: Sequence[float]) -> float:
    """The median of the ratios, each within its round; a round that broke has limits and no figure."""
    return statistics.median(value / bound for value, bound in zip(values, limit, strict=False))


def _number(value: float) -> str:
    """Three digits are all that such a figure is worth."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _aligned(rows: Sequence[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    lines = []
    for row in rows:
        title, median, spread, target, verdict, ratios = (
            cell.ljust(width) if column in (0, 4, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        lines.append("  ".join([title, median, spread, target, verdict, ratios]).rstrip())
    return "\n".join(lines)
