"""Charts in SVG, drawn by hand: every dot says what it is, and may be a link. No scripts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .digits import Axis

WIDTH, HEIGHT = 360, 250
"""In units of which a letter is 12 high: at the width of a phone a unit is about a pixel."""
LETTER = 7.2
"""Width of a letter."""
MOST_DOTS = 2000
"""Dots of a chart that say what they are; of more, only outliers do."""

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
SHAPES = (
    "m-3.2 0a3.2 3.2 0 1 0 6.4 0a3.2 3.2 0 1 0-6.4 0z",
    "m-3-3h6v6h-6z",
    "m0-4.2l4.2 4.2l-4.2 4.2l-4.2-4.2z",
    "m0-4l4 7h-8z",
    "m0 4l4-7h-8z",
    "m-4 0l7-4v8z",
    "m4 0l-7-4v8z",
    "m-1.4-4h2.8v2.6h2.6v2.8h-2.6v2.6h-2.8v-2.6h-2.6v-2.8h2.6z",
)
RING = "m-7 0a7 7 0 1 0 14 0a7 7 0 1 0-14 0z"
FAR_COLOUR = "#D55E00"
INK, DIM, LINE = "#1b1f24", "#57606a", "#d0d7de"


@dataclass(frozen=True)
class Dot:
    """A dot of a chart.

    Attributes
    ----------
    x, y : float
    text : str
        What it is.
    group : str
        Dots of a group look alike.
    far : bool
        An outlier: there is a ring around it.
    href : str
        Where a click leads, if anywhere.
    """

    x: float
    y: float
    text: str
    group: str = ""
    far: bool = False
    href: str = ""


def chart(dots: Sequence[Dot], x: Axis, y: Axis, title: str) -> str:
    """An SVG of dots. Groups differ in colour and shape, in the order of their names.

    Parameters
    ----------
    dots : sequence of Dot
    x, y : Axis
    title : str
        For those who do not see the chart; what it shows should be told beside it.
    """
    groups = sorted({dot.group for dot in dots})
    legend, top = _legend(groups, any(dot.far for dot in dots))
    left = 12 + LETTER * max((len(text) for _, text in y.ticks), default=1)
    frame = left, WIDTH - 14.0, top, HEIGHT - 42.0
    named = len(dots) <= MOST_DOTS
    drawn = []
    for i, group in enumerate(groups):
        own = [dot for dot in dots if dot.group == group]
        if not named:
            crowd = [_at(dot, x, y, frame) for dot in own if not dot.far]
            path = "".join(f"M{u:.1f} {v:.1f}h0" for u, v in crowd)
            drawn.append(
                f'<path d="{path}" fill="none" stroke="{COLOURS[i % len(COLOURS)]}" '
                'stroke-width="5" stroke-linecap="round"/>'
            )
        shown = [_dot(dot, *_at(dot, x, y, frame), i) for dot in own if named or dot.far]
        drawn.append(
            f'<g fill="{COLOURS[i % len(COLOURS)]}" stroke="{INK}" stroke-width=".5">'
            f"{''.join(shown)}</g>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="12" '
        f'fill="{INK}">{_axes(x, y, frame)}{legend}{"".join(drawn)}</svg>'
    )


def without_links(svg: str) -> str:
    """A chart for another place, from which its links would lead nowhere."""
    return re.sub(r"</?a\b[^>]*>", "", svg)


Frame = tuple[float, float, float, float]
"""Left, right, top, bottom."""


def _at(dot: Dot, x: Axis, y: Axis, frame: Frame) -> tuple[float, float]:
    return _place(dot.x, x, frame[0], frame[1]), _place(dot.y, y, frame[3], frame[2])


def _place(value: float, axis: Axis, begin: float, end: float) -> float:
    return begin + (value - axis.low) / (axis.high - axis.low) * (end - begin)


def _dot(dot: Dot, u: float, v: float, i: int) -> str:
    """A mark; what is around it belongs to it, so that a finger finds it."""
    at = f"M{u:.1f} {v:.1f}"
    ring = f'<path d="{at}{RING}" fill="none" stroke="{FAR_COLOUR}" stroke-width="2"/>'
    mark = (
        f"<g><title>{escape(dot.text)}</title>"
        f'<path d="{at}{RING}" fill="none" stroke="none" pointer-events="all"/>'
        f'{ring if dot.far else ""}<path d="{at}{SHAPES[i % len(SHAPES)]}"/></g>'
    )
    # The table has the same links for those who use a keyboard.
    return f'<a href="{escape(dot.href)}" tabindex="-1">{mark}</a>' if dot.href else mark


def _legend(groups: Sequence[str], far: bool) -> tuple[str, float]:
    """The legend, below the name of the vertical axis, and where the chart may begin."""
    entries = [
        (name, f'<path d="MX Y{SHAPES[i % len(SHAPES)]}" fill="{COLOURS[i % len(COLOURS)]}" '
         f'stroke="{INK}" stroke-width=".5"/>')
        for i, name in enumerate(groups)
        if name
    ]  # fmt: skip
    if far:
        ring = f'<path d="MX Y{RING}" fill="none" stroke="{FAR_COLOUR}" stroke-width="2"/>'
        entries.append(("outlier", ring))
    u, v, drawn = 10.0, 33.0, []
    for name, mark in entries:
        wide = 24 + LETTER * len(name)
        if u + wide > WIDTH and u > 10:
            u, v = 10.0, v + 18
        drawn.append(mark.replace("MX Y", f"M{u:.1f} {v - 4:.1f}"))
        drawn.append(f'<text x="{u + 11:.1f}" y="{v:.1f}">{escape(name)}</text>')
        u += wide
    return "".join(drawn), (v + 14 if entries else 26.0)


def _axes(x: Axis, y: Axis, frame: Frame) -> str:
    left, right, top, bottom = frame
    parts = [f'<text x="2" y="14">{escape(y.label)}</text>']
    for value, text in y.ticks:
        v = _place(value, y, bottom, top)
        parts.append(f'<path d="M{left:.1f} {v:.1f}H{right:.1f}" stroke="{LINE}"/>')
        parts.append(
            f'<text x="{left - 6:.1f}" y="{v + 4:.1f}" text-anchor="end" fill="{DIM}">'
            f"{escape(text)}</text>"
        )
    for value, text in x.ticks:
        u, half = _place(value, x, left, right), LETTER * len(text) / 2
        parts.append(f'<path d="M{u:.1f} {bottom:.1f}v5" stroke="{DIM}"/>')
        parts.append(
            f'<text x="{min(u, WIDTH - half):.1f}" y="{bottom + 18:.1f}" text-anchor="middle" '
            f'fill="{DIM}">{escape(text)}</text>'
        )
    parts.append(f'<path d="M{left:.1f} {bottom:.1f}H{right:.1f}" stroke="{DIM}"/>')
    middle = (left + right) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x.label)}</text>'
    )
    return "".join(parts)
