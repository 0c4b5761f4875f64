"""Flags of resultants as bits: one of uint8 for eight resultants."""

from __future__ import annotations

import numpy as np

from .jit import kernel


def pack(values: np.ndarray, flags: int, start: int = 0) -> np.ndarray:
    """Pack into bits which resultants have any of some flags.

    Parameters
    ----------
    values : ndarray (R, y, x) of uint8
    flags : int
    start : int
        First resultant that counts; the bits of those before it are 0.

    Returns
    -------
    ndarray (ceil(R / 8), y, x) of uint8
        Bit j % 8 of plane j // 8 stands for resultant j.
    """
    packed = np.zeros((-(-len(values) // 8), *values.shape[1:]), np.uint8)
    _pack(values, np.uint8(flags), start, packed)
    return packed


@kernel
def _pack(values, flags, start, packed):
    for j in range(start, values.shape[0]):
        mark = np.uint8(1 << (j & 7))
        for y in range(values.shape[1]):
            value, bits = values[j, y], packed[j >> 3, y]
            for x in range(values.shape[2]):
                bits[x] |= mark if value[x] & flags else np.uint8(0)


def unpack(bits: np.ndarray, n_resultants: int) -> np.ndarray:
    """The inverse of `pack`: (R, ...) of bool."""
    return np.unpackbits(bits, axis=0, count=n_resultants, bitorder="little").astype(bool)
