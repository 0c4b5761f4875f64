"""Work arrays for linearity polynomials on the pixels of one channel in one row.

Arrays that hold several rows are one-dimensional, row k from ``k * WIDTH`` on, and kernels count in
unsigned numbers: the compiler then knows how far apart rows are, and needs no test whether they
overlap.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ..core.detector import CHANNEL_WIDTH

WIDTH = CHANNEL_WIDTH
"""Most pixels of a segment: its coefficients in float64 fit into the first-level cache."""
ROW = np.uint64(WIDTH)
_LINE = 64
"""Bytes of a cache line, and of the longest vectors."""


class Segment(NamedTuple):
    """Work arrays of a segment."""

    single: np.ndarray
    """Coefficients of the linearity, C rows of float32."""
    p: np.ndarray
    """The same in float64,"""
    q: np.ndarray
    """and those of the inverse."""
    reads: np.ndarray
    """Estimated signal of each read of a resultant, a row of float64 for each, DN."""
    z: np.ndarray
    """Argument or value of a polynomial, (WIDTH,) of float64."""
    total: np.ndarray
    start: np.ndarray
    """Linear signal of the first resultant, (WIDTH,) of float64, DN,"""
    rate: np.ndarray
    """and its increase, DN per read,"""
    gap: np.ndarray
    """which is that between two resultants so many reads apart."""
    ends: np.ndarray
    """Their signal, 2 rows of float32, DN,"""
    linear: np.ndarray
    """and linear signal."""
    second: np.ndarray
    """The second of the two, int64."""
    place: np.ndarray
    """Where in the table of the non-linearity a reading lies, (WIDTH,) of int32,"""
    part: np.ndarray
    """how far beyond that, (WIDTH,) of float64,"""
    below: np.ndarray
    """what the table has there,"""
    above: np.ndarray
    """and at the next place."""
    result: np.ndarray
    """Linear signal, (R, WIDTH) of float32, DN."""
    bad: np.ndarray
    """Of bool: pixels whose linearity, [0], or inverse, [1], cannot be used."""


def new_segment(n_resultants: int, n_p: int, n_q: int, most_reads: int) -> Segment:
    """Work arrays for polynomials of n_p and n_q coefficients."""
    n_p, n_q = max(n_p, 2), max(n_q, 2)
    row = partial(_aligned, WIDTH)
    return Segment(
        single=_aligned(n_p * WIDTH, np.float32),
        p=_aligned(n_p * WIDTH),
        q=_aligned(n_q * WIDTH),
        reads=_aligned(most_reads * WIDTH),
        z=row(),
        total=row(),
        start=row(),
        rate=row(),
        gap=row(),
        ends=_aligned(2 * WIDTH, np.float32),
        linear=_aligned(2 * WIDTH, np.float32),
        second=row(np.int64),
        place=row(np.int32),
        part=row(),
        below=row(),
        above=row(),
        result=np.empty((n_resultants, WIDTH), np.float32),
        bad=np.empty((2, WIDTH), np.bool_),
    )


def _aligned(n: int, dtype: DTypeLike = np.float64) -> np.ndarray:
    """An empty array that begins at a cache line, so that no vector lies across two of them."""
    size = n * np.dtype(dtype).itemsize
    space = np.empty(size + _LINE, np.uint8)
    skipped = -space.ctypes.data % _LINE
    return space[skipped : skipped + size].view(dtype)
