"""Small things that several kernels share."""

from __future__ import annotations

import numpy as np

from ..core.jit import kernel


@kernel
def copy(source, target):
    """For rows inside kernels: an assignment of slices makes numba compile the message of the error
    that it could raise, which takes two seconds."""
    for i in range(len(target)):
        target[i] = source[i]


LARGEST = 2.0**24
"""No number of a reference file is as large, in DN, DN/s, or e/DN: what is counts as missing."""

_INFINITE, _TOO_LARGE = (np.array(v, np.float32).view(np.uint32)[()] for v in (np.inf, LARGEST))


@kernel
def _all_below32(bits, limit):
    """Whether all float32, seen as uint32, are in magnitude below the one seen as `limit`."""
    bad = np.uint32(0)
    for i in range(len(bits)):
        bad |= np.uint32((bits[i] & np.uint32(0x7FFFFFFF)) >= limit)
    return bad == 0


def all_finite(array: np.ndarray) -> bool:
    """Whether an array of float holds neither infinity nor NaN."""
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return bool(_all_below32(array.reshape(-1).view(np.uint32), _INFINITE))
    return bool(np.isfinite(array).all())


def _all_usable(array: np.ndarray) -> bool:
    """Whether an array of float is below `LARGEST` in magnitude everywhere."""
    if array.dtype == np.float32 and array.flags.c_contiguous and array.flags.aligned:
        return bool(_all_below32(array.reshape(-1).view(np.uint32), _TOO_LARGE))
    return bool((np.abs(array) < LARGEST).all())


def finite(
    array: np.ndarray, fill: float, positive: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Replace values that are not finite or absurdly large (`LARGEST`), so that one bad reference
    pixel cannot spread to others.

    Parameters
    ----------
    array : ndarray of float
    fill : float
        Neutral value of this reference.
    positive : bool
        Replace what is not above zero as well.

    Returns
    -------
    array : ndarray
        The input itself where nothing was bad, else a repaired copy.
    bad : ndarray of bool or None
        Where values were replaced; None if nowhere.
    """
    if _all_usable(array) and not (positive and array.min(initial=1) <= 0):  # the usual case
        return array, None
    bad = ~(np.abs(array) < LARGEST)
    if positive:
        bad |= ~(array > 0)
    return np.where(bad, array.dtype.type(fill), array), bad


def joined(dq: np.ndarray, more: np.ndarray | None, window=...) -> np.ndarray:
    """A copy of `dq` with the flags of a reference file inside `window`; `dq` itself if it has
    none."""
    if more is None or not more[window].any():
        return dq
    out = dq.copy()
    out[window] |= more[window]
    return out


def flagged(dq: np.ndarray, where: np.ndarray | None, flag: int, window=...) -> np.ndarray:
    """A copy of `dq` with `flag` set where `where` is true inside `window`; `dq` itself if none."""
    if where is None or not where[window].any():
        return dq
    out = dq.copy()
    out[window] |= np.where(where[window], dq.dtype.type(flag), dq.dtype.type(0))
    return out
