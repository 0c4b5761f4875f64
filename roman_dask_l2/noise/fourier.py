"""The real series of a spectrum of half a million modes, in pieces that stay in the cache.

The transform of 2 M real numbers is one of M complex ones, and that is done as a matrix of A x B
numbers (the four-step method, Bailey 1990, doi:10.1007/BF00162341): transforms of its columns,
factors, transposition, transforms of its columns again. Column transforms are short, and many
columns are worked on at once with vector instructions, which one long transform cannot be.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..core.jit import kernel
from ..system.foreign import load

_ROWS = 32
"""Rows that are transposed at a time: whole lines of the processor's cache."""


class Workspace(NamedTuple):
    """Memory of one transform, which can be used again for the next."""

    spectrum: np.ndarray
    """(M + 1,) complex64: modes 0 to M; overwritten."""
    series: np.ndarray
    """(M,) complex64: the result as 2 M real numbers."""


class _Tables(NamedTuple):
    shape: tuple[int, int]
    """A, B."""
    packing: np.ndarray
    """(M / 2 + 1,) complex64: i exp(i pi k / M)."""
    factors: np.ndarray
    """(A, 2 B) float32: exp(2 pi i a b / M), real and imaginary parts."""


def real_series(work: Workspace) -> np.ndarray:
    """Sum of the modes of a spectrum.

        x_n = X_0 + (-1)^n X_M + 2 Re sum_{k=1}^{M-1} X_k exp(i pi k n / M),  n < 2 M

    Parameters
    ----------
    work : Workspace
        Its spectrum X_k; X_0 and X_M are real. M is even.

    Returns
    -------
    ndarray (2 M,) of float32
        `work.series` as real numbers.
    """
    m = len(work.series)
    tables = _tables(m)
    a, b = tables.shape
    c2c = load("ducc0").fft.c2c
    _pack(_reals(work.spectrum), _reals(tables.packing))
    matrix, transposed = work.spectrum[:m].reshape(a, b), work.series.reshape(b, a)
    c2c(matrix, axes=(0,), forward=False, out=matrix)
    _turn(matrix.view(np.float32), tables.factors, transposed.view(np.float64))
    c2c(transposed, axes=(0,), forward=False, out=transposed)
    return work.series.view(np.float32)


@kernel
def _pack(x, w):
    """The spectrum (2 (M + 1),) of x_{2m} + i x_{2m+1} in place of that of x_n: modes k and M - k
    at a time, which a complex transform of M numbers then makes the series of."""
    m = x.size // 2 - 1
    first, last = x[0], x[2 * m]
    for k in range(2, m + 1, 2):
        j = 2 * m - k
        sr, si, dr, di = x[k] + x[j], x[k + 1] - x[j + 1], x[k] - x[j], x[k + 1] + x[j + 1]
        tr, ti = w[k] * dr - w[k + 1] * di, w[k] * di + w[k + 1] * dr
        x[k], x[k + 1] = sr + tr, si + ti
        x[j], x[j + 1] = sr - tr, ti - si
    x[0], x[1] = first + last, first - last


@kernel
def _turn(matrix, factors, transposed):
    """Multiply by the factors, both seen as (A, 2 B) float32, and transpose into (B, A), whose
    complex numbers are moved as if they were one float64 each."""
    height, width = matrix.shape[0], matrix.shape[1]
    # The rows of the scratch are longer, so that they do not share their place in the cache.
    rows = np.empty((_ROWS, width + 16), np.float32)
    pairs = rows.view(np.float64)
    for y0 in range(0, height, _ROWS):
        n = min(_ROWS, height - y0)
        for i in range(n):
            z, w, out = matrix[y0 + i], factors[y0 + i], rows[i]
            for x in range(0, width, 2):
                out[x] = z[x] * w[x] - z[x + 1] * w[x + 1]
                out[x + 1] = z[x] * w[x + 1] + z[x + 1] * w[x]
        for x in range(transposed.shape[0]):
            line = transposed[x, y0 : y0 + n]
            for i in range(n):
                line[i] = pairs[i, x]


@lru_cache(maxsize=2)  # sides: one in a run, 6 MB of a flight detector
def _tables(m: int) -> _Tables:
    a = max(a for a in range(1, math.isqrt(m) + 1) if m % a == 0)
    b = m // a
    packing = (1j * roots(np.arange(m // 2 + 1), 2 * m)).astype(np.complex64)
    factors = np.empty((a, b), np.complex64)
    for y in range(a):  # by rows: no float64 copy of the whole
        factors[y] = roots(y * np.arange(b), m)
    packing.flags.writeable = factors.flags.writeable = False
    return _Tables((a, b), packing, factors.view(np.float32))


def _reals(values: np.ndarray) -> np.ndarray:
    return values.view(np.float32)


def roots(k: np.ndarray, n: int) -> np.ndarray:
    """exp(2 pi i k / n) to about 1e-16, by products and sums alone.

    Sines of the C library and of NumPy have another last bit on other processors.

    Parameters
    ----------
    k : ndarray of int
    n : int

    Returns
    -------
    ndarray of complex128
    """
    quarter, rest = np.divmod(4 * k + n // 2, n)  # the nearest quarter of a turn
    x = (rest - n // 2) / n * (math.pi / 2)  # |x| <= pi / 4
    square, cosine, sine = x * x, np.zeros_like(x), np.zeros_like(x)
    for i in range(9, -1, -1):
        cosine = cosine * square + (-1) ** i / math.factorial(2 * i)
        sine = sine * square + (-1) ** i / math.factorial(2 * i + 1)
    sine = sine * x
    out = np.empty(x.shape, np.complex128)
    q = quarter % 4
    out.real = np.choose(q, [cosine, -sine, -cosine, sine])
    out.imag = np.choose(q, [sine, cosine, -sine, -cosine])
    return out
