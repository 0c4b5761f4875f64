"""Weights of the charge of each frame in rates that are sums of differences of resultants.

The likelihood fit makes ``rate = sum_i c_i (S_{i+1} - S_i)`` with coefficients of its own for every
pixel. A frame is seen in one or two differences only: charge between two resultants, or in the
first read of the second, in their difference with weight c_i; charge in a later read of resultant j
by the fraction f of its reads in the difference before, and by 1 - f in the one after,
``T = c_{j-1} f + c_j (1 - f)``. So there is nothing to cancel, and what collects in a difference
that is not used, c_i = 0, does not count.
"""

from __future__ import annotations

import numpy as np

from ..core.exposure import Exposure
from ..core.jit import kernel
from ..steps.likelihood_pixel import difference_weights
from ..steps.likelihood_tables import difference_tables

_WIDTH = 256
"""Pixels that are worked on at a time: their arrays fit into the caches."""


def difference_coefficients(
    unused: np.ndarray | None, noise_ratio: np.ndarray, exposure: Exposure
) -> np.ndarray:
    """The coefficients with which each pixel was fitted.

    Parameters
    ----------
    unused : ndarray (ceil((R - 1) / 8), y, x) of uint8 or None
        Bits of differences, from `exposure.start` on, that were not used; None if there is no such
        pixel.
    noise_ratio : ndarray (y, x) of float32
        Ratio of Poisson to read noise that the weights were made for, 1/s.
    exposure : Exposure

    Returns
    -------
    ndarray (R - 1, y, x) of float64
        c_i, 1/s; all 0 where the pixel could not be fitted.
    """
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    n, start, u = exposure.n_resultants - 1, exposure.start, noise_ratio.reshape(-1)
    out = np.zeros((n, u.size))
    _usual_weights(np.ascontiguousarray(u), start, tables, out)
    if unused is not None and unused.any():
        bits = unused.reshape(len(unused), -1)
        some = np.flatnonzero(bits.any(axis=0))
        left_out = np.unpackbits(bits[:, some], axis=0, count=n, bitorder="little")
        used = np.ascontiguousarray(left_out.T == 0)
        used[:, :start] = False
        own = np.empty(used.shape)
        difference_weights(used, u[some], tables, own)
        out[:, some] = own.T
    out *= tables.per_time[:, np.newaxis]
    return out.reshape(n, *noise_ratio.shape)


@kernel
def _usual_weights(u, start, tables, out):
    """`difference_weights` of pixels that use all differences from `start` on, to the last bit, to
    `out` (n, pixels)."""
    n, n_pixels = out.shape
    factor, w = np.empty((n, _WIDTH)), np.empty((n, _WIDTH))
    for p0 in range(0, n_pixels, _WIDTH):
        m = min(_WIDTH, n_pixels - p0)
        ratio = u[p0:]
        x, pivot = out[start, p0:], w[start]
        light, read = tables.light[start], tables.read[start]
        for p in range(m):
            x[p] = 1.0
            pivot[p] = 1.0 / (np.float64(ratio[p]) * light + read)
        for i in range(start, n - 1):
            light_next, read_next = tables.light_next[i], tables.read_next[i]
            light, read = tables.light[i + 1], tables.read[i + 1]
            x, x2, pivot, pivot2, k = out[i, p0:], out[i + 1, p0:], w[i], w[i + 1], factor[i]
            for p in range(m):
                off = np.float64(ratio[p]) * light_next + read_next
                k[p] = off * pivot[p]
                pivot2[p] = 1.0 / (np.float64(ratio[p]) * light + read - k[p] * off)
                x2[p] = 1.0 - k[p] * x[p]
        x, pivot, total = out[n - 1, p0:], w[n - 1], factor[n - 1]
        for p in range(m):
            x[p] *= pivot[p]
            total[p] = x[p]
        for i in range(n - 2, start - 1, -1):
            x, x2, pivot, k = out[i, p0:], out[i + 1, p0:], w[i], factor[i]
            for p in range(m):
                x[p] = x[p] * pivot[p] - k[p] * x2[p]
                total[p] += x[p]
        for i in range(start, n):
            x = out[i, p0:]
            for p in range(m):
                x[p] = x[p] / total[p] if total[p] > 0 else 0.0


def frame_limits(exposure: Exposure) -> np.ndarray:
    """First and last frame of every resultant, (R, 2) of int64."""
    return np.array([(reads[0], reads[-1]) for reads in exposure.read_pattern], np.int64)


@kernel
def frame_weights(coefficients, limits, out):
    """Write T of every frame and pixel to `out` (F, pixels), 1/s.

    Parameters
    ----------
    coefficients : ndarray (R - 1, pixels) of float64
        c_i, 1/s.
    limits : ndarray (R, 2) of int64
        Of `frame_limits`.
    out : ndarray (F, pixels) of float64
    """
    n, n_pixels = coefficients.shape
    nothing = np.zeros(n_pixels)
    for s in range(limits[0, 0] + 1):
        out[s] = 0.0
    for j in range(n + 1):
        first, last = limits[j]
        before = coefficients[j - 1] if j > 0 else nothing
        after = coefficients[j] if j < n else nothing
        for s in range(first + 1, last + 1):
            weights, part = out[s], (s - first) / (last - first + 1)
            for p in range(n_pixels):
                weights[p] = before[p] + (after[p] - before[p]) * part
        if j < n:
            for s in range(last + 1, limits[j + 1, 0] + 1):
                out[s] = after


@kernel
def weight_powers(coefficients, limits, out):
    """Write the sums over frames of T^2, T^3 and T^4 of every pixel to `out` (3, pixels)."""
    n, n_pixels = coefficients.shape
    nothing = np.zeros(_WIDTH)
    for p0 in range(0, n_pixels, _WIDTH):
        m = min(_WIDTH, n_pixels - p0)
        n2, n3, n4 = out[0, p0 : p0 + m], out[1, p0 : p0 + m], out[2, p0 : p0 + m]
        n2[:] = 0.0
        n3[:] = 0.0
        n4[:] = 0.0
        for j in range(n + 1):
            first, last = limits[j]
            before = coefficients[j - 1, p0:] if j > 0 else nothing
            after = coefficients[j, p0:] if j < n else nothing
            for s in range(1, last - first + 1):
                part = s / (last - first + 1)
                for p in range(m):
                    t = before[p] + (after[p] - before[p]) * part
                    t2 = t * t
                    n2[p] += t2
                    n3[p] += t2 * t
                    n4[p] += t2 * t2
            if j < n:
                frames = limits[j + 1, 0] - last
                for p in range(m):
                    t = after[p]
                    t2 = t * t
                    n2[p] += frames * t2
                    n3[p] += frames * t2 * t
                    n4[p] += frames * t2 * t2
