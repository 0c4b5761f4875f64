"""Numbers as people compare them: equal digits in a column, few round ticks on an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

MORE = 3
"""Digits by which the largest number of a column may exceed the significant ones."""
MOST_STEPS = 6
"""Between the ticks of an axis."""
LETTERS = 39
"""That fit along an axis of time."""
DAY = 86400.0
STEPS = (
    *(1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 3 * 3600, 6 * 3600, 12 * 3600),
    *(DAY * days for days in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)),
)
"""Steps between ticks of an axis of time, s."""


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes
    ----------
    low, high : float
        Its ends.
    ticks : list of (float, str)
        Where they are, and what they say.
    label : str
    """

    low: float
    high: float
    ticks: list[tuple[float, str]]
    label: str


def same_digits(values: Sequence[float | None], significant: int) -> list[str]:
    """Numbers with equally many digits after the point, ``-`` for those that are not known.

    A number of the median size has so many significant digits; the largest at most `MORE` more.
    """
    known = [abs(v) for v in values if v is not None and math.isfinite(v)]
    sizes = [v for v in known if v]
    places = 0
    if sizes:
        usual = significant - 1 - _power(float(np.median(sizes)))
        places = max(min(usual, significant + MORE - 1 - _power(max(sizes))), 0)
    return ["-" if v is None or not math.isfinite(v) else f"{v:z.{places}f}" for v in values]


def _power(value: float) -> int:
    return math.floor(math.log10(value))


def number_axis(low: float, high: float, title: str, unit: str = "") -> Axis:
    """An axis of numbers; very small or large ones are given in units of a power of ten."""
    power = _power(max(abs(low), abs(high)))
    scale = 10.0**power if power < -4 or power > 5 else 1.0
    step = _step((high - low) / scale)
    places = max(-_power(step), 0)
    first, last = math.ceil(low / scale / step - 1e-9), math.floor(high / scale / step + 1e-9)
    ticks = [(i * step * scale, f"{i * step:z.{places}f}") for i in range(first, last + 1)]
    said = f"1e{power} {unit}".strip() if scale != 1 else unit
    return Axis(low, high, ticks, f"{title} ({said})" if said else title)


def _step(span: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that makes at most `MOST_STEPS` steps."""
    power = 10.0 ** _power(span / MOST_STEPS)
    return next(f * power for f in (1, 2, 5, 10) if span <= MOST_STEPS * f * power * (1 + 1e-9))


def counting_axis(n: int, label: str) -> Axis:
    """An axis from 1 to `n`, with ticks at whole numbers."""
    step = max(round(_step(n)), 1)
    ticks = [i for i in range(1, n + 1) if i % step == 0]
    return Axis(0.5, n + 0.5, [(float(i), str(i)) for i in ticks], label)


def time_axis(times: Sequence[float], label: str) -> Axis:
    """An axis of time.

    Parameters
    ----------
    times : sequence of float
        Seconds since 1970, UTC; at least two that differ.
    label : str
        The date is added.
    """
    first, last = min(times), max(times)
    low, high = first - 0.03 * (last - first), last + 0.03 * (last - first)
    begin, end = (datetime.fromtimestamp(t, UTC) for t in (first, last))

    def form(step: float) -> str:
        if step >= DAY:
            return "%m-%d" if begin.year == end.year else "%Y-%m-%d"
        dated = high - low > DAY  # or two ticks would say the same
        return "%m-%d %H:%M" if dated else "%H:%M" if step >= 60 else "%H:%M:%S"

    def fits(step: float) -> bool:
        return (high - low) / step <= LETTERS // (len(begin.strftime(form(step))) + 1) - 1

    step = next(filter(fits, STEPS), STEPS[-1])
    numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
    times = [i * step for i in numbers]
    if len(times) < 2:  # hardly a round one
        times = [first, last]
    ticks = [(t, datetime.fromtimestamp(t, UTC).strftime(form(step))) for t in times]
    days = sorted({f"{begin:%Y-%m-%d}", f"{end:%Y-%m-%d}"})
    return Axis(low, high, ticks, f"{label}, {' to '.join(days)}")
