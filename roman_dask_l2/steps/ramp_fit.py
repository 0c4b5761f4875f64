"""Ramp fit with fixed weights, jump detection, and the folding of flags into two dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.float16 import round_to_float16
from ..core.jit import kernel
from ..core.linalg import cholesky, dot, inverse
from ..core.step import Params, Step, Tile
from .common import finite, flagged, joined
from .ramp_subsets import EXCLUDING, refit, with_exclusions

_DNU = np.uint8(GROUP["DO_NOT_USE"])
_SAT = np.uint8(GROUP["SATURATED"])
_JUMP = np.uint8(GROUP["JUMP_DET"])
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])


class RampFitParams(Params):
    """Parameters of `fit_ramp`."""

    slope: float = 0.4
    """Rate for which the weights are optimal, DN/s."""
    gain: float = 1.8
    """Gain for which the weights are optimal, e/DN."""
    sigma_read: float = 6.5
    """Read noise of one read for which the weights are optimal, DN."""
    threshold_a: float = 5.5
    """Jump threshold (sigma) at rates up to `rate_a`."""
    threshold_b: float = 4.5
    """Jump threshold (sigma) at rates from `rate_b` up."""
    rate_a: float = 1.0
    """DN/s."""
    rate_b: float = 1000.0
    """DN/s."""
    truncated_min: int = 2
    """Used resultants before saturation that a two-point fit needs (romanimpreprocess: 3)."""
    dark_noise: bool = False
    """The dark current was taken off the ramp before: count its shot noise all the same."""
    ipc_noise: bool = False
    """The ramp was corrected for inter-pixel capacitance, which amplifies read noise: count it."""
    quality: bool = True
    """Compute chisq and dumo (romanimpreprocess writes zeros)."""
    exclude: bool = True
    """Leave resultants that are DO_NOT_USE or DROPOUT out of their pixel's fit (romanimpreprocess
    fits them)."""
    check_references: bool = True
    """Take a read noise that is not positive for missing; romanimpreprocess works with it."""
    reference_dq: bool = True
    """Join the read-noise file's flags, if it has any."""
    half_precision_errors: bool = False
    """Round err and var_poisson to float16 as soon as they are known, as romanimpreprocess does."""


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
    """Covariance of the used resultants over sigma_read^2, float64."""
    start = exposure.start
    t, tau, n = exposure.tbar[start:], exposure.tau[start:], exposure.n_reads[start:]
    c = u * np.minimum(t[:, None], t[None, :])
    np.fill_diagonal(c, 1 / n + u * tau)
    return c


def two_point_weights(exposure: Exposure, n: int) -> np.ndarray:
    """Weights of the slope between the first used resultant and resultant n - 1."""
    k = np.zeros(exposure.n_resultants, np.float32)
    t = exposure.tbar.astype(np.float32)  # in this precision throughout: the last bit counts
    k[n - 1] = np.float32(1) / (t[n - 1] - t[exposure.start])
    k[exposure.start] = -k[n - 1]
    return k


def _variance_terms(w: np.ndarray, exposure: Exposure) -> tuple[float, float]:
    """(a, b) such that ``sum_j w_j S_j`` has variance ``a v + b sigma^2``."""
    w = w.astype(np.float64)
    cross = np.triu(np.outer(w, w) * exposure.tbar[:, None], 1).sum()
    return float((w**2 * exposure.tau).sum() + 2 * cross), float((w**2 / exposure.n_reads).sum())


