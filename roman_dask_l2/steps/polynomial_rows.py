"""Linearity polynomials on the pixels of one channel in one row.

Kernels work on segments of a row, in loops that the compiler turns into vector instructions. A
segment never crosses the border between two channels, each of which has its own table of the
integral non-linearity. Nothing here depends on where a segment begins or ends.
"""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP
from ..core.jit import kernel
from .polynomial_segment import ROW, WIDTH

SLACK, SHARE = np.float32(100), np.float32(0.05)
"""DN, and share of the signal, by which inverse and polynomial together may miss it: the difference
between reads is what counts, and a constant error drops out of it."""

_SATURATED = np.uint8(GROUP["SATURATED"])


@kernel
def _copy(source, target, begin, largest, m):
    """Returns whether a value is NaN or too large."""
    wrong = 0
    for i in range(np.uint64(m)):
        value = source[i]
        target[begin + i] = value
        wrong |= not abs(value) <= largest
    return wrong != 0


@kernel
def _mark(source, bad, which, largest, m):
    for i in range(m):
        bad[which, i] |= not abs(source[i]) <= largest


@kernel
def _implausible(target, least, most, m):
    """Whether a linear term is 0 or out of bounds."""
    wrong = 0
    for i in range(np.uint64(m)):
        slope = target[ROW + i]
        wrong |= (slope == 0) | (not slope >= least) | (not slope <= most)
    return wrong != 0


