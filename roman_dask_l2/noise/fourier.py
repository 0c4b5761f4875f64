"""The real series of a spectrum of half a million modes, in pieces that stay in the cache.

The transform of 2 M real numbers is one of M complex ones, and that is done as a matrix of A x B
numbers (the four-step method, Bailey 1990, doi:10.1007/BF00162341): transforms of its columns,
factors, transforms of its rows. `WIDTH` columns or rows are worked on at once, in scratch memory
whose inner loops are vector loops, which those of one long transform are not. Real and imaginary
parts are arrays of their own.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..core.jit import kernel

WIDTH = 64
"""Transforms that are worked on at a time."""
_PIECE = 512
"""Modes that are packed at a time."""
_SQUARE = 32
"""Side of the squares in which a matrix is transposed."""


class Workspace(NamedTuple):
    """Memory of one transform, which can be used again for the next."""

    modes: np.ndarray
    """(2, M) float32: real and imaginary parts of modes 1 to M - 1, in the place of mode 0 those of
    mode M; overwritten."""
    scratch: np.ndarray
    """(B, 2 `WIDTH`) float32."""
    series: np.ndarray
    """(M,) float32, or a little more: the result."""


def workspace(m: int) -> Workspace:
    """New memory for a transform of modes up to M, an even number."""
    a, b = _shape(m)
    # In one array, for which NumPy asks for huge pages.
    sizes = (2 * m, 2 * WIDTH * b, (b + 1) // 2 * 2 * a)
    modes, scratch, series = np.split(np.zeros(sum(sizes), np.float32), np.cumsum(sizes)[:-1])
    return Workspace(modes.reshape(2, m), scratch.reshape(b, 2 * WIDTH), series)


class _Passes(NamedTuple):
    """One transform: its numbers are loaded to these places, then combined by one radix after the
    other."""

    places: np.ndarray
    """(n,) int64."""
    radices: np.ndarray
    """(passes,) int64."""
    factors: np.ndarray
    """float32: for each pass and place k < h, where h is the product of the radices before, real
    and imaginary part of exp(2 pi i j k / (h radix)), j from 1 to radix - 1."""
    roots: np.ndarray
    """(passes, largest radix, 2) float32: exp(2 pi i j / radix)."""


class _Tables(NamedTuple):
    packing: np.ndarray
    """(2, M / 2 + 1) float32: parts of i exp(i pi k / M)."""
    columns: _Passes
    rows: _Passes
    near: np.ndarray
    """(A, 2 `WIDTH`) float32: exp(2 pi i a x / M), x < `WIDTH`: real parts, then imaginary ones."""
    far: np.ndarray
    """(A, blocks, 2) float32: exp(2 pi i a x / M), x the first column of a block of `WIDTH`."""


def first_half(work: Workspace) -> np.ndarray:
    """First half of the sum of the modes of a spectrum.

        x_n = (-1)^n X_M + 2 Re sum_{k=1}^{M-1} X_k exp(i pi k n / M),  n < M

    Parameters
    ----------
    work : Workspace
        Its modes X_k; of X_M the real part counts. M is even.

    Returns
    -------
    ndarray (M,) of float32
        A view of `work.series`.
    """
    m = work.modes.shape[1]
    tables = _tables(m)
    a, b = _shape(m)
    x, y = work.modes
    _pack(x, y, *tables.packing)
    matrix = x.reshape(a, b), y.reshape(a, b)
    _columns(*matrix, work.scratch[:a], *tables.columns, tables.near, tables.far)
    _rows(*matrix, work.scratch, *tables.rows, work.series.reshape(-1, 2 * a))
    return work.series[:m]


@kernel
def _pack(x, y, u, v):
    """The modes (M,) of x_{2m} + i x_{2m+1} in place of those of x_n: modes k and M - k at a time,
    which a complex transform of M numbers then makes the series of."""
    m = x.size
    ends = np.empty((2, _PIECE), np.float32)  # what can be told apart makes vector loops
    for k in range(1, m // 2 + 1, _PIECE):
        n = min(_PIECE, m // 2 + 1 - k)
        xs, ys, us, vs = x[k : k + n], y[k : k + n], u[k : k + n], v[k : k + n]
        xe, ye = ends[0], ends[1]
        for i in range(n):
            xe[i] = x[m - k - i]
        for i in range(n):
            ye[i] = y[m - k - i]
        for i in range(n):
            sr, si, dr, di = xs[i] + xe[i], ys[i] - ye[i], xs[i] - xe[i], ys[i] + ye[i]
            tr, ti = us[i] * dr - vs[i] * di, us[i] * di + vs[i] * dr
            xs[i], ys[i], xe[i], ye[i] = sr + tr, si + ti, sr - tr, ti - si
        for i in range(n):
            x[m - k - i] = xe[i]
        for i in range(n):
            y[m - k - i] = ye[i]
    y[0] = -x[0]


@kernel
def _columns(x, y, scratch, places, radices, factors, roots, near, far):
    """Transform the columns of a matrix and multiply by the factors, in place."""
    for block in range(far.shape[1]):
        left = block * WIDTH
        n = min(WIDTH, x.shape[1] - left)
        for i in range(places.size):
            z, xs, ys = scratch[places[i]], x[i, left : left + n], y[i, left : left + n]
            for k in range(n):
                z[k], z[k + WIDTH] = xs[k], ys[k]
        _transform(scratch, radices, factors, roots)
        for i in range(places.size):
            z, w, xs, ys = scratch[i], near[i], x[i, left : left + n], y[i, left : left + n]
            u, v = far[i, block, 0], far[i, block, 1]
            for k in range(n):
                s, t = w[k] * u - w[k + WIDTH] * v, w[k] * v + w[k + WIDTH] * u
                xs[k] = z[k] * s - z[k + WIDTH] * t
                ys[k] = z[k] * t + z[k + WIDTH] * s


@kernel
def _rows(x, y, scratch, places, radices, factors, roots, out):
    """Transform the rows of a matrix into the columns of another one, (B, 2 A), whose numbers are
    pairs of real and imaginary part; only those of the first rows of `out` are kept."""
    # Longer rows do not share their place in the cache.
    square = np.empty((_SQUARE, 2 * WIDTH + 16), np.float32)
    for top in range(0, x.shape[0], WIDTH):
        n = min(WIDTH, x.shape[0] - top)
        for left in range(0, places.size, _SQUARE):
            to = places[left : left + _SQUARE]
            for i in range(n):
                xs, ys = x[top + i, left : left + _SQUARE], y[top + i, left : left + _SQUARE]
                for k in range(to.size):
                    square[k, i], square[k, i + WIDTH] = xs[k], ys[k]
            for k in range(to.size):
                z, w = scratch[to[k]], square[k]
                for i in range(2 * WIDTH):
                    z[i] = w[i]
        _transform(scratch, radices, factors, roots)
        for j in range(out.shape[0]):
            line, z = out[j, 2 * top : 2 * (top + n)], scratch[j]
            for k in range(n):
                line[2 * k], line[2 * k + 1] = z[k], z[k + WIDTH]


@kernel
def _transform(scratch, radices, factors, roots):
    """Combine the numbers of the columns of `scratch`, in place."""
    h, at = 1, 0
    for i in range(radices.size):
        radix = radices[i]
        if radix == 2:
            _combine2(scratch, h, factors[at:])
        elif radix == 4:
            _combine4(scratch, h, factors[at:])
        else:
            _combine(scratch, h, radix, factors[at:], roots[i])
        at += 2 * h * (radix - 1)
        h *= radix


@kernel
def _combine2(scratch, h, factors):
    for first in range(0, scratch.shape[0], 2 * h):
        for j in range(h):
            p, q = factors[2 * j], factors[2 * j + 1]
            a, b = scratch[first + j], scratch[first + j + h]
            for x in range(WIDTH):
                br, bi = b[x] * p - b[x + WIDTH] * q, b[x] * q + b[x + WIDTH] * p
                b[x], b[x + WIDTH] = a[x] - br, a[x + WIDTH] - bi
                a[x], a[x + WIDTH] = a[x] + br, a[x + WIDTH] + bi


@kernel
def _combine4(scratch, h, factors):
    for first in range(0, scratch.shape[0], 4 * h):
        for j in range(h):
            p, q = factors[6 * j], factors[6 * j + 1]
            r, s = factors[6 * j + 2], factors[6 * j + 3]
            u, v = factors[6 * j + 4], factors[6 * j + 5]
            a, b = scratch[first + j], scratch[first + j + h]
            c, d = scratch[first + j + 2 * h], scratch[first + j + 3 * h]
            for x in range(WIDTH):  # a vector loop: in place, four rows can still be told apart
                y = x + WIDTH
                br, bi = b[x] * p - b[y] * q, b[x] * q + b[y] * p
                cr, ci = c[x] * r - c[y] * s, c[x] * s + c[y] * r
                dr, di = d[x] * u - d[y] * v, d[x] * v + d[y] * u
                ar, ai, cr, ci = a[x] + cr, a[y] + ci, a[x] - cr, a[y] - ci
                br, bi, dr, di = br + dr, bi + di, br - dr, bi - di
                a[x], a[y] = ar + br, ai + bi
                c[x], c[y] = ar - br, ai - bi
                b[x], b[y] = cr - di, ci + dr
                d[x], d[y] = cr + di, ci - dr


@kernel
def _combine(scratch, h, radix, factors, roots):
    """Any radix: for detectors whose side is not a power of two."""
    terms = np.empty((radix, 2 * WIDTH), np.float32)
    for first in range(0, scratch.shape[0], radix * h):
        for j in range(h):
            for i in range(radix):
                p, q = np.float32(1), np.float32(0)
                if i > 0:
                    at = 2 * (j * (radix - 1) + i - 1)
                    p, q = factors[at], factors[at + 1]
                a, t = scratch[first + j + i * h], terms[i]
                for x in range(WIDTH):
                    t[x], t[x + WIDTH] = a[x] * p - a[x + WIDTH] * q, a[x] * q + a[x + WIDTH] * p
            for k in range(radix):
                a = scratch[first + j + k * h]
                a[:] = terms[0]
                for i in range(1, radix):
                    p, q = roots[i * k % radix, 0], roots[i * k % radix, 1]
                    t = terms[i]
                    for x in range(WIDTH):
                        a[x] += t[x] * p - t[x + WIDTH] * q
                        a[x + WIDTH] += t[x] * q + t[x + WIDTH] * p


def _shape(m: int) -> tuple[int, int]:
    """A and B, A B = M, as nearly equal as they can be."""
    a = max(a for a in range(1, math.isqrt(m) + 1) if m % a == 0)
    return a, m // a


@lru_cache(maxsize=2)  # sides: one in a run, 3 MB of a flight detector
def _tables(m: int) -> _Tables:
    a, b = _shape(m)
    packing = _parts(1j * roots(np.arange(m // 2 + 1), 2 * m))
    rows = np.arange(a)[:, None]
    near = np.hstack([*_parts(roots(rows * np.arange(WIDTH), m))])
    far = np.moveaxis(_parts(roots(rows * np.arange(0, b, WIDTH), m)), 0, -1)
    return _Tables(_fixed(packing), _passes(a), _passes(b), _fixed(near), _fixed(far))


def _passes(n: int) -> _Passes:
    radices = _radices(n)
    order, h = np.zeros(1, np.int64), 1
    factors = [np.empty(0)]
    turns = np.zeros((len(radices), max(radices, default=1), 2))
    for i, radix in enumerate(radices):
        order = np.concatenate([j + radix * order for j in range(radix)])
        products = np.outer(np.arange(h), np.arange(1, radix))
        factors.append(np.moveaxis(_parts(roots(products, h * radix)), 0, -1).ravel())
        turns[i, :radix] = _parts(roots(np.arange(radix), radix)).T
        h *= radix
    places = np.empty_like(order)
    places[order] = np.arange(n)
    places.flags.writeable = False
    together = _fixed(np.concatenate(factors))
    return _Passes(places, np.array(radices, np.int64), together, _fixed(turns))


def _radices(n: int) -> list[int]:
    """Factors of n: odd ones, a two if there is one left, fours."""
    fours, odd = 0, []
    while n % 4 == 0:
        n, fours = n // 4, fours + 1
    two, n = (1, n // 2) if n % 2 == 0 else (0, n)
    divisor = 3
    while n > 1:
        if n % divisor == 0:
            odd.append(divisor)
            n //= divisor
        else:
            divisor += 2
    return [*odd, *[2] * two, *[4] * fours]


def _parts(values: np.ndarray) -> np.ndarray:
    return np.stack([values.real, values.imag])


def _fixed(table: np.ndarray) -> np.ndarray:
    table = np.ascontiguousarray(table, np.float32)
    table.flags.writeable = False
    return table


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
