"""Exact medians and quartiles in two passes over the data, without a copy and without sorting."""

from __future__ import annotations

import numpy as np

from .jit import kernel


@kernel
def _select(bits, ranks):
    """The `ranks`-th smallest (ascending) of float32 values given as uint32, as uint32.

    Positive floats are ordered as their bits are, negative ones the other way round: `key` is
    ordered as the values. Its upper half is counted first, then the lower half of those keys whose
    upper half is that of one of the answers.
    """
    half, sign, low_half = np.uint32(16), np.uint32(0x80000000), np.uint32(0xFFFF)
    counts = np.zeros(1 << 16, np.int64)
    for i in range(len(bits)):
        b = bits[i]
        key = ~b if b & sign else b | sign
        counts[key >> half] += 1
    # Of the upper halves, those that have an answer get a table of counts each; 0: all others.
    number = np.zeros(1 << 16, np.uint8)
    high = np.zeros(len(ranks), np.int64)
    rest = np.zeros(len(ranks), np.int64)
    place, below, tables = 0, 0, 0
    for r in range(len(ranks)):
        while ranks[r] >= below + counts[place]:
            below += counts[place]
            place += 1
        high[r], rest[r] = place, ranks[r] - below
        if number[place] == 0:
            tables += 1
            number[place] = tables
    lower = np.zeros((tables + 1, 1 << 16), np.int64)
    for i in range(len(bits)):
        b = bits[i]
        key = ~b if b & sign else b | sign
        table = number[key >> half]
        if table:
            lower[table, key & low_half] += 1
    out = np.empty(len(ranks), np.uint32)
    for r in range(len(ranks)):
        low, before = 0, 0
        while rest[r] >= before + lower[number[high[r]], low]:
            before += lower[number[high[r]], low]
            low += 1
        key = np.uint32((high[r] << 16) | low)
        out[r] = key ^ sign if key & sign else ~key
    return out


@kernel
def _any_nan(bits):
    found = np.uint32(0)
    for i in range(len(bits)):
        found |= np.uint32((bits[i] & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000))
    return found != 0


def median(values: np.ndarray) -> float:
    """What ``numpy.median`` gives for float32, ten times faster on a million values.

    Parameters
    ----------
    values : ndarray of float32
        At least one.

    Returns
    -------
    float
        NaN if there is a NaN. The mean of the two middle values is rounded to float32.
    """
    bits = _bits(values)
    n = len(bits)
    if _any_nan(bits):
        return float("nan")
    middle = np.arange((n - 1) // 2, n // 2 + 1)
    return float(_select(bits, middle).view(np.float32).mean())


def quartiles(values: np.ndarray) -> tuple[float, float, float]:
    """What ``numpy.percentile(values.astype(float), [25, 50, 75])`` gives for float32.

    Parameters
    ----------
    values : ndarray of float32
        At least one.

    Returns
    -------
    tuple of float
        Interpolated between the two nearest values in float64; NaN if there is a NaN.
    """
    bits = _bits(values)
    if _any_nan(bits):
        return (float("nan"),) * 3
    last = len(bits) - 1
    places = [last * quarter / 4 for quarter in (1, 2, 3)]
    ranks = np.array([rank for p in places for rank in (int(p), min(int(p) + 1, last))])
    found = _select(bits, ranks).view(np.float32).astype(float)
    low, mid, high = (
        _between(float(a), float(b), p - int(p))
        for a, b, p in zip(found[::2], found[1::2], places, strict=True)
    )
    return low, mid, high


def _between(a: float, b: float, part: float) -> float:
    """Linear interpolation, as NumPy rounds it."""
    return b - (b - a) * (1 - part) if part >= 0.5 else a + (b - a) * part


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(-1).view(np.uint32)