@kernel
def _any(target, begin, m):
    used = 0
    for i in range(np.uint64(m)):
        used |= target[begin + i] != 0
    return used != 0


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
            for k in range(len(target) // WIDTH):
                target[k * WIDTH + i] = 1.0 if k == 1 else 0.0


@kernel
def load(source, y, x0, m, limits, bad, which, target):
    """Coefficients (C, y, x) of a segment into `target`, the identity where they cannot be used.

    These are pixels that ``bad[which]`` already names, and those with a NaN, a coefficient above
    ``limits[0]`` in magnitude, or a linear term that is 0 or not from ``limits[1]`` to
    ``limits[2]``; it gets them too. Returns the highest order with any coefficient but 0, at
    least 1.
    """
    n, orders = len(source), len(target) // WIDTH
    largest, least, most = limits
    for k in range(n):
        row = source[k, y, x0 : x0 + m]
        if _copy(row, target, np.uint64(k) * ROW, largest, m):
            _mark(row, bad, which, largest, m)
    for k in range(n, orders):
        for i in range(m):
            target[k * WIDTH + i] = 0
    if _implausible(target, least, most, m):
        for i in range(m):
            slope = target[WIDTH + i]
            bad[which, i] |= (slope == 0) | (not slope >= least) | (not slope <= most)
    found = False
    for i in range(m):
        found |= bad[which, i]
    if found:
        use_identity(target, bad, which, m)
    top = orders - 1
    while top > 1 and not _any(target, np.uint64(top) * ROW, m):
        top -= 1
    return top


@kernel
def _ten(c, i, x):
    """A polynomial of order 10, the usual one, at pixel i: the sum stays in a register."""
    v = c[np.uint64(10 * WIDTH) + i] * x + c[np.uint64(9 * WIDTH) + i]
    v = v * x + c[np.uint64(8 * WIDTH) + i]
    v = v * x + c[np.uint64(7 * WIDTH) + i]
    v = v * x + c[np.uint64(6 * WIDTH) + i]
    v = v * x + c[np.uint64(5 * WIDTH) + i]
    v = v * x + c[np.uint64(4 * WIDTH) + i]
    v = v * x + c[np.uint64(3 * WIDTH) + i]
    v = v * x + c[np.uint64(2 * WIDTH) + i]
    v = v * x + c[np.uint64(WIDTH) + i]
    return v * x + c[i]


@kernel
def _two(c, begin, z, row, acc, to, m):
    """The order whose row begins at `begin`, and the one below."""
    for i in range(np.uint64(m)):
        x = z[row + i]
        v = acc[to + i] * x + c[begin + i]
        acc[to + i] = v * x + c[begin - ROW + i]


@kernel
def _one(c, begin, z, row, acc, to, m):
    for i in range(np.uint64(m)):
        acc[to + i] = acc[to + i] * z[row + i] + c[begin + i]


@kernel
def _all_ten(c, z, row, acc, to, m):
    for i in range(np.uint64(m)):
        acc[to + i] = _ten(c, i, z[row + i])


@kernel
def horner(c, top, z, row, acc, to, m):
    """Polynomials with coefficients c (ascending) at row `row` of z, into row `to` of `acc`, by
    Horner's rule from order `top` down.

    The loops over pixels have functions of their own, because the compiler makes vector
    instructions of them only where no loop is around.
    """
    row, to = np.uint64(row) * ROW, np.uint64(to) * ROW
    if top == 10:
        _all_ten(c, z, row, acc, to, m)
        return
    begin = np.uint64(top) * ROW
    for i in range(np.uint64(m)):
        acc[to + i] = c[begin + i]
    k = top - 1
    while k >= 1:
        _two(c, np.uint64(k) * ROW, z, row, acc, to, m)
        k -= 2
    if k == 0:
        _one(c, np.uint64(0), z, row, acc, to, m)


@kernel
def _find(u, row, first, final, place, part, m):
    """Places in a table whose readings rise in steps of 1, and how far beyond them the reading
    is."""
    for i in range(np.uint64(m)):
        value = u[row + i]
        x = value if value > first else first  # NaN: the sum stays NaN
        x = x if x < final else final
        j = np.int32(x - first)
        place[i] = j
        part[i] = x - (first + np.float64(j))


@kernel
def _look_up(tables, channel, place, below, above, m):
    """Alone in a loop, because the others are vector instructions only without it."""
    channel, last = np.uint64(channel), np.uint64(tables.shape[1] - 1)
    for i in range(np.uint64(m)):
        j = np.uint64(place[i])
        below[i] = tables[channel, j]
        above[i] = tables[channel, min(j + np.uint64(1), last)]


@kernel
def _interpolate(u, row, part, below, above, m):
    for i in range(np.uint64(m)):
        u[row + i] += (above[i] - below[i]) * part[i] + below[i]


@kernel
def _add_ten(c, u, row, part, below, above, total, m):
    """`_interpolate` and the polynomial of order 10, added to `total`."""
    for i in range(np.uint64(m)):
        x = u[row + i] + ((above[i] - below[i]) * part[i] + below[i])
        total[i] += _ten(c, i, x)


@kernel
def add_correction(u, row, tables, channel, values, unit, buffers, m):
    """Add the integral non-linearity to row `row` of u, interpolated linearly in the table of a
    channel at the readings `values` and constant beyond their ends; `unit`: they rise in steps of
    1."""
    n = len(values)
    first, final = values[0], values[n - 1]
    begin = np.uint64(row) * ROW
    if unit:
        place, part, below, above = buffers
        _find(u, begin, first, final, place, part, m)
        _look_up(tables, channel, place, below, above, m)
        _interpolate(u, begin, part, below, above, m)
        return
    for i in range(row * WIDTH, row * WIDTH + m):
        x = u[i]
        if not x > first:
            u[i] += tables[channel, 0]
        elif x >= final:
            u[i] += tables[channel, n - 1]
        else:
            j = np.searchsorted(values, x, "right") - 1
            rise = tables[channel, j + 1] - tables[channel, j]
            slope = rise / (values[j + 1] - values[j])
            u[i] += slope * (x - values[j]) + tables[channel, j]


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
        ends[i] = first[i]
        ends[WIDTH + i] = last[i]
        gap[i] = means[usual] - means[0]
    if found:
        for i in range(m):
            count = 0
            for j in range(n):
                count += (groupdq[j, y, x0 + i] & _SATURATED) == 0
            second[i] = max(count - 2, 1)
            ends[WIDTH + i] = ramp[second[i], y, x0 + i]
            gap[i] = means[second[i]] - means[0]
    horner(s.single, top, ends, 0, linear, 0, m)
    horner(s.single, top, ends, 1, linear, 1, m)
    if raw:
        for i in range(m):
            if groupdq[0, y, x0 + i] & _SATURATED:
                linear[i] = ends[i]
            if groupdq[second[i], y, x0 + i] & _SATURATED:
                linear[WIDTH + i] = ends[WIDTH + i]
    start, rate = s.start, s.rate
    for i in range(m):
        start[i] = linear[i]
        rate[i] = (np.float64(linear[WIDTH + i]) - start[i]) / gap[i]


@kernel
def no_inverse(s, groupdq, y, x0, m, top):
    """Whether for some pixel the inverse polynomial, of order `top`, is none; ``s.bad[1]`` gets it.

    That is one for which it does not lead from the linear signal at either end of the line of
    `light` back to the measured one, by more than `SLACK` and `SHARE` together. Saturated signals,
    for which no polynomial is made, do not count.
    """
    found = False
    for end in range(2):
        begin = end * WIDTH
        for i in range(m):
            s.z[i] = s.linear[begin + i]
        horner(s.q, top, s.z, 0, s.reads, 0, m)
        wrong = 0
        for i in range(m):
            signal = s.ends[begin + i]
            wrong |= not abs(s.reads[i] - signal) <= SLACK + SHARE * abs(signal)
        if wrong:
            for i in range(m):
                signal = s.ends[begin + i]
                near = abs(s.reads[i] - signal) <= SLACK + SHARE * abs(signal)
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
    # Once: to take an array out of a tuple costs as much as dozens of sums.
    p, q, start, rate, total, reads, z = s.p, s.q, s.start, s.rate, s.total, s.reads, s.z
    place, part, below, above = s.place, s.part, s.below, s.above
    signal = ramp[j, y, x0 : x0 + m]
    if n == 1:
        for i in range(m):
            reads[i] = signal[i]
    else:
        for i in range(m):
            total[i] = 0.0
        for r in range(n):
            if tops[1] == 10:
                _ten_on_line(q, start, rate, times[begin + r], reads, r, total, m)
            else:
                _on_line(start, rate, times[begin + r], z, m)
                horner(q, tops[1], z, 0, reads, r, m)
                _add(reads, r, total, m)
        _shift(signal, n, total, m)
        for r in range(n):
            _add_to(total, reads, r, m)
    for i in range(m):
        total[i] = 0.0
    quick = (len(values) > 0) & unit & (tops[0] == 10)
    for r in range(n):
        if quick:
            row = np.uint64(r) * ROW
            _find(reads, row, values[0], values[len(values) - 1], place, part, m)
            _look_up(tables, channel, place, below, above, m)
            _add_ten(p, reads, row, part, below, above, total, m)
            continue
        if len(values):
            buffers = place, part, below, above
            add_correction(reads, r, tables, channel, values, unit, buffers, m)
        horner(p, tops[0], reads, r, z, 0, m)
        _add(z, 0, total, m)
    if n > 1:
        for i in range(m):
            total[i] /= n


@kernel
def _ten_on_line(c, start, rate, time, reads, r, total, m):
    """`_on_line`, the polynomial of order 10, and `_add`."""
    row = np.uint64(r) * ROW
    for i in range(np.uint64(m)):
        value = _ten(c, i, start[i] + rate[i] * time)
        reads[row + i] = value
        total[i] += value


@kernel
def _on_line(start, rate, time, z, m):
    """Linear signal of a read."""
    for i in range(m):
        z[i] = start[i] + rate[i] * time


@kernel
def _add(rows, r, total, m):
    row = np.uint64(r) * ROW
    for i in range(np.uint64(m)):
        total[i] += rows[row + i]


@kernel
def _shift(signal, n, total, m):
    """What `total` of n reads lacks in the mean."""
    for i in range(m):
        total[i] = signal[i] - total[i] / n


@kernel
def _add_to(shift, rows, r, m):
    row = np.uint64(r) * ROW
    for i in range(np.uint64(m)):
        rows[row + i] += shift[i]
