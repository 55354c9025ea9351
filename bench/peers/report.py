"""The results as Markdown, JSON and a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import NamedTuple

Values = dict[str, list[float]]


class Row(NamedTuple):
    """One queue: what was measured in each round, or why nothing was."""

    name: str
    durable: str
    settings: str
    values: Values
    problem: str | None = None


COLUMNS = {
    "enqueue": "enqueue /s",
    "batch": "in batches /s",
    "drain": "drain /s",
    "through": "enqueue to done /s",
    "pickup_p50": "pick-up p50 ms",
    "pickup_p99": "p99 ms",
    "worker_mb": "worker MB",
    "service_mb": "server MB",
}
DRAWN = ("enqueue", "drain", "through")


def markdown(rows: Sequence[Row], machine: Mapping[str, str], rounds: int) -> str:
    """The page: figures, then settings and durability of each."""
    lines = [
        f"Medians of {rounds} rounds, in brackets the least and the greatest. {_machine(machine)}",
        "",
        "| queue | " + " | ".join(COLUMNS.values()) + " |",
        "|---|" + "---:|" * len(COLUMNS),
    ]
    for row in rows:
        cells = (
            [row.problem or "", *[""] * (len(COLUMNS) - 1)]
            if row.problem
            else [_cell(row, key) for key in COLUMNS]
        )
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    lines += ["", "| queue | when the enqueue returns, the task is | settings |", "|---|---|---|"]
    lines += [f"| {row.name} | {row.durable} | {row.settings} |" for row in rows]
    return "\n".join(lines) + "\n"


def document(rows: Sequence[Row], machine: Mapping[str, str], rounds: int) -> dict[str, object]:
    """The same for programs: the values of all rounds."""
    return {"machine": machine, "rounds": rounds, "queues": [row._asdict() for row in rows]}


def drawing(rows: Sequence[Row]) -> str:
    """An SVG: bars for enqueue, drain and the way through, the fastest drain on top."""
    shown = sorted(
        (row for row in rows if "drain" in row.values), key=lambda row: -median(row.values["drain"])
    )
    most = max((median(row.values[key]) for row in shown for key in DRAWN if key in row.values), default=1.0)
    bar, gap, left, width = 11, 10, 190, 560
    high = (bar * len(DRAWN) + gap) * len(shown) + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{high}" '
        f'font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    colours = dict(zip(DRAWN, ("#2f6f9f", "#d07f2b", "#5f8f3f"), strict=True))
    for i, key in enumerate(DRAWN):
        parts.append(f'<rect x="{left + i * 150}" y="12" width="11" height="11" fill="{colours[key]}"/>')
        parts.append(f'<text x="{left + i * 150 + 16}" y="22" fill="#222">{COLUMNS[key]}</text>')
    for i, row in enumerate(shown):
        top = 40 + i * (bar * len(DRAWN) + gap)
        parts.append(
            f'<text x="{left - 10}" y="{top + 22}" text-anchor="end" fill="#222">{escape(row.name)}</text>'
        )
        for j, key in enumerate(DRAWN):
            if key not in row.values:
                continue
            value = median(row.values[key])
            long, y = max(1.0, value / most * width), top + j * bar
            parts.append(
                f'<rect x="{left}" y="{y}" width="{long:.1f}" height="{bar - 1}" fill="{colours[key]}"/>'
            )
            parts.append(
                f'<text x="{left + long + 5:.1f}" y="{y + 9}" font-size="10" fill="#444">{value:,.0f}</text>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _cell(row: Row, key: str) -> str:
    values = row.values.get(key)
    if not values:
        return ""
    shown = "{:,.1f}" if key.startswith("pickup") else "{:,.0f}"
    if len(values) == 1:
        return shown.format(values[0])
    return f"{shown} ({shown}-{shown})".format(median(values), min(values), max(values))


def _machine(machine: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in machine.items()) + "."
