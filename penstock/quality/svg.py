"""Small pictures as inline SVG: they need no script, and scale with the page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 220.0, 56.0


def histogram(shares: Sequence[float], low: str, high: str) -> str:
    """Bars of equal width, their ends named."""
    most = max(shares, default=0.0) or 1.0
    width = _WIDTH / max(1, len(shares))
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{_HEIGHT * (1 - share / most):.1f}" '
        f'width="{max(0.5, width - 1):.1f}" height="{_HEIGHT * share / most:.1f}">'
        f"<title>{share:.1%}</title></rect>"
        for place, share in enumerate(shares)
    )
    ends = (
        f'<text x="0" y="{_HEIGHT + 12}">{escape(low)}</text>'
        f'<text x="{_WIDTH}" y="{_HEIGHT + 12}" text-anchor="end">{escape(high)}</text>'
    )
    return _svg(bars + ends, _WIDTH, _HEIGHT + 16, "histogram")


def bars(values: Sequence[tuple[str, int]], total: int, shown: int = 8) -> str:
    """A bar a value, its share of all written beside it."""
    few, height = values[:shown], 14.0
    most = max((count for _, count in few), default=1) or 1
    lines = list[str]()
    for place, (text, count) in enumerate(few):
        y = place * height
        name = text if len(text) <= 18 else f"{text[:17]}…"
        share = count / total if total else 0.0
        lines.append(
            f'<rect x="110" y="{y + 2:.1f}" width="{70 * count / most:.1f}" height="10">'
            f"<title>{escape(text)}: {count:,}</title></rect>"
            f'<text x="106" y="{y + 11:.1f}" text-anchor="end">{escape(name) or "(empty)"}</text>'
            f'<text x="{114 + 70 * count / most:.1f}" y="{y + 11:.1f}">{share:.1%}</text>'
        )
    return _svg("".join(lines), _WIDTH, max(1, len(few)) * height + 2, "bars")


def line(values: Sequence[float | None], titles: Sequence[str], *, top: float | None = None) -> str:
    """A line through values, each a point that names itself; gaps where there is none."""
    there = [value for value in values if value is not None]
    low = min([0.0, *there]) if top is not None else min(there, default=0.0)
    high = top if top is not None else max(there, default=1.0)
    high = high if high > low else low + 1
    width, height, edge = 150.0, 26.0, 3.0
    step = (width - 2 * edge) / max(1, len(values) - 1)
    points = [
        (edge + place * step, edge + (height - 2 * edge) * (1 - (value - low) / (high - low)))
        for place, value in enumerate(values)
        if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    named = [title for title, value in zip(titles, values, strict=True) if value is not None]
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2"><title>{escape(title)}</title></circle>'
        for (x, y), title in zip(points, named, strict=True)
    )
    return _svg(f'<polyline points="{path}"/>{dots}', width, height, "line")


def stacked(parts: Sequence[tuple[int, int]], titles: Sequence[str]) -> str:
    """A column each: how much was good, and on top of it how much was bad."""
    most = max((good + bad for good, bad in parts), default=0) or 1
    width, height = 640.0, 90.0
    step = min(28.0, width / max(1, len(parts)))
    drawn = list[str]()
    for place, ((good, bad), title) in enumerate(zip(parts, titles, strict=True)):
        up, over = height * good / most, height * bad / most
        over = max(over, 1.5) if bad else 0.0
        x, wide = place * step, max(1.0, step - 2)
        drawn.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect x="{x:.1f}" y="{height - up:.1f}" width="{wide:.1f}" height="{up:.1f}"/>'
            f'<rect class="bad" x="{x:.1f}" y="{max(0.0, height - up - over):.1f}" '
            f'width="{wide:.1f}" height="{over:.1f}"/></g>'
        )
    return _svg("".join(drawn), width, height, "stacked")


def _svg(inner: str, width: float, height: float, kind: str) -> str:
    return (
        f'<svg class="{kind}" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img">{inner}</svg>'
    )
