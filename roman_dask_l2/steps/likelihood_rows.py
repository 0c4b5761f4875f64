"""The likelihood fit of the many pixels that use the same differences and have no jump.

Kernels work on segments of a row, in loops that the compiler turns into vector instructions: an
array ``(n, WIDTH)`` for each quantity of `likelihood_pixel.solve`. Nothing here depends on where
a segment begins.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..core.jit import kernel

WIDTH = 256
"""Pixels of a segment: its arrays fit into the second-level cache."""


class Segment(NamedTuple):
    """Work arrays of a segment, (n, WIDTH) or (WIDTH,) of float64."""

    d: np.ndarray
    """Differences, DN/s."""
    l: np.ndarray  # noqa: E741 - the L of L D L'
    o: np.ndarray
    w: np.ndarray
    x: np.ndarray
    z: np.ndarray
    u: np.ndarray
    total: np.ndarray
    rate: np.ndarray
    dark: np.ndarray
    gain: np.ndarray
    scale: np.ndarray
    """Squared read noise, DN^2."""
    chi: np.ndarray
    light: np.ndarray
    """Poisson variance in units of `scale`."""
    special: np.ndarray
    """Of bool: pixels that have to be fitted one by one."""


def new_segment(n: int) -> Segment:
    """Work arrays for n differences."""
    d, factor, o, w, x, z = (np.empty((n, WIDTH)) for _ in range(6))
    u, total, rate, dark, gain, scale, chi, light = (np.empty(WIDTH) for _ in range(8))
    special = np.empty(WIDTH, np.bool_)
    return Segment(d, factor, o, w, x, z, u, total, rate, dark, gain, scale, chi, light, special)


@kernel
def middle(s, start, network, m):
    """The median of the differences from `start` on, into `s.rate`; uses `s.x`."""
    n = len(s.d)
    for i in range(start, n):
        d, x = s.d[i], s.x[i]
        for p in range(m):
            x[p] = d[p]
    for k in range(len(network)):
        a, b = s.x[start + network[k, 0]], s.x[start + network[k, 1]]
        for p in range(m):
            low, high = min(a[p], b[p]), max(a[p], b[p])
            a[p] = low
            b[p] = high
    half = (n - start) // 2
    a, b, rate = s.x[start + (n - start - 1) // 2], s.x[start + half], s.rate
    for p in range(m):
        rate[p] = (a[p] + b[p]) / 2


@kernel
def solve_row(s, start, tables, m):
    """`likelihood_pixel.solve` for the differences from `start` on, and the rate."""
    n = len(s.d)
    u = s.u
    d, x, z, w = s.d[start], s.x[start], s.z[start], s.w[start]
    light, read = tables.light[start], tables.read[start]
    for p in range(m):
        x[p] = 1.0
        z[p] = d[p]
        w[p] = 1.0 / (u[p] * light + read)
    for i in range(start, n - 1):
        light_next, read_next = tables.light_next[i], tables.read_next[i]
        light, read = tables.light[i + 1], tables.read[i + 1]
        w, factor, w2 = s.w[i], s.l[i], s.w[i + 1]
        for p in range(m):
            off = u[p] * light_next + read_next
            k = off * w[p]
            factor[p] = k
            w2[p] = 1.0 / (u[p] * light + read - k * off)
        x, z, d2, x2, z2 = s.x[i], s.z[i], s.d[i + 1], s.x[i + 1], s.z[i + 1]
        for p in range(m):
            x2[p] = 1.0 - factor[p] * x[p]
            z2[p] = d2[p] - factor[p] * z[p]
    total, right = s.total, s.rate
    x, z, w = s.x[n - 1], s.z[n - 1], s.w[n - 1]
    for p in range(m):
        x[p] *= w[p]
        z[p] *= w[p]
        total[p] = x[p]
        right[p] = z[p]
    for i in range(n - 2, start - 1, -1):
        x, w, factor, x2, w2, o = s.x[i], s.w[i], s.l[i], s.x[i + 1], s.w[i + 1], s.o[i]
        for p in range(m):
            x[p] = x[p] * w[p] - factor[p] * x2[p]
            total[p] += x[p]
        z, z2 = s.z[i], s.z[i + 1]
        for p in range(m):
            z[p] = z[p] * w[p] - factor[p] * z2[p]
            right[p] += z[p]
        for p in range(m):
            o[p] = -factor[p] * w2[p]
            w[p] -= factor[p] * o[p]
    for p in range(m):
        right[p] /= total[p]


@kernel
def suspects(s, start, tables, limits, m):
    """Add to `s.special` the pixels in which a difference may be a jump, judged from `solve_row`.

    Without divisions, and a millionth too eager: `likelihood_pixel.search` decides.
    """
    n = len(s.d)
    one, two = limits[0] * (1 - 1e-6), limits[1] * (1 - 1e-6)
    rate, special, total, scale = s.rate, s.special, s.total, s.scale
    # r and v of `likelihood_pixel.worst` take the places of z and w; x stays.
    inverse = s.light
    for p in range(m):
        inverse[p] = 1.0 / total[p]
    for i in range(start, n):
        x, z, w = s.x[i], s.z[i], s.w[i]
        for p in range(m):
            z[p] -= rate[p] * x[p]
            w[p] -= x[p] * x[p] * inverse[p]
        for p in range(m):
            special[p] |= z[p] * z[p] >= one * scale[p] * w[p]
    for i in range(start, n - 1):
        if not tables.pairs[i]:
            continue
        o, x, x2, gain, size = s.o[i], s.x[i], s.x[i + 1], s.l[i], s.chi
        z, z2, w, w2 = s.z[i], s.z[i + 1], s.w[i], s.w[i + 1]
        for p in range(m):
            o[p] -= x[p] * x2[p] * inverse[p]
        for p in range(m):
            gain[p] = w2[p] * z[p] * z[p] - 2 * o[p] * z[p] * z2[p] + w[p] * z2[p] * z2[p]
        for p in range(m):
            size[p] = w[p] * w2[p] - o[p] * o[p]
        for p in range(m):
            special[p] |= gain[p] >= two * scale[p] * size[p]


@kernel
def moments_row(s, start, tables, m):
    """`likelihood_pixel.moments` from `solve_row`, into `s.chi` and `s.light`."""
    n = len(s.d)
    u, light, total, chi, rate = s.u, s.light, s.total, s.chi, s.rate
    for p in range(m):
        light[p] = 0.0
        chi[p] = 0.0
    for i in range(start, n):
        x, c = s.x[i], tables.light[i]
        for p in range(m):
            light[p] += c * x[p] * x[p]
        if i + 1 < n:
            x2, c = s.x[i + 1], 2 * tables.light_next[i]
            for p in range(m):
                light[p] += c * x[p] * x2[p]
    for p in range(m):
        light[p] *= u[p] / (total[p] * total[p])
    # chi-square is r' V^-1 r with r = d - rate, and V^-1 r = z - rate x.
    for i in range(start, n):
        x, z, d = s.x[i], s.z[i], s.d[i]
        for p in range(m):
            chi[p] += (d[p] - rate[p]) * (z[p] - rate[p] * x[p])
