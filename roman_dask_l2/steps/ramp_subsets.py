"""Ramp fit of pixels from which some resultants are excluded.

A resultant that is DO_NOT_USE or DROPOUT is left out of its pixel's fit. Any set of resultants may
remain, so weights cannot be tabulated. But the differences of successive used resultants have a
tridiagonal covariance, so generalised least squares takes a time proportional to their number.
(With a free intercept, fitting the differences is the same as fitting the resultants.) Neighbouring
pixels often lack the same resultants: the weights are kept until a pixel lacks others.
"""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP
from ..core.exposure import Exposure
from ..core.jit import kernel

EXCLUDING = np.uint8(GROUP["DO_NOT_USE"] | GROUP["DROPOUT"])
"""Flags of resultants that are left out."""
_JUMP = np.uint8(GROUP["JUMP_DET"])
_ROWS = 8
"""Rows of a plan, see `_prepare_fit`."""


@kernel
def _find_excluded(groupdq, ends, start, where):
    """True in `where` (y, x) if a resultant from `start` to before `ends` is to be left out."""
    n_res, ny, nx = groupdq.shape
    for y in range(ny):
        row, e = where[y], ends[y]
        for x in range(nx):
            row[x] = False
        for j in range(start, n_res):
            flags = groupdq[j, y]
            for x in range(nx):
                row[x] |= (flags[x] & EXCLUDING != 0) & (j < e[x])


def with_exclusions(groupdq: np.ndarray, ends: np.ndarray, start: int) -> np.ndarray:
    """Pixels that have a resultant to leave out before they saturate.

    Parameters
    ----------
    groupdq : ndarray (R, y, x) of uint8
    ends : ndarray (y, x) of int
        First saturated resultant, R if there is none.
    start : int
        First resultant that the exposure's fits use.

    Returns
    -------
    ndarray (y, x) of bool
    """
    where = np.empty(ends.shape, np.bool_)
    _find_excluded(groupdq, ends, start, where)
    return where


@kernel
def _enough(n, saturates, truncated_min):
    """Whether `n` resultants in use make a fit."""
    return n >= (max(truncated_min, 2) if saturates else 2)


@kernel
def _prepare_fit(used, n, two_point, times, u, plan):
    """Compute what a fit of the first `n` resultants of `used` needs, into the rows of `plan`.

    Rows: 0 weights g of the n - 1 differences (1/s), ``rate = sum g_i (S_{i+1} - S_i)``; 1, 2
    pivots and multipliers of the decomposition of the differences' covariance over sigma_read^2;
    3 weights K of the resultants (1/s); 4, 5 Poisson and read part of the covariance of each
    resultant with the slope; 6 uniform weights (1/s); 7 times (s). Returns Poisson and read part of
    the slope's variance.
    """
    t, tau, reads = times
    g, pivot, factor, k = plan[0], plan[1], plan[2], plan[3]
    light, read, uniform, at = plan[4], plan[5], plan[6], plan[7]
    for i in range(n):
        at[i] = t[used[i]]
    for i in range(n - 1):
        a, b = used[i], used[i + 1]
        # Variance C_aa + C_bb - 2 C_ab; covariance with the next difference u t_b - C_bb.
        pivot[i] = 1 / reads[a] + 1 / reads[b] + u * (tau[a] + tau[b] - 2 * t[a])
        g[i] = t[b] - t[a]
        if i:
            next_to = u * t[a] - 1 / reads[a] - u * tau[a]
            factor[i] = next_to / pivot[i - 1]
            pivot[i] -= factor[i] * next_to
            g[i] -= factor[i] * g[i - 1]
    for i in range(n - 2, -1, -1):
        g[i] /= pivot[i]
        if i < n - 2:
            g[i] -= factor[i + 1] * g[i + 1]
    norm, mean = 0.0, 0.0
    for i in range(n - 1):
        norm += g[i] * (at[i + 1] - at[i])
    for i in range(n - 1):
        g[i] = 1 / (at[n - 1] - at[0]) if two_point else g[i] / norm
    after, squares = 0.0, 0.0
    for i in range(n):
        k[i] = (g[i - 1] if i else 0.0) - (g[i] if i < n - 1 else 0.0)
        mean += at[i] / n
    for i in range(n):
        uniform[i] = at[i] - mean
        squares += uniform[i] * uniform[i]
        after += k[i]
    before, variance, noise = 0.0, 0.0, 0.0
    for i in range(n):
        uniform[i] /= squares
        j = used[i]
        after -= k[i]
        light[i] = k[i] * tau[j] + before + at[i] * after
        read[i] = k[i] / reads[j]
        before += k[i] * at[i]
        variance += k[i] * light[i]
        noise += k[i] * read[i]
    return variance, noise


