"""Rounding to half precision, as arrays of Level-2 files are stored."""

from __future__ import annotations

import numpy as np

from .jit import kernel


def to_float16(array: np.ndarray) -> np.ndarray:
    """Convert to float16, clipped to its range so that overflow does not become infinity.

    Parameters
    ----------
    array : ndarray of float
        Any shape; NaN stays NaN.

    Returns
    -------
    ndarray of float16
    """
    values = np.ascontiguousarray(array, np.float32)
    out = np.empty(values.shape, np.uint16)
    _convert(values.reshape(-1), values.reshape(-1).view(np.uint32), out.reshape(-1))
    return out.view(np.float16)


@kernel
def _convert(values, bits, out):
    """Bits of float16 for float32 `values` (with their `bits`), rounded to nearest even.

    NumPy converts element by element; this loop is vectorised. Normal numbers are rounded as
    integers. For those below 2^-14 adding 1/2 rounds: the last bit of the sum is float16's.
    """
    step = 4096
    sums = np.empty(step, np.float32)
    sum_bits = sums.view(np.uint32)
    for start in range(0, len(values), step):
        n = min(step, len(values) - start)
        v, b, target = values[start : start + n], bits[start : start + n], out[start : start + n]
        for i in range(n):
            sums[i] = abs(v[i]) + np.float32(0.5)
        for i in range(n):
            size = b[i] & np.uint32(0x7FFFFFFF)
            odd = (size >> np.uint32(13)) & np.uint32(1)
            normal = (size + np.uint32(0xFFF) + odd - np.uint32(0x38000000)) >> np.uint32(13)
            small = sum_bits[i] - np.uint32(0x3F000000)
            h = normal if size >= np.uint32(0x38800000) else small
            h = np.uint32(0x7BFF) if h > np.uint32(0x7BFF) else h
            h = np.uint32(0x7E00) if size > np.uint32(0x7F800000) else h
            target[i] = np.uint16(h | ((b[i] >> np.uint32(16)) & np.uint32(0x8000)))


def round_to_float16(array: np.ndarray) -> np.ndarray:
    """Round to the nearest float16 value (clipped to its range), returned as float32."""
    largest = np.finfo(np.float16).max
    return np.clip(array, -largest, largest).astype(np.float16).astype(np.float32)
