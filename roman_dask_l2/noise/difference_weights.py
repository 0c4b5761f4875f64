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
    ndarray (y, x, R - 1) of float64
        c_i, 1/s; all 0 where the pixel could not be fitted.
    """
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    n = exposure.n_resultants - 1
    used = np.ones((noise_ratio.size, n), np.bool_)
    if unused is not None and unused.any():
        bits = unused.reshape(len(unused), -1)
        some = np.flatnonzero(bits.any(axis=0))
        left_out = np.unpackbits(bits[:, some], axis=0, count=n, bitorder="little")
        used[some] = ~left_out.astype(bool).T
    used[:, : exposure.start] = False
    out = np.empty(used.shape)
    difference_weights(used, np.ascontiguousarray(noise_ratio).reshape(-1), tables, out)
    out *= tables.per_time
    return out.reshape(*noise_ratio.shape, n)


def frame_limits(exposure: Exposure) -> np.ndarray:
    """First and last frame of every resultant, (R, 2) of int64."""
    return np.array([(reads[0], reads[-1]) for reads in exposure.read_pattern], np.int64)


@kernel
def frame_weights(coefficients, limits, out):
    """Write T of every pixel and frame to `out` (pixels, F), 1/s.

    Parameters
    ----------
    coefficients : ndarray (pixels, R - 1) of float64
        c_i, 1/s.
    limits : ndarray (R, 2) of int64
        Of `frame_limits`.
    out : ndarray (pixels, F) of float64
    """
    n = coefficients.shape[1]
    for p in range(len(out)):
        c, weights = coefficients[p], out[p]
        for s in range(limits[0, 0] + 1):
            weights[s] = 0.0
        for j in range(n + 1):
            first, last = limits[j]
            before = c[j - 1] if j > 0 else 0.0
            after = c[j] if j < n else 0.0
            slope = (after - before) / (last - first + 1)
            for s in range(first + 1, last + 1):
                weights[s] = before + slope * (s - first)
            if j < n:
                for s in range(last + 1, limits[j + 1, 0] + 1):
                    weights[s] = after


@kernel
def weight_powers(coefficients, limits, out):
    """Write the sums over frames of T^2, T^3 and T^4 of every pixel to `out` (pixels, 3)."""
    n = coefficients.shape[1]
    for p in range(len(out)):
        c = coefficients[p]
        n2, n3, n4 = 0.0, 0.0, 0.0
        for j in range(n + 1):
            first, last = limits[j]
            before = c[j - 1] if j > 0 else 0.0
            after = c[j] if j < n else 0.0
            slope = (after - before) / (last - first + 1)
            for s in range(1, last - first + 1):
                t = before + slope * s
                t2 = t * t
                n2 += t2
                n3 += t2 * t
                n4 += t2 * t2
            if j < n:
                frames, t2 = limits[j + 1, 0] - last, after * after
                n2 += frames * t2
                n3 += frames * t2 * after
                n4 += frames * t2 * t2
        out[p, 0], out[p, 1], out[p, 2] = n2, n3, n4
