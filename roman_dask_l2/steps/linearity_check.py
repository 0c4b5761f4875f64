"""Which linearity curves are plausible: a curve maps raw DN to linear DN, so it must rise."""

from __future__ import annotations

import numpy as np

from ..core.jit import kernel
from .common import LARGEST, places_of

LEAST_RISE, LARGEST_RISE = 0.1, 10.0
"""Linear DN for a raw one, on average over the range of the fit; 1 within tens of per cent in any
measured curve."""
_LARGEST = np.float32(LARGEST)
_LEAST_RISE, _LARGEST_RISE = np.float32(LEAST_RISE), np.float32(LARGEST_RISE)
_POINTS = 8
"""Points per coefficient at which the slope of a suspect curve is evaluated."""


def implausible(
    coef: np.ndarray, smin: np.ndarray, smax: np.ndarray, sref: np.ndarray
) -> np.ndarray | None:
    """Find implausible linearity references.

    These are pixels where a number is not finite or absurdly large, where the range is less than
    1 DN, or where the curve falls (or is flat) within its range, or rises by less than
    `LEAST_RISE` or more than `LARGEST_RISE` linear DN for a raw one.

    Parameters
    ----------
    coef : ndarray (order + 1, y, x) of float32
        Legendre coefficients, linear DN.
    smin, smax, sref : ndarray (y, x) of float32
        Range of the fit and empty good, DN.

    Returns
    -------
    ndarray (y, x) of bool or None
        None if all are plausible.
    """
    suspect = np.empty(smin.shape, np.bool_)
    if not _find_suspects(coef, smin, smax, sref, suspect):
        return None
    y, x = places_of(suspect)
    wrong = np.empty(len(y), np.bool_)
    curves = np.ascontiguousarray(coef[:, y, x].T, np.float64)
    low, high, empty = (np.asarray(a[y, x], np.float64) for a in (smin, smax, sref))
    _check_slopes(curves, low, high, empty, _slopes(len(coef)), wrong)
    if not wrong.any():
        return None
    suspect[y, x] = wrong
    return suspect


@kernel
def _find_suspects(coef, smin, smax, sref, out):
    """Mark curves that their coefficients alone do not prove plausible; returns whether there are
    any.

    The slope of P_L is at most L (L + 1) / 2 in magnitude: the curve rises if the coefficient of
    P_1 is larger than the sum of the others' times that.
    """
    n_coef, ny, nx = coef.shape
    none = np.zeros(nx, np.float32)
    others, rise = np.empty(nx, np.float32), np.empty(nx, np.float32)
    found = False
    for y in range(ny):
        first = coef[1, y] if n_coef > 1 else none
        for x in range(nx):
            others[x] = 0
            rise[x] = first[x]
        for L in range(2, n_coef):
            c, steepest, odd = coef[L, y], np.float32(L * (L + 1) / 2), np.float32(L % 2)
            for x in range(nx):
                others[x] += abs(c[x]) * steepest
                rise[x] += c[x] * odd
        zero, low, high, empty, suspect_row = coef[0, y], smin[y], smax[y], sref[y], out[y]
        for x in range(nx):
            span = np.float32(0.5) * (high[x] - low[x])
            good = (first[x] > others[x]) & (first[x] < _LARGEST) & (span >= np.float32(0.5))
            good &= (rise[x] >= _LEAST_RISE * span) & (rise[x] <= _LARGEST_RISE * span)
            good &= (abs(low[x]) < _LARGEST) & (abs(high[x]) < _LARGEST)
            good &= (abs(zero[x]) < _LARGEST) & (abs(empty[x]) < _LARGEST)
            suspect_row[x] = not good
            found |= not good
    return found


def _slopes(n_coef: int) -> np.ndarray:
    """Slopes of P_0, P_1, .. (columns) at points that are denser towards -1 and 1 (rows)."""
    n = _POINTS * n_coef
    z = np.cos(np.pi * np.arange(n + 1) / n)
    slopes = np.zeros((n + 1, n_coef))
    below, here = np.ones(n + 1), z.copy()
    for L in range(1, n_coef):  # P'_L = P'_{L-2} + (2 L - 1) P_{L-1}
        slopes[:, L] = (slopes[:, L - 2] if L > 1 else 0) + (2 * L - 1) * below
        below, here = here, ((2 * L + 1) * z * here - L * below) / (L + 1)
    return slopes


@kernel
def _check_slopes(curves, smin, smax, sref, slopes, wrong):
    """See `implausible`; in float64, pixel by pixel."""
    for i in range(len(wrong)):
        c = curves[i]
        span = smax[i] - smin[i]
        good = span >= 1 and abs(smin[i]) < LARGEST and abs(smax[i]) < LARGEST
        good = good and abs(sref[i]) < LARGEST
        rise = 0.0
        for L in range(len(c)):
            good = good and abs(c[L]) < LARGEST
            rise += 2 * c[L] if L % 2 else 0.0
        good = good and LEAST_RISE * span <= rise <= LARGEST_RISE * span
        point = 0
        while good and point < len(slopes):
            slope = 0.0
            for L in range(1, len(c)):
                slope += c[L] * slopes[point, L]
            good = slope > 0
            point += 1
        wrong[i] = not good
