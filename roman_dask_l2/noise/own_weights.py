"""The weights with which each pixel of a block was fitted, for the layers P and O."""

from __future__ import annotations

import numpy as np

from ..core.bits import unpack
from ..core.exposure import Exposure
from ..steps.ramp_params import RampFitParams
from ..steps.ramp_subsets import subset_weights


def own_weights(
    ends: np.ndarray,
    excluded: np.ndarray | None,
    weights: np.ndarray,
    *,
    exposure: Exposure,
    params: RampFitParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Add the weights of pixels that were fitted without some resultants.

    Parameters
    ----------
    ends : ndarray (y, x) of int
        First saturated resultant, R if there is none.
    excluded : ndarray (ceil(R / 8), y, x) of uint8 or None
        Bits of the resultants that were left out; None if there is no such pixel.
    weights : ndarray (R + 1, R) of float64
        K for every value of `ends`, 1/s.
    exposure : Exposure
    params : RampFitParams

    Returns
    -------
    rows : ndarray (y, x) of int64
        The pixel's row of the weights: `ends` where nothing was left out.
    weights : ndarray (R + 1 + patterns, R) of float64
    """
    rows = ends.astype(np.int64)
    if excluded is None or not excluded.any():
        return rows, weights
    r = exposure.n_resultants
    place = excluded.any(axis=0)
    left_out = unpack(excluded[:, place], r)
    left_out &= np.arange(r)[:, np.newaxis] < ends[place]
    # One row for each pattern. What is left out after saturation makes none of its own.
    bits = np.packbits(left_out, axis=0, bitorder="little").T
    patterns, which = np.unique(
        np.column_stack([bits, rows[place].astype("<i8").view("u1").reshape(-1, 8)]),
        axis=0,
        return_inverse=True,
    )
    which = which.reshape(-1)
    last = patterns[:, bits.shape[1] :].copy().view("<i8")[:, 0].astype(np.int64)
    used = ~unpack(patterns[:, : bits.shape[1]].T, r).T
    more = subset_weights(
        used,
        last,
        weights[r],
        u=params.noise_ratio,
        truncated_min=params.truncated_min,
        exposure=exposure,
    )
    affected = left_out.any(axis=0)
    rows[place] = np.where(affected, r + 1 + which, rows[place])
    return rows, np.concatenate([weights, more])
