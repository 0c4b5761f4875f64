"""Helpers that several kernels share."""

from __future__ import annotations

import numpy as np

from ..core.jit import kernel


@kernel
def copy(source, target):
    """Copy a row inside a kernel. (For a slice assignment numba compiles the message of a possible
    error, which takes two seconds.)"""
    for i in range(len(target)):
        target[i] = source[i]


def places_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``numpy.nonzero`` of a mask (y, x) that is True in few places, faster if contiguous."""
    y, x = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return y, x


LARGEST = 2.0**24
"""No valid reference value is this large, in DN, DN/s or e/DN; larger ones count as missing."""

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


def replace_bad(
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
        Also replace values that are not above zero.

    Returns
    -------
    array : ndarray
        The input itself where nothing was bad, else a copy.
    bad : ndarray of bool or None
        Where values were replaced; None if nowhere.
    """
    if _all_usable(array) and not (positive and array.min(initial=1) <= 0):  # the usual case
        return array, None
    bad = ~(np.abs(array) < LARGEST)
    if positive:
        bad |= ~(array > 0)
    return np.where(bad, array.dtype.type(fill), array), bad


LEAST_DARK = -1.0
"""DN/s. A measured dark current is below zero by its noise, which is far less than this."""


def usable_dark(slope: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`replace_bad` with 0 for a dark current, also where it is below `LEAST_DARK`."""
    slope, bad = replace_bad(slope, 0.0)
    if slope.min(initial=0) >= LEAST_DARK:
        return slope, bad
    low = slope < LEAST_DARK
    return np.where(low, slope.dtype.type(0), slope), low if bad is None else low | bad


def with_reference_flags(dq: np.ndarray, more: np.ndarray | None, window=...) -> np.ndarray:
    """Add the flags of a reference file.

    Parameters
    ----------
    dq : ndarray (y, x) of uint32
    more : ndarray (y, x) of uint32 or None
        Flags to add.
    window : tuple of slice, optional
        Where to add them.

    Returns
    -------
    ndarray (y, x) of uint32
        A copy, or `dq` itself if there is nothing to add.
    """
    if more is None or not more[window].any():
        return dq
    out = dq.copy()
    out[window] |= more[window]
    return out


def with_flag(dq: np.ndarray, where: np.ndarray | None, flag: int, window=...) -> np.ndarray:
    """Set one flag.

    Parameters
    ----------
    dq : ndarray (y, x) of uint
    where : ndarray (y, x) of bool or None
        Pixels to flag.
    flag : int
        Its bit.
    window : tuple of slice, optional
        Only pixels inside are flagged.

    Returns
    -------
    ndarray, like `dq`
        A copy, or `dq` itself if no pixel is flagged.
    """
    if where is None or not where[window].any():
        return dq
    out = dq.copy()
    out[window] |= np.where(where[window], dq.dtype.type(flag), dq.dtype.type(0))
    return out
