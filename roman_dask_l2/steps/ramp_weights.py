"""Weights, errors and jump tests of the ramp fit, tabulated for every length of a ramp."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..core.exposure import Exposure
from ..core.linalg import cholesky, dot, inverse
from .ramp_params import RampFitParams


@dataclass(frozen=True)
class Fit:
    """Constants of the fit of a ramp that ends before resultant `n`.

    Attributes
    ----------
    k : ndarray (R,) of float32
        Weights: ``rate = sum_j k_j (S_j - S_1)``, 1/s.
    read : float
        Read error over the read noise of one read, 1/s.
    poisson : float
        Poisson variance per DN^2/s of rate variance, 1/s.
    pairs : ndarray (n_pairs, 2) of int
        Resultants (i, i + d) whose difference is tested for a jump.
    pair_dt, pair_a, pair_b : ndarray (n_pairs,) of float32
        Time between them (s); variance ``a v + b sigma^2`` of the difference, with the
        read noise sigma of the pixel.
    """

    n: int
    k: np.ndarray
    read: float
    poisson: float
    pairs: np.ndarray
    pair_dt: np.ndarray
    pair_a: np.ndarray
    pair_b: np.ndarray


def optimal_weights(exposure: Exposure, u: float) -> np.ndarray:
    """Weights of the optimal slope for one ratio of Poisson to read noise.

    Generalised least squares with ``C_ii = 1/N_i + u tau_i``, ``C_ij = u tbar_min(i,j)``
    (Casertano et al. 2022, Roman-STScI-000394): with F0 = sum W_ij, F1 = sum W_ij tbar_j,
    F2 = sum tbar_i W_ij tbar_j and W = C^-1, ``K = (F0 W t - F1 W 1)/(F0 F2 - F1^2)``.

    Parameters
    ----------
    exposure : Exposure
    u : float
        slope / (gain sigma_read^2), 1/s.

    Returns
    -------
    ndarray (R,) of float32
        1/s; zero for resultants that are not used.
    """
    start = exposure.start
    t = exposure.tbar[start:]
    w = inverse(scaled_covariance(exposure, u))
    w1, wt = w.sum(axis=1), dot(w, t)
    f0, f1, f2 = w1.sum(), wt.sum(), dot(t, wt)
    k = np.zeros(exposure.n_resultants, np.float32)
    k[start:] = (f0 * wt - f1 * w1) / (f0 * f2 - f1**2)
    return k


def scaled_covariance(exposure: Exposure, u: float) -> np.ndarray:
    """Covariance of the used resultants over sigma_read^2, see `optimal_weights`.

    Parameters
    ----------
    exposure : Exposure
    u : float
        slope / (gain sigma_read^2), 1/s.

    Returns
    -------
    ndarray (n, n) of float64
        n resultants from `exposure.start` on.
    """
    start = exposure.start
    t, tau, n = exposure.tbar[start:], exposure.tau[start:], exposure.n_reads[start:]
    c = u * np.minimum(t[:, None], t[None, :])
    np.fill_diagonal(c, 1 / n + u * tau)
    return c


def two_point_weights(exposure: Exposure, n: int) -> np.ndarray:
    """Weights of the slope between the first used resultant and resultant n - 1.

    Returns
    -------
    ndarray (R,) of float32
        1/s.
    """
    k = np.zeros(exposure.n_resultants, np.float32)
    t = exposure.tbar.astype(np.float32)  # float32 throughout: the last bit matters
    k[n - 1] = np.float32(1) / (t[n - 1] - t[exposure.start])
    k[exposure.start] = -k[n - 1]
    return k


def _variance_terms(w: np.ndarray, exposure: Exposure) -> tuple[float, float]:
    """(a, b) such that ``sum_j w_j S_j`` has variance ``a v + b sigma^2``."""
    w = w.astype(np.float64)
    cross = np.triu(np.outer(w, w) * exposure.tbar[:, None], 1).sum()
    return float((w**2 * exposure.tau).sum() + 2 * cross), float((w**2 / exposure.n_reads).sum())


def make_fit(exposure: Exposure, k: np.ndarray, n: int) -> Fit:
    """All constants of a fit with weights `k` to the resultants before `n`.

    Parameters
    ----------
    exposure : Exposure
    k : ndarray (R,) of float32
        Weights, 1/s.
    n : int

    Returns
    -------
    Fit
        Pairs to test for jumps as in Sharma & Casertano (2024, PASP 136, 054504).
    """
    start, t = exposure.start, exposure.tbar
    poisson, read = _variance_terms(k, exposure)
    pairs, dts, a, b = [], [], [], []
    # With two resultants the only difference is the slope itself: a test would see only rounding.
    for i in range(start, n - 1) if n - start > 2 else ():
        for d in (1, 2):
            # With three resultants, or at the end, the double difference tests nothing new.
            if d == 2 and (i == n - 2 or n - 1 - start == 2):
                continue
            dt = t[i + d] - t[i]
            w = -k.astype(np.float64)
            w[i + d] += 1 / dt
            w[i] -= 1 / dt
            terms = _variance_terms(w, exposure)
            pairs.append((i, i + d))
            dts.append(dt)
            a.append(terms[0])
            b.append(terms[1])
    return Fit(
        n,
        k,
        np.sqrt(read),
        poisson,
        np.array(pairs, np.int64).reshape(-1, 2),
        np.array(dts, np.float32),
        np.array(a, np.float32),
        np.array(b, np.float32),
    )


@lru_cache(maxsize=64)
def fits(exposure: Exposure, params: RampFitParams) -> list[Fit]:
    """The fits for every number n = 0..R of resultants before saturation.

    Where n leaves too few resultants, the weights of the full ramp are used, and no pair is tested.

    Returns
    -------
    list of Fit
        R + 1 of them; the last is that of a full ramp.
    """
    r = exposure.n_resultants
    full = make_fit(
        exposure,
        optimal_weights(exposure, params.noise_ratio),
        r,
    )
    untested = make_fit(exposure, full.k, 0)
    return [
        make_fit(exposure, two_point_weights(exposure, n), n)
        if n - exposure.start >= params.truncated_min
        else untested
        for n in range(r)
    ] + [full]


@lru_cache(maxsize=64)
def fit_tables(exposure: Exposure, params: RampFitParams):
    """`fits` as rectangular arrays for compiled kernels.

    Returns
    -------
    tuple of ndarray
        For every n = 0..R: `k`, `read`, `poisson`, the number of pairs, and, padded with zeros to
        the largest number, `pairs`, `pair_dt`, `pair_a`, `pair_b` of `Fit`.
    """
    table = fits(exposure, params)
    most = max(len(f.pairs) for f in table)

    def padded(name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        out: np.ndarray = np.zeros((len(table), most, *shape), dtype)
        for row, f in zip(out, table, strict=True):
            values = getattr(f, name)
            row[: len(values)] = values
        return out

    return (
        np.array([f.k for f in table], np.float32),
        np.array([f.read for f in table], np.float32),
        np.array([f.poisson for f in table], np.float32),
        np.array([len(f.pairs) for f in table]),
        padded("pairs", (2,), np.int64),
        padded("pair_dt", (), np.float32),
        padded("pair_a", (), np.float32),
        padded("pair_b", (), np.float32),
    )


@lru_cache(maxsize=64)
def quality_tables(exposure: Exposure, params: RampFitParams):
    """For every n = 0..R: whitened residual operator and uniform weights.

    chi-square = |T S|^2 / sigma^2 with T S the residuals of the fit, whitened by the Cholesky
    factor of the inverse scaled covariance that the weights assume, best-fit intercept removed.

    Returns
    -------
    whiten : ndarray (R + 1, R, R) of float32
        T, over the root of the degrees of freedom.
    uniform : ndarray (R + 1, R) of float32
        Weights of the unweighted slope, 1/s.
    """
    r, start = exposure.n_resultants, exposure.start
    c = scaled_covariance(exposure, params.noise_ratio)
    whiten = np.zeros((r + 1, r, r), np.float32)
    uniform = np.zeros((r + 1, r), np.float32)
    for n, fit in enumerate(fits(exposure, params)):
        used = n - start if n - start >= params.truncated_min else r - start
        t = exposure.tbar[start : start + used]
        dev = t - t.mean()
        uniform[n, start : start + used] = dev / (dev**2).sum()
        if used < 3:
            continue
        w = inverse(c[:used, :used])
        project = np.eye(used) - np.outer(t, fit.k[start : start + used])
        project -= np.outer(np.ones(used), dot(w.sum(axis=0), project) / w.sum())
        factor = cholesky(w).T / np.sqrt(used - 2)
        whiten[n, :used, start : start + used] = dot(factor, project)
    return whiten, uniform
