"""Linearity polynomials on the pixels of one channel in one row.

Kernels work on segments of a row, in loops that the compiler turns into vector instructions. A
segment never crosses the border between two channels, so that one table of the integral
non-linearity, which fills half of a second-level cache, serves many segments in turn. Nothing here
depends on where a segment begins or ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.detector import CHANNEL_WIDTH
from ..core.dq import GROUP
from ..core.jit import kernel

WIDTH = CHANNEL_WIDTH
"""Most pixels of a segment: its coefficients in float64 fit into the first-level cache."""

_SATURATED = np.uint8(GROUP["SATURATED"])


class Segment(NamedTuple):
    """Work arrays of a segment."""

    single: np.ndarray
    """Coefficients of the linearity, (C, WIDTH) of float32."""
    p: np.ndarray
    """The same in float64,"""
    q: np.ndarray
    """and those of the inverse."""
    reads: np.ndarray
    """Estimated signal of each read of a resultant, (most reads, WIDTH) of float64, DN."""
    z: np.ndarray
    """Argument of a polynomial, (WIDTH,) of float64,"""
    acc: np.ndarray
    """and its value."""
    total: np.ndarray
    start: np.ndarray
    """Linear signal of the first resultant, DN,"""
    rate: np.ndarray
    """and its increase, DN per read."""
    gap: np.ndarray
    """Reads between the two resultants that the rate is made of."""
    argument: np.ndarray
    """Signal of a resultant, (WIDTH,) of float32, DN."""
    low: np.ndarray
    high: np.ndarray
    count: np.ndarray
    """Resultants that are not saturated, int64."""
    result: np.ndarray
    """Linear signal, (R, WIDTH) of float32, DN."""
    bad: np.ndarray
    """Of bool: pixels whose linearity, [0], or inverse, [1], cannot be used."""


def new_segment(n_resultants: int, n_p: int, n_q: int, most_reads: int) -> Segment:
    """Work arrays for polynomials of n_p and n_q coefficients."""
    z, acc, total, start, rate, gap = (np.empty(WIDTH) for _ in range(6))
    argument, low, high = (np.empty(WIDTH, np.float32) for _ in range(3))
    return Segment(
        np.empty((max(n_p, 2), WIDTH), np.float32),
        np.empty((max(n_p, 2), WIDTH)),
        np.empty((max(n_q, 2), WIDTH)),
        np.empty((most_reads, WIDTH)),
        z,
        acc,
        total,
        start,
        rate,
        gap,
        argument,
        low,
        high,
        np.empty(WIDTH, np.int64),
        np.empty((n_resultants, WIDTH), np.float32),
        np.empty((2, WIDTH), np.bool_),
    )


@kernel
def load(source, y, x0, m, limits, bad, target):
    """Coefficients (C, y, x) of a segment into `target`, the identity where they cannot be used.

    These are pixels that `bad` already names, and those with a NaN, a coefficient above
    ``limits[0]`` in magnitude, or a linear term that is 0 or not from ``limits[1]`` to
    ``limits[2]``; `bad` gets them too. Returns the highest order with any coefficient but 0, at
    least 1.
    """
    n = len(source)
    largest, least, most = limits
    for k in range(len(target)):
        if k < n:
            row, to = source[k, y, x0 : x0 + m], target[k]
            for i in range(m):
                to[i] = row[i]
                bad[i] |= not abs(row[i]) <= largest
        else:
            to = target[k]
            for i in range(m):
                to[i] = 0
    slope = target[1]
    for i in range(m):
        bad[i] |= (slope[i] == 0) | (not slope[i] >= least) | (not slope[i] <= most)
    for i in range(m):
        if bad[i]:
            for k in range(len(target)):
                target[k, i] = 1.0 if k == 1 else 0.0
    top = len(target) - 1
    while top > 1:
        used, row = False, target[top]
        for i in range(m):
            used |= row[i] != 0
        if used:
            break
        top -= 1
    return top


@kernel
def horner(c, top, z, acc, m):
    """Polynomials with coefficients c, ascending, at z, by Horner's rule from order `top` down."""
    a = c[top]
    for i in range(m):
        acc[i] = a[i]
    k = top - 1
    # Five orders at a time: the sums stay in registers.
    while k >= 4:
        c4, c3, c2, c1, c0 = c[k], c[k - 1], c[k - 2], c[k - 3], c[k - 4]
        for i in range(m):
            x = z[i]
            v = acc[i] * x + c4[i]
            v = v * x + c3[i]
            v = v * x + c2[i]
            v = v * x + c1[i]
            acc[i] = v * x + c0[i]
        k -= 5
    while k >= 0:
        c0 = c[k]
        for i in range(m):
            acc[i] = acc[i] * z[i] + c0[i]
        k -= 1


