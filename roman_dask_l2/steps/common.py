"""Small things that several kernels share."""

from __future__ import annotations

import numpy as np


def finite(array: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Replace non-finite values, so that one bad reference pixel cannot spread to others.

    Parameters
    ----------
    array : ndarray of float
    fill : float
        Neutral value of this reference.

    Returns
    -------
    array : ndarray
        The input itself where nothing was bad, else a repaired copy.
    bad : ndarray of bool or None
        Where values were replaced; None if nowhere.
    """
    # NaN and inf survive a sum, so one cheap pass finds the usual case: nothing to do.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(array, dtype=np.float64)):
            return array, None
    bad = ~np.isfinite(array)
    if not bad.any():
        return array, None
    return np.where(bad, array.dtype.type(fill), array), bad


def flagged(dq: np.ndarray, where: np.ndarray | None, flag: int, window=...) -> np.ndarray:
    """A copy of `dq` with `flag` set where `where` is true inside `window`; `dq` itself if none."""
    if where is None or not where[window].any():
        return dq
    out = dq.copy()
    out[window] |= np.where(where[window], dq.dtype.type(flag), dq.dtype.type(0))
    return out