@kernel
def _flag_jumps(s, used, n, plan, times, pixel, variances, thresholds, flags):
    """Set JUMP_DET in `flags` (R,): the test of `fit_ramp` on differences of resultants in use.

    `pixel` is rate, rate with the dark current (DN/s), Poisson variance per second and read-noise
    variance of one read.
    """
    _, tau, reads = times
    light, read, t = plan[4], plan[5], plan[7]
    slope, total, v, noise2 = pixel
    sa, sb, ia, ib, log_ratio = thresholds
    threshold = sa + (sb - sa) * np.log(min(max(total, ia), ib) / ia) / log_ratio
    for i in range(n - 1 if n > 2 else 0):
        for d in range(1, 2 if n == 3 or i == n - 2 else 3):
            a, b = used[i], used[i + d]
            dt = t[i + d] - t[i]
            difference = (s[b] - s[a]) / dt - slope
            if difference <= 0:
                continue
            # Variance of the difference, less twice its covariance with the slope, and the slope's.
            poisson = (tau[a] + tau[b] - 2 * t[i]) / dt**2 - 2 / dt * (light[i + d] - light[i])
            noise = (1 / reads[a] + 1 / reads[b]) / dt**2 - 2 / dt * (read[i + d] - read[i])
            var = (poisson + variances[0]) * v + (noise + variances[1]) * noise2
            if difference > threshold * np.sqrt(var):
                flags[a] |= _JUMP


@kernel
def _quality(s, used, n, plan, slope, noise2):
    """chi-square per degree of freedom, and uniform-weight slope minus the fitted one."""
    pivot, factor, uniform, t = plan[1], plan[2], plan[6], plan[7]
    flat, chi, left = 0.0, 0.0, 0.0
    for i in range(n):
        flat += uniform[i] * (s[used[i]] - s[used[0]])
    for i in range(n - 1):
        residual = s[used[i + 1]] - s[used[i]] - slope * (t[i + 1] - t[i])
        left = residual - (factor[i] * left if i else 0.0)
        chi += left * left / pivot[i]
    return chi / ((n - 2) * noise2) if n > 2 else 0.0, flat - slope


@kernel
def _in_use(groupdq, end, start, current):
    """Write the used resultants from `start` up to, but not including, `end` to `current`; returns
    their number."""
    n = 0
    for j in range(start, end):
        if groupdq[j] & EXCLUDING == 0:
            current[n] = j
            n += 1
    return n


@kernel
def _refit(ramp, maps, places, times, u, start, truncated_min, thresholds, active, groupdq, out):
    """Fit the pixels at `places` (n, 2) anew; see `refit`."""
    n_res = len(ramp)
    ends, gain, dark_slope, read_noise = maps
    rate, var_poisson, var_rnoise, err, chisq, dumo, too_few = out
    used, current = np.zeros(n_res, np.int64), np.zeros(n_res, np.int64)
    plan, s = np.zeros((_ROWS, n_res)), np.zeros(n_res)
    n_known, two_point, variances = 0, False, (0.0, 0.0)
    for place in range(len(places)):
        y, x = places[place, 0], places[place, 1]
        end = ends[y, x]
        n = _in_use(groupdq[:, y, x], end, start, current)
        saturates = end < n_res
        if not _enough(n, saturates, truncated_min):
            too_few[y, x] = True
            continue
        same = n == n_known and saturates == two_point
        for i in range(n):
            same &= used[i] == current[i]
            used[i] = current[i]
            s[current[i]] = ramp[current[i], y, x]
        if not same:
            n_known, two_point = n, saturates
            variances = _prepare_fit(used, n, two_point, times, u, plan)
        slope = 0.0
        for i in range(n - 1):
            slope += plan[0, i] * (s[used[i + 1]] - s[used[i]])
        total = slope + dark_slope[y, x]
        v = max(total / min(max(np.float64(gain[y, x]), 1e-4), 1e4), 0.0)
        noise2 = np.float64(read_noise[y, x]) ** 2
        rate[y, x], var_poisson[y, x] = slope, variances[0] * v
        var_rnoise[y, x] = variances[1] * noise2
        err[y, x] = np.sqrt(variances[0] * v + variances[1] * noise2)
        chisq[y, x], dumo[y, x] = _quality(s, used, n, plan, slope, noise2)
        if active[0] <= y < active[1] and active[2] <= x < active[3]:
            pixel = (slope, total, v, noise2)
            _flag_jumps(s, used, n, plan, times, pixel, variances, thresholds, groupdq[:, y, x])


