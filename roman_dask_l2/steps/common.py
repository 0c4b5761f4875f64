"""Small things that several kernels share."""

from __future__ import annotations

import numpy as np

from ..jit import kernel


@kernel
def copy(source, target):
    """For rows inside kernels: an assignment of slices makes numba compile the message of the error
    that it could raise, which takes two seconds."""
    for i in range(len(target)):
        target[i] = source[i]


@kernel
def _all_finite32(bits):
    """Whether no float32, seen as uint32, has the exponent of infinity and NaN."""
    bad = np.uint32(0)
    for i in range(len(bits)):
        bad |= np.uint32((bits[i] & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return bad == 0


def all_finite(array: np.ndarray) -> bool:
    """Whether an array of float holds neither infinity nor NaN."""
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return bool(_all_finite32(array.reshape(-1).view(np.uint32)))
    return bool(np.isfinite(array).all())


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
    if all_finite(array):  # the usual case
        return array, None
    bad = ~np.isfinite(array)
    return np.where(bad, array.dtype.type(fill), array), bad


def flagged(dq: np.ndarray, where: np.ndarray | None, flag: int, window=...) -> np.ndarray:
    """A copy of `dq` with `flag` set where `where` is true inside `window`; `dq` itself if none."""
    if where is None or not where[window].any():
        return dq
    out = dq.copy()
    out[window] |= np.where(where[window], dq.dtype.type(flag), dq.dtype.type(0))
    return out
