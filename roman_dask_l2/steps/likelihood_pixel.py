"""The likelihood fit of one pixel, whatever its differences: kernels without vectors.

The covariance V of the used differences is tridiagonal, so its factorisation L D L' costs O(n), and
gives, beside ``x = V^-1 1`` and ``z = V^-1 d``, the diagonal w and the first off-diagonal o of
V^-1. With these the improvement of chi-square by leaving out any difference, or any two in a row,
is known without another fit: leaving out is the same as fitting an unknown step to it.
"""

from __future__ import annotations

import numpy as np

from ..core.jit import kernel


@kernel
def solve(used, d, u, tables, x, z, w, o):
    """Solve ``V x = 1`` and ``V z = d`` on the used differences; x, z, w and o are 0 elsewhere.

    `u` is the ratio of Poisson to read noise of `likelihood_tables.Tables`; d (n,) in DN/s. Returns
    the sums of x and of z: the rate is sum(z) / sum(x), its variance 1 / sum(x).
    """
    n = len(used)
    # Forward; w holds 1/D, o the factor l towards the next difference, x and z the right sides.
    factor, right, before = 0.0, 0.0, 0.0
    for i in range(n):
        x[i], z[i], w[i], o[i] = 0.0, 0.0, 0.0, 0.0
        if not used[i]:
            factor = 0.0
            continue
        pivot = u * tables.light[i] + tables.read[i]
        x[i], z[i] = 1.0, d[i]
        if factor != 0.0:
            pivot -= factor * before
            x[i] -= factor * x[i - 1]
            z[i] -= factor * z[i - 1]
        w[i] = 1.0 / pivot
        factor = 0.0
        if i + 1 < n and used[i + 1]:
            before = u * tables.light_next[i] + tables.read_next[i]
            factor = before * w[i]
            o[i] = factor
    total, right = 0.0, 0.0
    for i in range(n - 1, -1, -1):
        if not used[i]:
            continue
        x[i] *= w[i]
        z[i] *= w[i]
        if o[i] != 0.0:
            factor = o[i]
            x[i] -= factor * x[i + 1]
            z[i] -= factor * z[i + 1]
            o[i] = -factor * w[i + 1]
            w[i] -= factor * o[i]
        total += x[i]
        right += z[i]
    return total, right


@kernel
def worst(used, x, z, w, o, total, rate, scale, limits, most, pairs):
    """The difference, or two in a row, that stands out most: (index, how many; 0 if none does).

    `scale` is the squared read noise, in whose units V is; `limits` are those of chi-square for one
    and for two, and whether only rises count; `most` may be dropped. Of two differences the larger
    is the jump, since charge is only added; of more than two those that improve chi-square most.
    """
    n = len(used)
    n_used = 0
    for i in range(n):
        n_used += used[i]
    if n_used < 2 or most < 1:
        return 0, 0
    rises = limits[2]
    best_one, best_two, one, two = -np.inf, -np.inf, 0, 0
    for i in range(n):
        if not used[i]:
            continue
        r = z[i] - rate * x[i]
        v = w[i] - x[i] * x[i] / total
        gain = r * r / v / scale - limits[0]
        if n_used == 2:  # either improves chi-square equally, up to rounding
            best_one = max(gain, best_one)
            one = i if r > 0 else one
        elif gain > best_one and (r > 0 or not rises):
            best_one, one = gain, i
        if n_used > 2 and most > 1 and pairs[i] and used[i + 1]:
            r2 = z[i + 1] - rate * x[i + 1]
            v2 = w[i + 1] - x[i + 1] * x[i + 1] / total
            c = o[i] - x[i] * x[i + 1] / total
            # Sizes of the two steps that fit best, times the determinant.
            step, step2 = v2 * r - c * r2, v * r2 - c * r
            gain = (step * r + step2 * r2) / (v * v2 - c * c) / scale
            if gain - limits[1] > best_two and ((step >= 0 and step2 >= 0) or not rises):
                best_two, two = gain - limits[1], i
    if best_one > best_two:
        return one, 1 if best_one > 0 else 0
    return two, 2 if best_two > 0 else 0


@kernel
def search(used, d, u, scale, limits, most, tables, x, z, w, o):
    """Drop differences that a jump has raised from `used`; returns the rate without them.

    The covariance stays that of `u` for the whole search. (Brandt 2024, PASP 136, 045005.)
    """
    n = len(used)
    n_used, dropped = 0, 0
    for i in range(n):
        n_used += used[i]
    rate = np.nan
    for turn in range(n + 1):
        total, right = solve(used, d, u, tables, x, z, w, o)
        rate = right / total if n_used else np.nan
        if turn > 0 and n_used <= 3:
            break
        left = most - dropped
        i, many = worst(used, x, z, w, o, total, rate, scale, limits, left, tables.pairs)
        if many == 0:
            break
        for k in range(i, i + many):
            used[k] = False
        n_used -= many
        dropped += many
    return rate


@kernel
def moments(used, d, u, total, rate, x, tables):
    """chi-square of the fit and its Poisson variance, in units of the squared read noise.

    The first from the residuals, so that nothing cancels; `x` and `total` are those of `solve`.
    """
    n = len(used)
    chi, light = 0.0, 0.0
    before, right, factor = 0.0, 0.0, 0.0
    for i in range(n):
        if not used[i]:
            factor = 0.0
            continue
        pivot = u * tables.light[i] + tables.read[i] - factor * before
        right = d[i] - rate - factor * right
        chi += right * right / pivot
        light += tables.light[i] * x[i] * x[i]
        factor = 0.0
        if i + 1 < n and used[i + 1]:
            before = u * tables.light_next[i] + tables.read_next[i]
            factor = before / pivot
            light += 2 * tables.light_next[i] * x[i] * x[i + 1]
    return chi, u * light / (total * total)


@kernel
def difference_weights(used, u, tables, weights):
    """Write to `weights` (pixels, n) the weights w of the differences in each pixel's rate.

    Parameters
    ----------
    used : ndarray (pixels, n) of bool
    u : ndarray (pixels,) of float32
        Ratio of Poisson to read noise, 1/s.
    tables : Tables
    weights : ndarray (pixels, n) of float64
        They add up to 1; all are 0 where no difference is used.
    """
    n_pixels, n = used.shape
    d = np.zeros(n)
    x, z, w, o = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    for p in range(n_pixels):
        total, _ = solve(used[p], d, np.float64(u[p]), tables, x, z, w, o)
        for i in range(n):
            weights[p, i] = x[i] / total if total > 0 else 0.0
