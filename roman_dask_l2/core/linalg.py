"""Small linear algebra whose last bit is the same on every machine.

BLAS and LAPACK choose their kernels by processor, so the order of sums and the use of fused
multiply-add vary: a laptop and a cluster would differ in the last bit of weights and sky
coefficients, and of some pixels. The matrices are small and computed once per exposure, so plain
elementwise operations in a fixed order are fast enough.
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Matrix product of float64 (n, k) or (k,) with (k, m) or (k,), summed in the order of k."""
    left, right = np.atleast_2d(a), b if b.ndim > 1 else b[:, np.newaxis]
    out = np.zeros((left.shape[0], right.shape[1]))
    for i in range(right.shape[0]):
        out += left[:, i, np.newaxis] * right[i]
    shape = (*a.shape[:-1], *b.shape[1:])
    return out.reshape(shape)


def cholesky(a: np.ndarray) -> np.ndarray:
    """Lower triangular factor L of a symmetric positive definite matrix, ``a = L L^T``.

    Raises
    ------
    InputError
        If the matrix is not positive definite.
    """
    rest, n = np.array(a, float), len(a)
    factor = np.zeros((n, n))
    for i in range(n):
        if not rest[i, i] > 0:
            raise InputError("read pattern: the covariance of the resultants is singular")
        factor[i:, i] = rest[i:, i] / math.sqrt(rest[i, i])
        column = factor[i + 1 :, i]
        rest[i + 1 :, i + 1 :] -= column[:, np.newaxis] * column
    return factor


def inverse(a: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix.

    Raises
    ------
    InputError
        If the matrix is not positive definite.
    """
    factor, n = cholesky(a), len(a)
    right = np.eye(n)  # becomes L^-1 by forward substitution
    for i in range(n):
        right[i] /= factor[i, i]
        right[i + 1 :] -= factor[i + 1 :, i, np.newaxis] * right[i]
    return dot(right.T, right)


def least_squares(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Coefficients c that minimise ``|design c - values|``.

    Orthogonalised twice (Gram-Schmidt), with correctly rounded sums: as good as Householder's
    reflections for the few well-conditioned polynomials of a sky model. A column that is
    a combination of earlier ones gets the coefficient zero.

    Parameters
    ----------
    design : ndarray (n, m) of float64
    values : ndarray (n,) of float64

    Returns
    -------
    ndarray (m,) of float64
    """
    m = design.shape[1]
    basis: dict[int, np.ndarray] = {}
    triangle = np.zeros((m, m))
    for j in range(m):
        column = design[:, j].copy()
        size = math.sqrt(math.fsum(column * column))
        for _ in range(2):
            for i, direction in basis.items():
                along = math.fsum(direction * column)
                triangle[i, j] += along
                column -= along * direction
        length = math.sqrt(math.fsum(column * column))
        if length > 1e-10 * size:
            triangle[j, j] = length
            basis[j] = column / length
    coefs, rest = np.zeros(m), np.array(values, float)
    projected = np.zeros(m)
    for j, direction in basis.items():
        projected[j] = math.fsum(direction * rest)
        rest -= projected[j] * direction
    for j in reversed(basis):
        later = triangle[j, j + 1 :] * coefs[j + 1 :]
        coefs[j] = math.fsum([projected[j], *-later]) / triangle[j, j]
    return coefs