def refit(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    where: np.ndarray,
    maps: tuple[np.ndarray, ...],
    out: tuple[np.ndarray, ...],
    *,
    u: float,
    truncated_min: int,
    thresholds: tuple[np.float32, ...],
    active: tuple[int, int, int, int],
    exposure: Exposure,
) -> np.ndarray:
    """Fit some pixels with their remaining resultants.

    Pixels that do not saturate get the optimal weights for the remaining resultants; those that do
    get the slope between the first and the last one before saturation.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN. Excluded resultants may have any value.
    groupdq : ndarray (R, y, x) of uint8
        Changed in place: JUMP_DET is set on active pixels.
    where : ndarray (y, x) of bool
        The pixels to fit.
    maps : tuple of ndarray (y, x)
        First saturated resultant (R: none), gain (e/DN), dark current in the ramp (DN/s), read
        noise of one read (DN).
    out : tuple of ndarray (y, x) of float32
        rate, var_poisson, var_rnoise, err, chisq, dumo: written where a fit was made.
    u : float
        slope / (gain sigma_read^2) of the weights, 1/s.
    truncated_min : int
        Resultants that a saturating pixel needs, at least two.
    thresholds : tuple of float32
        Of the jump test: at low and high rates, these rates, logarithm of their ratio.
    active : tuple of int
        First and last row and column of the active pixels, the last not included.
    exposure : Exposure

    Returns
    -------
    ndarray (y, x) of bool
        Pixels of `where` with too few remaining resultants.
    """
    too_few = np.zeros(where.shape, np.bool_)
    times = (exposure.tbar, exposure.tau, exposure.n_reads)
    _refit(
        ramp,
        maps,
        np.argwhere(where),
        times,
        u,
        exposure.start,
        truncated_min,
        thresholds,
        active,
        groupdq,
        (*out, too_few),
    )
    return too_few


@kernel
def _fill_weights(used, ends, times, u, truncated_min, full, weights):
    """Row by row of `used` (n, R); see `subset_weights`."""
    n_res = used.shape[1]
    current, plan = np.zeros(n_res, np.int64), np.zeros((_ROWS, n_res))
    for row in range(len(used)):
        n = 0
        for j in range(min(ends[row], n_res)):
            if used[row, j]:
                current[n] = j
                n += 1
        saturates = ends[row] < n_res
        if not _enough(n, saturates, truncated_min):
            weights[row] = full
            continue
        _prepare_fit(current, n, saturates, times, u, plan)
        for i in range(n):
            weights[row, current[i]] = plan[3, i]


def subset_weights(
    used: np.ndarray,
    ends: np.ndarray,
    full: np.ndarray,
    *,
    u: float,
    truncated_min: int,
    exposure: Exposure,
) -> np.ndarray:
    """The weights that `refit` uses.

    Parameters
    ----------
    used : ndarray (n, R) of bool
        Resultants that remain.
    ends : ndarray (n,) of int
        First saturated resultant, R if there is none.
    full : ndarray (R,) of float64
        Weights of the full ramp, for pixels with too few resultants.
    u, truncated_min, exposure
        As for `refit`.

    Returns
    -------
    ndarray (n, R) of float64
        1/s.
    """
    weights = np.zeros(used.shape)
    used = used & (np.arange(used.shape[1]) >= exposure.start)
    times = (exposure.tbar, exposure.tau, exposure.n_reads)
    _fill_weights(used, ends.astype(np.int64), times, u, truncated_min, full, weights)
    return weights


def any_excluded(groupdq: np.ndarray) -> bool:
    """Whether any resultant (R, y, x) of uint8 flags is excluded."""
    return bool((np.bitwise_or.reduce(groupdq, axis=0) & EXCLUDING).any())
