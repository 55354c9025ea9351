"""Drawings for the documents: plain SVG, made from the values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#2f6f9f", "#d07f2b", "#5f8f3f", "#8a4f8f", "#555555", "#b03a48")
LEFT, TOP, WIDTH, HEIGHT, RIGHT, BOTTOM = 60, 40, 520, 240, 190, 40


def lines(title: str, names: Sequence[str], series: Mapping[str, Sequence[float]]) -> str:
    """One line per series over the `names` on the x axis; the y axis begins at 0."""
    most = max((max(values) for values in series.values()), default=1.0) * 1.1 or 1.0
    step = WIDTH / max(1, len(names) - 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + RIGHT}" height="{TOP + HEIGHT + BOTTOM}" '
        'font-family="system-ui, sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="20" fill="#222">{escape(title)}</text>',
        *_axes(names, most, step),
    ]
    for values, colour in zip(series.values(), COLOURS * 9, strict=False):
        places = [(LEFT + i * step, _y(value, most)) for i, value in enumerate(values)]
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    for i, (name, colour) in enumerate(zip(series, COLOURS * 9, strict=False)):
        y, x = TOP + 14 + i * 18, LEFT + WIDTH + 20
        parts.append(f'<rect x="{x}" y="{y - 9}" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 16}" y="{y}" fill="#222">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _axes(names: Sequence[str], most: float, step: float) -> list[str]:
    parts = []
    for i in range(5):
        value = most * i / 4
        y = _y(value, most)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{LEFT + WIDTH}" y2="{y:.1f}" stroke="#dddddd"/>')
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#444">{value:,.3g}</text>'
        )
    for i, name in enumerate(names):
        x = LEFT + i * step
        parts.append(
            f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle" fill="#444">{escape(name)}</text>'
        )
    return parts


def _y(value: float, most: float) -> float:
    return TOP + HEIGHT * (1 - value / most)
