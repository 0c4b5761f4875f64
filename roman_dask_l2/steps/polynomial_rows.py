"""Linearity polynomials on the pixels of one channel in one row.

Kernels work on segments of a row, in loops that the compiler turns into vector instructions. A
segment never crosses the border between two channels, each of which has its own table of the
integral non-linearity. Nothing here depends on where a segment begins or ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.detector import CHANNEL_WIDTH
from ..core.dq import GROUP
from ..core.jit import kernel

WIDTH = CHANNEL_WIDTH
"""Most pixels of a segment: its coefficients in float64 fit into the first-level cache."""

SLACK, SHARE = np.float32(100), np.float32(0.05)
"""DN, and share of the signal, by which inverse and polynomial together may miss it: the difference
between reads is what counts, and a constant error drops out of it."""

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
    """Argument or value of a polynomial, (1, WIDTH) of float64."""
    total: np.ndarray
    start: np.ndarray
    """Linear signal of the first resultant, (WIDTH,) of float64, DN,"""
    rate: np.ndarray
    """and its increase, DN per read,"""
    gap: np.ndarray
    """which is that between two resultants so many reads apart."""
    ends: np.ndarray
    """Their signal, (2, WIDTH) of float32, DN,"""
    linear: np.ndarray
    """and linear signal."""
    second: np.ndarray
    """The second of the two, int64."""
    result: np.ndarray
    """Linear signal, (R, WIDTH) of float32, DN."""
    bad: np.ndarray
    """Of bool: pixels whose linearity, [0], or inverse, [1], cannot be used."""


def new_segment(n_resultants: int, n_p: int, n_q: int, most_reads: int) -> Segment:
    """Work arrays for polynomials of n_p and n_q coefficients."""
    total, start, rate, gap = (np.empty(WIDTH) for _ in range(4))
    return Segment(
        np.empty((max(n_p, 2), WIDTH), np.float32),
        np.empty((max(n_p, 2), WIDTH)),
        np.empty((max(n_q, 2), WIDTH)),
        np.empty((most_reads, WIDTH)),
        np.empty((1, WIDTH)),
        total,
        start,
        rate,
        gap,
        np.empty((2, WIDTH), np.float32),
        np.empty((2, WIDTH), np.float32),
        np.empty(WIDTH, np.int64),
        np.empty((n_resultants, WIDTH), np.float32),
        np.empty((2, WIDTH), np.bool_),
    )


@kernel
def _copy(source, target, k, bad, which, largest, m):
    for i in range(m):
        value = source[i]
        target[k, i] = value
        bad[which, i] |= not abs(value) <= largest


@kernel
def any_saturated(flags, m):
    """Whether one of the resultant flags is SATURATED, and whether all are."""
    some, every = np.uint8(0), _SATURATED
    for i in range(m):
        some |= flags[i]
        every &= flags[i]
    return (some & _SATURATED) != 0, every != 0


@kernel
def use_identity(target, bad, which, m):
    for i in range(m):
        if bad[which, i]:
            for k in range(len(target)):
                target[k, i] = 1.0 if k == 1 else 0.0


@kernel
def load(source, y, x0, m, limits, bad, which, target):
    """Coefficients (C, y, x) of a segment into `target`, the identity where they cannot be used.

    These are pixels that ``bad[which]`` already names, and those with a NaN, a coefficient above
    ``limits[0]`` in magnitude, or a linear term that is 0 or not from ``limits[1]`` to
    ``limits[2]``; it gets them too. Returns the highest order with any coefficient but 0, at
    least 1.
    """
    n, orders = len(source), len(target)
    largest, least, most = limits
    for k in range(n):
        _copy(source[k, y, x0 : x0 + m], target, k, bad, which, largest, m)
    for k in range(n, orders):
        for i in range(m):
            target[k, i] = 0
    found = False
    for i in range(m):
        slope = target[1, i]
        bad[which, i] |= (slope == 0) | (not slope >= least) | (not slope <= most)
        found |= bad[which, i]
    if found:
        use_identity(target, bad, which, m)
    top = orders - 1
    while top > 1:
        used = False
        for i in range(m):
            used |= target[top, i] != 0
        if used:
            break
        top -= 1
    return top


@kernel
def _five(c, k, z, row, acc, to, m):
    """Orders k to k - 4: the sums stay in registers."""
    for i in range(m):
        x = z[row, i]
        v = acc[to, i] * x + c[k, i]
        v = v * x + c[k - 1, i]
        v = v * x + c[k - 2, i]
        v = v * x + c[k - 3, i]
        acc[to, i] = v * x + c[k - 4, i]


@kernel
def _two(c, k, z, row, acc, to, m):
    for i in range(m):
        x = z[row, i]
        v = acc[to, i] * x + c[k, i]
        acc[to, i] = v * x + c[k - 1, i]


@kernel
def _one(c, k, z, row, acc, to, m):
    for i in range(m):
        acc[to, i] = acc[to, i] * z[row, i] + c[k, i]


@kernel
def horner(c, top, z, row, acc, to, m):
    """Polynomials with coefficients c (ascending) at ``z[row]``, into ``acc[to]``, by Horner's rule
    from order `top` down.

    Rows are passed by their numbers, because a view of an array costs as much as dozens of sums.
    The loops over pixels have functions of their own, because the compiler makes vector
    instructions of them only where no loop is around.
    """
    for i in range(m):
        acc[to, i] = c[top, i]
    k = top - 1
    while k >= 4:
        _five(c, k, z, row, acc, to, m)
        k -= 5
    while k >= 1:
        _two(c, k, z, row, acc, to, m)
        k -= 2
    if k == 0:
        _one(c, 0, z, row, acc, to, m)


@kernel
def add_correction(u, row, tables, channel, values, unit, m):
    """Add the integral non-linearity to ``u[row]``, interpolated linearly in the table of a channel
    at the readings `values` and constant beyond their ends; `unit`: they rise in steps of 1."""
    n = len(values)
    first, final = values[0], values[n - 1]
    if unit:
        last = np.uint32(n - 1)
        for i in range(m):
            x = u[row, i] if u[row, i] > first else first  # NaN: the sum stays NaN
            x = x if x < final else final
            j = np.uint32(np.int32(x - first))
            below = tables[channel, j]
            above = tables[channel, min(j + np.uint32(1), last)]
            u[row, i] += (above - below) * (x - (first + np.float64(j))) + below
        return
    for i in range(m):
        x = u[row, i]
        if not x > first:
            u[row, i] += tables[channel, 0]
        elif x >= final:
            u[row, i] += tables[channel, n - 1]
        else:
            j = np.searchsorted(values, x, "right") - 1
            rise = tables[channel, j + 1] - tables[channel, j]
            slope = rise / (values[j + 1] - values[j])
            u[row, i] += slope * (x - values[j]) + tables[channel, j]


@kernel
def light(s, ramp, groupdq, y, x0, m, means, raw, top):
    """The straight line of linear signal against reads, into `s.start` and `s.rate`.

    It leads through the first resultant and the last but one that is not saturated.
    """
    n = len(ramp)
    second, gap, ends, linear = s.second, s.gap, s.ends, s.linear
    found = False
    for j in range(n):
        found |= any_saturated(groupdq[j, y, x0 : x0 + m], m)[0]
    usual = max(n - 2, 1)
    first, last = ramp[0, y, x0 : x0 + m], ramp[usual, y, x0 : x0 + m]
    for i in range(m):
        second[i] = usual
        ends[0, i] = first[i]
        ends[1, i] = last[i]
        gap[i] = means[usual] - means[0]
    if found:
        for i in range(m):
            count = 0
            for j in range(n):
                count += (groupdq[j, y, x0 + i] & _SATURATED) == 0
            second[i] = max(count - 2, 1)
            ends[1, i] = ramp[second[i], y, x0 + i]
            gap[i] = means[second[i]] - means[0]
    horner(s.single, top, ends, 0, linear, 0, m)
    horner(s.single, top, ends, 1, linear, 1, m)
    if raw:
        for i in range(m):
            if groupdq[0, y, x0 + i] & _SATURATED:
                linear[0, i] = ends[0, i]
            if groupdq[second[i], y, x0 + i] & _SATURATED:
                linear[1, i] = ends[1, i]
    start, rate = s.start, s.rate
    for i in range(m):
        start[i] = linear[0, i]
        rate[i] = (np.float64(linear[1, i]) - start[i]) / gap[i]


@kernel
def no_inverse(s, groupdq, y, x0, m, top):
    """Whether for some pixel the inverse polynomial, of order `top`, is none; ``s.bad[1]`` gets it.

    That is one for which it does not lead from the linear signal at either end of the line of
    `light` back to the measured one, by more than `SLACK` and `SHARE` together. Saturated signals,
    for which no polynomial is made, do not count.
    """
    found = False
    for end in range(2):
        for i in range(m):
            s.z[0, i] = s.linear[end, i]
        horner(s.q, top, s.z, 0, s.reads, 0, m)
        wrong = 0
        for i in range(m):
            wrong |= not abs(s.reads[0, i] - s.ends[end, i]) <= SLACK + SHARE * abs(s.ends[end, i])
        if wrong:
            for i in range(m):
                signal = s.ends[end, i]
                near = abs(s.reads[0, i] - signal) <= SLACK + SHARE * abs(signal)
                j = s.second[i] if end else 0
                ignored = s.bad[0, i] | s.bad[1, i] | (groupdq[j, y, x0 + i] & _SATURATED != 0)
                if not near and not ignored:
                    s.bad[1, i] = True
                    found = True
    return found


@kernel
def mean_of_reads(s, ramp, j, y, x0, times, begin, end, tops, inl, channel, m):
    """The linear signal of resultant j, the mean over its reads, into `s.total`.

    ``times[begin:end]``: its reads after the middle of the first resultant. Each read is where the
    inverse polynomial has it, all of them shifted so that their mean is the measured signal.
    `tops`: highest orders of polynomial and inverse.
    """
    n = end - begin
    tables, values, unit = inl
    total, reads = s.total, s.reads
    signal = ramp[j, y, x0 : x0 + m]
    if n == 1:
        for i in range(m):
            reads[0, i] = signal[i]
    else:
        for i in range(m):
            total[i] = 0.0
        for r in range(n):
            _place(s.start, s.rate, times[begin + r], s.z, m)
            horner(s.q, tops[1], s.z, 0, reads, r, m)
            _add(reads, r, total, m)
        _shift(signal, n, total, m)
        for r in range(n):
            _add_to(total, reads, r, m)
    for i in range(m):
        total[i] = 0.0
    for r in range(n):
        if len(values):
            add_correction(reads, r, tables, channel, values, unit, m)
        horner(s.p, tops[0], reads, r, s.z, 0, m)
        _add(s.z, 0, total, m)
    if n > 1:
        for i in range(m):
            total[i] /= n


@kernel
def _place(start, rate, time, z, m):
    """Linear signal of a read."""
    for i in range(m):
        z[0, i] = start[i] + rate[i] * time


@kernel
def _add(rows, r, total, m):
    for i in range(m):
        total[i] += rows[r, i]


@kernel
def _shift(signal, n, total, m):
    """What `total` of n reads lacks in the mean."""
    for i in range(m):
        total[i] = signal[i] - total[i] / n


@kernel
def _add_to(shift, rows, r, m):
    for i in range(m):
        rows[r, i] += shift[i]