def make_fit(exposure: Exposure, k: np.ndarray, n: int) -> Fit:
    """All constants of a fit with weights `k` on the resultants before `n`."""
    start, t = exposure.start, exposure.tbar
    poisson, read = _variance_terms(k, exposure)
    pairs, dts, a, b = [], [], [], []
    # The one difference of two resultants is the slope itself: only rounding would be tested.
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
    """The fit for every n = number of resultants before saturation, n = 0..R.

    Where n leaves too few resultants the full weights stand, without pairs to test.
    """
    r = exposure.n_resultants
    full = make_fit(
        exposure,
        optimal_weights(exposure, params.slope / (params.gain * params.sigma_read**2)),
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
def _tables(exposure: Exposure, params: RampFitParams):
    """`fits` as rectangular arrays for the compiled kernel."""
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
    """For every n: whitened residual operator (n, R, R) and uniform weights (n, R), float32.

    chi-square = |T S|^2 / sigma^2 with T S the residuals of the fit, whitened by the Cholesky
    factor of the inverse scaled covariance that the weights assume, best-fit intercept removed.
    """
    r, start = exposure.n_resultants, exposure.start
    c = scaled_covariance(exposure, params.slope / (params.gain * params.sigma_read**2))
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


@kernel
def _first_saturated(groupdq, start, ends):
    """Index of the first resultant flagged SATURATED, R if there is none; returns all flags of the
    resultants from `start` on."""
    n_res, ny, nx = groupdq.shape
    seen, every = np.zeros(nx, np.uint8), np.uint8(0)
    for y in range(ny):
        row = ends[y]
        for x in range(nx):
            row[x] = n_res
        for j in range(n_res - 1, -1, -1):
            flags, index = groupdq[j, y], np.int16(j)
            for x in range(nx):
                row[x] = index if flags[x] & _SAT else row[x]
            if j >= start:
                for x in range(nx):
                    seen[x] |= flags[x]
    for x in range(nx):
        every |= seen[x]
    return every


@kernel
def _fit_pixels(ramp, gain, dark_slope, ends, k, poisson, start, rate, var_poisson):
    """Slope and Poisson variance of every pixel.

    `rate` is the sum over resultants in their order, of differences to resultant 1 (the weights
    add up to zero, so any would do), without fused multiply-add: the last bit counts. All pixels
    of a row are fitted as full ramps first, which is vectorised, then the few that saturate again
    with their own weights.
    """
    n_res, ny, nx = ramp.shape
    for y in range(ny):
        slope, first = rate[y], ramp[1, y]
        for x in range(nx):
            slope[x] = 0
        for j in range(start, n_res):
            weight, s = k[n_res, j], ramp[j, y]
            for x in range(nx):
                slope[x] += weight * (s[x] - first[x])
        for x in range(nx):
            e = ends[y, x]
            if e < n_res:
                total = np.float32(0)
                for j in range(start, n_res):
                    # Not times zero: a resultant after saturation may hold anything.
                    if k[e, j] != 0:
                        total += k[e, j] * (ramp[j, y, x] - first[x])
                slope[x] = total
        for x in range(nx):
            g = min(max(np.float64(gain[y, x]), 1e-4), 1e4)
            v = max(np.float32((slope[x] + dark_slope[y, x]) / g), np.float32(0))
            var_poisson[y, x] = poisson[ends[y, x]] * v


@kernel
def _flag_jumps(
    ramp,
    gain,
    dark_slope,
    read_noise,
    active,
    ends,
    rate,
    n_pairs,
    pairs,
    dt,
    pair_a,
    pair_b,
    thresholds,
    groupdq,
):
    """Set JUMP_DET in `groupdq` on active pixels; see `fit_ramp`.

    Almost no difference is near the threshold, so a first look over whole rows, without square
    root or logarithm and two per cent too generous, finds the pixels that are tested in earnest.
    """
    n_res, _, nx = ramp.shape
    sa, sb, ia, ib, log_ratio = thresholds
    lowest = np.float32(0.98) * min(sa, sb) * abs(min(sa, sb))
    v, noise2 = np.empty(nx, np.float32), np.empty(nx, np.float32)
    total = np.empty(nx, np.float32)
    suspect = np.empty(nx, np.bool_)
    y0, y1, x0, x1 = active
    for y in range(y0, y1):
        slope = rate[y]
        for x in range(nx):
            g = min(max(np.float64(gain[y, x]), 1e-4), 1e4)
            total[x] = slope[x] + dark_slope[y, x]
            v[x] = max(np.float32(total[x] / g), np.float32(0))
            noise2[x] = read_noise[y, x] * read_noise[y, x]
            suspect[x] = ends[y, x] < n_res
        for p in range(n_pairs[n_res]):
            early, late = ramp[pairs[n_res, p, 0], y], ramp[pairs[n_res, p, 1], y]
            per_time = np.float32(1) / dt[n_res, p]
            a, b = pair_a[n_res, p], pair_b[n_res, p]
            for x in range(nx):
                d = (late[x] - early[x]) * per_time - slope[x]
                var = a * v[x] + b * noise2[x]
                suspect[x] |= (d > 0) & (d * d > lowest * var)
        for x in range(x0, x1):
            if not suspect[x]:
                continue
            e = ends[y, x]
            clipped = min(max(total[x], ia), ib)
            threshold = sa + (sb - sa) * np.float32(np.log(clipped / ia)) / log_ratio
            for p in range(n_pairs[e]):
                i = pairs[e, p, 0]
                d = (ramp[pairs[e, p, 1], y, x] - ramp[i, y, x]) / dt[e, p] - slope[x]
                var = pair_a[e, p] * v[x] + pair_b[e, p] * noise2[x]
                if d > 0 and d / np.sqrt(var) > threshold:
                    groupdq[i, y, x] |= _JUMP


@kernel
def _quality(ramp, read_noise, ends, whiten, uniform, start, rate, chisq, dumo):
    """chi-square per degree of freedom and uniform-minus-optimal slope of every pixel."""
    n_res, ny, nx = ramp.shape
    z = np.empty(nx, np.float32)
    for y in range(ny):
        first, chi, slope = ramp[start, y], chisq[y], dumo[y]
        for x in range(nx):
            chi[x] = 0
            slope[x] = 0
        for i in range(n_res - start):
            for x in range(nx):
                z[x] = 0
            for j in range(start + 1, n_res):
                weight, s = whiten[n_res, i, j], ramp[j, y]
                if weight != 0:
                    for x in range(nx):
                        z[x] += weight * (s[x] - first[x])
            for x in range(nx):
                chi[x] += z[x] * z[x]
        for j in range(start + 1, n_res):
            weight, s = uniform[n_res, j], ramp[j, y]
            for x in range(nx):
                slope[x] += weight * (s[x] - first[x])
        for x in range(nx):
            e = ends[y, x]
            if e < n_res:
                chi[x] = 0
                slope[x] = 0
                for i in range(n_res - start):
                    total = np.float32(0)
                    for j in range(start + 1, n_res):
                        if whiten[e, i, j] != 0:
                            total += whiten[e, i, j] * (ramp[j, y, x] - first[x])
                    chi[x] += total * total
                for j in range(start + 1, n_res):
                    if uniform[e, j] != 0:
                        slope[x] += uniform[e, j] * (ramp[j, y, x] - first[x])
            slope[x] -= rate[y, x]
            chi[x] /= read_noise[y, x] * read_noise[y, x]


@kernel
def _fold(groupdq, pixeldq, ends, start, dq, endslice):
    """Fold resultant flags into `dq`, on pixels that are not reference pixels."""
    n_res, ny, nx = groupdq.shape
    seen, unusable = np.empty(nx, np.uint8), np.empty(nx, np.uint8)
    for y in range(ny):
        last, e, before, folded = endslice[y], ends[y], pixeldq[y], dq[y]
        for x in range(nx):
            last[x] = -1
            seen[x] = 0
            unusable[x] = _DNU
        for j in range(n_res):
            f = groupdq[j, y]
            for x in range(nx):
                unusable[x] &= f[x]
                seen[x] |= np.uint8(0) if f[x] & _SAT else f[x] & ~_DNU
            if j + 1 < n_res:
                following, index = groupdq[j + 1, y], np.int16(j)
                for x in range(nx):
                    last[x] = index if following[x] & ~f[x] & _SAT else last[x]
        if start + 1 < n_res:
            f = groupdq[start + 1, y]
            for x in range(nx):
                unusable[x] |= _DNU if f[x] & _SAT else np.uint8(0)
        for x in range(nx):
            flags = np.uint32(seen[x] | (unusable[x] & _DNU))
            flags |= np.uint32(_SAT) if e[x] < n_res else np.uint32(0)
            folded[x] = before[x] | (np.uint32(0) if before[x] & _REFERENCE else flags)


@kernel
def _errors(read_noise, read, ends, var_poisson, var_rnoise, err):
    """Read-noise variance, and the root of the sum of both, in the order of NumPy's functions."""
    n_res = len(read) - 1
    for y in range(len(ends)):
        e, noise, total = ends[y], read_noise[y], err[y]
        for x in range(len(e)):
            total[x] = noise[x] * read[n_res]
        for x in range(len(e)):
            if e[x] < n_res:
                total[x] = noise[x] * read[e[x]]
        variance, light = var_rnoise[y], var_poisson[y]
        for x in range(len(e)):
            sigma = total[x]
            variance[x] = sigma * sigma
            poisson = np.sqrt(light[x])
            squares = np.float64(sigma) * sigma + np.float64(poisson) * poisson
            total[x] = np.float32(np.sqrt(squares))  # as hypotf does


def fit_ramp(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    read_noise: np.ndarray,
    dark_slope: np.ndarray | None = None,
    ipc: np.ndarray | None = None,
    read_dq: np.ndarray | None = None,
    *,
    tile: Tile,
    exposure: Exposure,
    params: RampFitParams,
) -> tuple[np.ndarray, ...]:
    """Fit the slope of every pixel and its errors, find jumps, and gather the pixel's flags.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    gain : ndarray (y, x) of float32 or float64
        e/DN.
    read_noise : ndarray (y, x) of float32
        Standard deviation sigma of one read, DN.
    dark_slope : ndarray (y, x) of float32, optional
        Dark current that was subtracted from the ramp, DN/s. Its shot noise is in the ramp still,
        so it counts in the errors and in the jump test.
    ipc : ndarray (3, 3, y, x) of float32, optional
        Kernel by which the ramp was corrected. To first order the correction multiplies
        uncorrelated noise by one over the share that a pixel keeps, so sigma is divided by it.
    read_dq : ndarray (y, x) of uint32, optional

    Returns
    -------
    rate : ndarray (y, x) of float32
        DN/s. Pixels that saturate at resultant e with at least `truncated_min` used resultants
        before it have the slope between the first used resultant and e - 1.
    err, var_poisson, var_rnoise : ndarray (y, x) of float32
        DN/s and its square. ``var_rnoise = sigma^2 sum K_j^2 / N_j``; ``var_poisson`` is
        ``sum K_j^2 tau_j + 2 sum_{i<j} K_i K_j tbar_i`` times
        v = max((rate + dark_slope) / gain, 0).
    groupdq : ndarray (R, y, x) of uint8
        With JUMP_DET (Sharma & Casertano 2024, PASP 136, 054504): a resultant i whose difference
        to resultant i + 1 or i + 2 exceeds the slope by more than the threshold.
    dq : ndarray (y, x) of uint32
        UNRELIABLE_ERROR where the read noise is not finite or not positive (`sigma_read` stands
        in).
    endslice : ndarray (y, x) of int16
        e - 1 of the last transition into saturation, else -1.
    chisq, dumo : ndarray (y, x) of float32
    """
    shape = ramp.shape[1:]
    gain, _ = finite(gain, 1.0)
    read_noise, bad_noise = finite(read_noise, params.sigma_read, params.check_references)
    if ipc is not None:
        read_noise = amplified(read_noise, ipc, tile)
    if dark_slope is None:
        dark_slope = np.zeros((1, 1), np.float32)
    dark_slope = np.broadcast_to(finite(dark_slope, 0.0)[0], shape)
    start = exposure.start
    ends = np.empty(shape, np.int16)
    seen = _first_saturated(groupdq, start, ends)
    groupdq = groupdq.copy()
    # Nearly all pixels use all resultants, up to a common end. Those that do not are fitted again.
    common, where = ends, None
    if params.exclude and seen & EXCLUDING:
        where = with_exclusions(groupdq, ends, start)
        common = np.where(where, np.int16(0), ends)  # the full weights, and no jump test
    found = _fit_common(
        ramp,
        groupdq,
        gain,
        dark_slope,
        read_noise,
        common,
        tile=tile,
        exposure=exposure,
        params=params,
    )
    dq = np.empty(shape, np.uint32)
    endslice = np.empty(shape, np.int16)
    pixeldq = joined(pixeldq, read_dq, tile.active)
    pixeldq = flagged(pixeldq, bad_noise, PIXEL["UNRELIABLE_ERROR"], tile.active)
    if where is not None and where.any():
        lacking = refit(
            ramp,
            groupdq,
            where,
            (ends, gain, dark_slope, read_noise),
            found,
            u=params.slope / (params.gain * params.sigma_read**2),
            truncated_min=params.truncated_min,
            thresholds=_thresholds(params),
            active=_active(tile),
            exposure=exposure,
        )
        lacking &= pixeldq & _REFERENCE == 0
        pixeldq = flagged(pixeldq, lacking, PIXEL["DO_NOT_USE"])
        if not params.quality:
            for values in found[4:]:
                values.fill(0)
    _fold(groupdq, pixeldq, ends, start, dq, endslice)
    rate, var_poisson, var_rnoise, err, chisq, dumo = found
    if params.half_precision_errors:
        err, var_poisson = round_to_float16(err), round_to_float16(np.sqrt(var_poisson) ** 2)
        var_rnoise = np.clip(err**2 - var_poisson, 0, None)
    return rate, err, var_poisson, var_rnoise, groupdq, dq, endslice, chisq, dumo


def _thresholds(params: RampFitParams) -> tuple[np.float32, ...]:
    """Of the jump test: at low and high rates, these rates, logarithm of their ratio."""
    a, b = params.rate_a, params.rate_b
    return tuple(np.float32(v) for v in (params.threshold_a, params.threshold_b, a, b, log(b / a)))


def _active(tile: Tile) -> tuple[int, int, int, int]:
    """First and last row and column of the active pixels, the last not included."""
    rows, columns = tile.active
    return rows.start, rows.stop, columns.start, columns.stop


def _fit_common(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    gain: np.ndarray,
    dark_slope: np.ndarray,
    read_noise: np.ndarray,
    ends: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
    params: RampFitParams,
) -> tuple[np.ndarray, ...]:
    """Fit pixels that use all resultants before `ends`; sets JUMP_DET in `groupdq`.

    Returns rate, var_poisson, var_rnoise, err, chisq and dumo, (y, x) of float32.
    """
    shape, start = ramp.shape[1:], exposure.start
    k, read, poisson, n_pairs, pairs, pair_dt, pair_a, pair_b = _tables(exposure, params)
    rate, var_poisson = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _fit_pixels(ramp, gain, dark_slope, ends, k, poisson, start, rate, var_poisson)
    var_rnoise, err = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _errors(read_noise, read, ends, var_poisson, var_rnoise, err)
    _flag_jumps(
        ramp,
        gain,
        dark_slope,
        read_noise,
        _active(tile),
        ends,
        rate,
        n_pairs,
        pairs,
        pair_dt,
        pair_a,
        pair_b,
        _thresholds(params),
        groupdq,
    )
    chisq, dumo = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    if params.quality:
        whiten, uniform = quality_tables(exposure, params)
        _quality(ramp, read_noise, ends, whiten, uniform, start, rate, chisq, dumo)
    return rate, var_poisson, var_rnoise, err, chisq, dumo


def amplified(read_noise: np.ndarray, ipc: np.ndarray, tile: Tile) -> np.ndarray:
    """Read noise after the correction of inter-pixel capacitance, on active pixels."""
    share = ipc[1, 1][tile.active]
    out = read_noise.copy()
    out[tile.active] /= np.where((share > 0.1) & (share < 10), share, np.float32(1))
    return out


def _references(params: RampFitParams) -> dict[str, str]:
    references = {"gain": "gain.data", "read_noise": "read.data"}
    references |= {"dark_slope": "dark.dark_slope"} if params.dark_noise else {}
    references |= {"read_dq": "read.dq"} if params.reference_dq else {}
    return references | ({"ipc": "ipc4d.data"} if params.ipc_noise else {})


step = Step(
    name="ramp_fit",
    kernel=fit_ramp,
    reads=("ramp", "groupdq", "pixeldq"),
    writes=(
        "rate",
        "err",
        "var_poisson",
        "var_rnoise",
        "groupdq",
        "dq",
        "endslice",
        "chisq",
        "dumo",
    ),
    references=_references,
    params=RampFitParams,
    settings={
        "slope": "RAMP_OPT_PARS.slope",
        "gain": "RAMP_OPT_PARS.gain",
        "sigma_read": "RAMP_OPT_PARS.sigma_read",
        "threshold_a": "JUMP_DETECT_PARS.SthreshA",
        "threshold_b": "JUMP_DETECT_PARS.SthreshB",
        "rate_a": "JUMP_DETECT_PARS.IthreshA",
        "rate_b": "JUMP_DETECT_PARS.IthreshB",
    },
    sets={
        "groupdq": ("JUMP_DET",),
        # All but the last are folded in from the resultants. What is WFI18_TRANSIENT there has
        # the bit of OUTLIER here.
        "dq": (
            "DO_NOT_USE",
            "SATURATED",
            "JUMP_DET",
            "DROPOUT",
            "AD_FLOOR",
            "OUTLIER",
            "UNRELIABLE_ERROR",
        ),
    },
    cal_step="ramp_fit",
)