@kernel
def add_correction(u, table, values, unit, m):
    """Add the integral non-linearity at u, interpolated linearly in `table` at the readings
    `values` and constant beyond their ends; `unit`: they rise in steps of 1."""
    n = len(table)
    first, final = values[0], values[n - 1]
    if unit:
        last = np.uint32(n - 1)
        for i in range(m):
            x = u[i] if u[i] > first else first  # NaN becomes the first; the sum stays NaN
            x = x if x < final else final
            j = np.uint32(np.int32(x - first))
            below = table[j]
            above = table[min(j + np.uint32(1), last)]
            u[i] += (above - below) * (x - (first + np.float64(j))) + below
        return
    for i in range(m):
        if not u[i] > first:
            u[i] += table[0]
        elif u[i] >= final:
            u[i] += table[n - 1]
        else:
            j = np.searchsorted(values, u[i], "right") - 1
            slope = (table[j + 1] - table[j]) / (values[j + 1] - values[j])
            u[i] += slope * (u[i] - values[j]) + table[j]


@kernel
def light(s, ramp, groupdq, y, x0, m, means, raw, top):
    """The straight line of linear signal against reads, into `s.start` and `s.rate`.

    It leads through the first resultant and the last but one that is not saturated.
    """
    n = len(ramp)
    for i in range(m):
        s.count[i] = 0
    for j in range(n):
        flags, count = groupdq[j, y, x0 : x0 + m], s.count
        for i in range(m):
            count[i] += (flags[i] & _SATURATED) == 0
    for j in range(n):
        signal, end, count, gap = ramp[j, y, x0 : x0 + m], s.argument, s.count, s.gap
        reads = means[j] - means[0]
        for i in range(m):
            chosen = max(count[i] - 1, 2) - 1 == j
            end[i] = signal[i] if chosen else end[i]
            gap[i] = reads if chosen else gap[i]
    first = ramp[0, y, x0 : x0 + m]
    horner(s.single, top, first, s.low, m)
    horner(s.single, top, s.argument, s.high, m)
    if raw:
        for i in range(m):
            if groupdq[0, y, x0 + i] & _SATURATED:
                s.low[i] = first[i]
            e = max(s.count[i] - 1, 2) - 1
            if groupdq[e, y, x0 + i] & _SATURATED:
                s.high[i] = s.argument[i]
    start, rate, low, high, gap = s.start, s.rate, s.low, s.high, s.gap
    for i in range(m):
        start[i] = low[i]
        rate[i] = (np.float64(high[i]) - start[i]) / gap[i]


@kernel
def mean_of_reads(s, signal, times, inverse_top, top, table, values, unit, m):
    """The linear signal of a resultant, the mean over its reads, into `s.total`.

    `times`: reads after the middle of the first resultant. Each read is where the inverse
    polynomial has it, all of them shifted so that their mean is the measured `signal`.
    """
    n = len(times)
    total, start, rate, z, acc = s.total, s.start, s.rate, s.z, s.acc
    if n == 1:
        u = s.reads[0]
        for i in range(m):
            u[i] = signal[i]
    else:
        for i in range(m):
            total[i] = 0.0
        for r in range(n):
            u, time = s.reads[r], times[r]
            for i in range(m):
                z[i] = start[i] + rate[i] * time
            horner(s.q, inverse_top, z, u, m)
            for i in range(m):
                total[i] += u[i]
        shift = s.z
        for i in range(m):
            shift[i] = signal[i] - total[i] / n
        for r in range(n):
            u = s.reads[r]
            for i in range(m):
                u[i] += shift[i]
    for i in range(m):
        total[i] = 0.0
    for r in range(n):
        u = s.reads[r]
        if len(table):
            add_correction(u, table, values, unit, m)
        horner(s.p, top, u, acc, m)
        for i in range(m):
            total[i] += acc[i]
    for i in range(m):
        total[i] /= n
