"""Exact medians and quartiles in two passes over the data, without a copy and without sorting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from .jit import kernel

Parts = Callable[[], Iterable[np.ndarray]]
"""Yields the values in pieces. It is called twice, so they need not all be in memory at once."""

_LOWEST, _HIGHEST = 0x0080, 0xFF7F
"""Upper halves of the keys of the lowest and the highest finite float32."""


@kernel
def _count_upper(bits, counts):
    """Count the upper halves of the keys of float32 values given as uint32; returns whether any is
    NaN.

    Positive floats sort like their bits, negative ones in reverse: keys sort like the values.
    """
    half, sign = np.uint32(16), np.uint32(0x80000000)
    size, largest = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
    nan = False
    for i in range(len(bits)):
        b = bits[i]
        key = ~b if b & sign else b | sign
        counts[key >> half] += 1
        nan |= (b & size) > largest
    return nan


@kernel
def _locate(counts, ranks, number, high, rest):
    """The upper half of the `ranks`-th smallest key (ascending), and its rank among those keys.

    Upper halves that have an answer get a number from 1 on, one for each table of `_count_lower`;
    returns how many.
    """
    place, below, tables = 0, 0, 0
    for r in range(len(ranks)):
        while ranks[r] >= below + counts[place]:
            below += counts[place]
            place += 1
        high[r], rest[r] = place, ranks[r] - below
        if number[place] == 0:
            tables += 1
            number[place] = tables
    return tables


@kernel
def _count_lower(bits, number, lower):
    """Count the lower halves of the keys whose upper half has a number, in the table of it."""
    half, sign, low_half = np.uint32(16), np.uint32(0x80000000), np.uint32(0xFFFF)
    for i in range(len(bits)):
        b = bits[i]
        key = ~b if b & sign else b | sign
        table = number[key >> half]
        if table:
            lower[table, key & low_half] += 1


@kernel
def _assemble(number, lower, high, rest, out):
    """The values, as uint32."""
    sign = np.uint32(0x80000000)
    for r in range(len(high)):
        low, before = 0, 0
        while rest[r] >= before + lower[number[high[r]], low]:
            before += lower[number[high[r]], low]
            low += 1
        key = np.uint32((high[r] << 16) | low)
        out[r] = key ^ sign if key & sign else ~key


def _select(
    parts: Parts, ranks: Callable[[int], Sequence[int]], finite: bool = False
) -> np.ndarray | None:
    """The values at `ranks` (ascending, a function of the number of values); None if any is NaN.

    With `finite`, values that are not finite are ignored; None if there are no others.
    """
    counts = np.zeros(1 << 16, np.int64)
    nan = False
    for part in parts():
        nan |= _count_upper(_bits(part), counts)
    if finite:  # the upper halves of infinity and NaN lie at either end
        counts[:_LOWEST], counts[_HIGHEST + 1 :] = 0, 0
        nan = not counts.any()
    if nan:
        return None
    wanted = np.array(ranks(int(counts.sum())), np.int64)
    number, (high, rest) = np.zeros(1 << 16, np.uint8), np.zeros((2, len(wanted)), np.int64)
    tables = _locate(counts, wanted, number, high, rest)
    lower = np.zeros((tables + 1, 1 << 16), np.int64)
    for part in parts():
        _count_lower(_bits(part), number, lower)
    out = np.empty(len(wanted), np.uint32)
    _assemble(number, lower, high, rest, out)
    return out.view(np.float32)


def median(values: np.ndarray, finite: bool = False) -> float:
    """What ``numpy.median`` gives for float32, ten times faster on a million values.

    Parameters
    ----------
    values : ndarray of float32
        At least one.
    finite : bool
        Ignore values that are not finite.

    Returns
    -------
    float
        NaN if any value is NaN; with `finite`, if no value is finite. The mean of the two
        middle values is rounded to float32.
    """
    found = _select(lambda: [values], lambda n: range((n - 1) // 2, n // 2 + 1), finite)
    return float("nan") if found is None else float(found.mean())


def quartiles(parts: Parts, finite: bool = False) -> tuple[float, float, float]:
    """What ``numpy.percentile(values.astype(float), [25, 50, 75])`` gives for float32.

    Parameters
    ----------
    parts : callable
        Returns the values in pieces, ndarrays of float32, each time it is called; at least one
        value in all.
    finite : bool
        Ignore values that are not finite.

    Returns
    -------
    tuple of float
        Interpolated between the two nearest values in float64; NaN if any value is NaN; with
        `finite`, if no value is finite.
    """
    places: list[float] = []

    def ranks(n: int) -> list[int]:
        places[:] = [(n - 1) * quarter / 4 for quarter in (1, 2, 3)]
        return [rank for p in places for rank in (int(p), min(int(p) + 1, n - 1))]

    found = _select(parts, ranks, finite)
    if found is None:
        return (float("nan"),) * 3
    found = found.astype(float)
    low, mid, high = (
        _interpolate(float(a), float(b), p - int(p))
        for a, b, p in zip(found[::2], found[1::2], places, strict=True)
    )
    return low, mid, high


def _interpolate(a: float, b: float, part: float) -> float:
    """Linear interpolation, as NumPy rounds it."""
    return b - (b - a) * (1 - part) if part >= 0.5 else a + (b - a) * part


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
