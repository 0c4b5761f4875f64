"""Interpolated values for resultants that the Level-1 file marks as unusable."""

from __future__ import annotations

import numpy as np

from ..core.exposure import Exposure
from ..core.jit import kernel
from .ramp_subsets import EXCLUDING, any_excluded


@kernel
def _interpolate(ramp, flags, t, start, active):
    """Straight lines through the good resultants on either side, or the next two on one side."""
    n_res = len(ramp)
    y0, y1, x0, x1 = active
    either = np.empty(flags.shape[2], np.uint8)
    for y in range(y0, y1):
        # Nearly all pixels have none: found in loops that the compiler vectorises.
        either[:] = 0
        for j in range(start, n_res):
            row = flags[j, y]
            for x in range(len(either)):
                either[x] |= row[x]
        for x in range(x0, x1):
            if either[x] & EXCLUDING == 0:
                continue
            # Good resultants a < b: those around j, or else the nearest two.
            a, b, n = -1, -1, 0
            for j in range(start, n_res):
                if flags[j, y, x] & EXCLUDING == 0:
                    n += 1
                    if n <= 2:
                        a, b = b, j
            if n == 0:
                continue
            if n == 1:
                a = b
            for j in range(start, n_res):
                if flags[j, y, x] & EXCLUDING == 0:
                    continue
                if n > 2:
                    while b < j:
                        following = b + 1
                        while following < n_res and flags[following, y, x] & EXCLUDING != 0:
                            following += 1
                        if following == n_res:
                            break
                        a, b = b, following
                slope = (ramp[b, y, x] - ramp[a, y, x]) / (t[b] - t[a]) if b > a else 0.0
                ramp[j, y, x] = ramp[a, y, x] + slope * (t[j] - t[a])


def interpolate_excluded(
    ramp: np.ndarray,
    flags: np.ndarray,
    exposure: Exposure,
    active: tuple[slice, slice],
) -> None:
    """Replace resultants that are DO_NOT_USE or DROPOUT, on active pixels, in place.

    They are not fitted, but their values must not look like saturation or leave the range of the
    linearity curve, nor spread to neighbours in the correction of inter-pixel capacitance.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        DN. A pixel without a good resultant is left as it is.
    flags : ndarray (R, y, x) of uint8
        Of the Level-1 file.
    exposure : Exposure
        Resultants that no fit uses (the first, with EXCLUDE_FIRST) are neither replaced nor
        used.
    active : tuple of slice
        Active pixels.
    """
    if not any_excluded(flags[exposure.start :]):
        return
    rows, columns = active
    edges = (rows.start, rows.stop, columns.start, columns.stop)
    _interpolate(ramp, flags, exposure.tbar, exposure.start, edges)
