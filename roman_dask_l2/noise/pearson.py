"""Draws with the second to fourth moments of pseudo-Poisson noise (layer O).

Pearson's system has exactly one distribution for a variance mu2, a squared skewness beta1 and a
kurtosis beta2. With ``c = 2 beta2 - 3 beta1 - 6`` and ``r = 6 (beta2 - beta1 - 1)/|c|``
(Johnson, Kotz & Balakrishnan 1994, Continuous Univariate Distributions 1, chapter 12; type IV in
Heinrich 2004, CDF/MEMO/STATISTICS/PUBLIC/6820):

====  ========================================  ==================================================
I     c < 0                                     beta (a, b), a + b = r
III   c = 0                                     gamma of shape 4/beta1 (normal for beta1 = 0)
IV    c > 0, d = 16(r-1) - beta1(r-2)^2 > 0     cot(phi), density sin(phi)^r exp(-nu phi) in (0, pi)
V     c > 0, d = 0                              1/gamma of shape r + 1
VI    c > 0, d < 0                              beta prime (p, r + 1)
====  ========================================  ==================================================

Nothing exists for beta2 <= beta1 + 1. The condition beta1 < 32 that comes with type IV needs no
test: c > 0 means r > 3, and then d > 0 means beta1 < 16(r-1)/(r-2)^2 < 32.

Every draw is exact: gammas by Marsaglia & Tsang (2000, ACM Trans. Math. Softw. 26, 363), beta by
the normal rejection of Ahrens & Dieter (1974, Computing 12, 223; their algorithm BN) or as a ratio
of gammas, type IV by rejection under the tangents of its log-concave density in phi (Devroye 1986,
Non-Uniform Random Variate Generation, chapter VII.2).
"""

from __future__ import annotations

from math import atan2, cos, exp, log, log1p, pi, sin, sqrt

import numpy as np

from ..core.detector import Window
from ..core.exposure import Exposure
from ..core.jit import kernel
from .difference_weights import frame_limits, weight_powers
from .poisson import check_rows, frame_weights, whole

_LOWEST_RATE = 0.01
"""e/s: the lowest signal for which moments are computed."""
_BOUNDARY = 1e-10
"""Relative distance in beta2 (or d) at which a pair counts as type III (or V). On such a border the
general formulas lose digits (r, nu or p grow without bound), but the distributions are continuous
across it: taking the border's own changes moments by about 1e-10, far below any sample's error."""
_NO_SKEW = 1e-14
"""beta1 below which a type III is a normal: a skewness of 1e-7."""

_SYMMETRIC = 0.6
"""4 m (1-m), for a beta variate of mode m, above which a normal is a good proposal."""


def moments(exposure: Exposure, weights: np.ndarray) -> np.ndarray:
    """Moments of pseudo-Poisson noise per e/s of signal.

    Parameters
    ----------
    exposure : Exposure
    weights : ndarray (R + 1, R) of float
        K for every value of `ends`, 1/s.

    Returns
    -------
    ndarray (R + 1, 3) of float64
        t21, t31, t41 of `pearson_noise`: with ``nm1 = sum_s T_s^m``,
        t21 = n21, t31 = n31 - 3 n21^2, t41 = n41 - 10 n21 n31 - 3 n21^3 + 18 n21^3,
        times frame_time, its square and its cube.
    """
    t = frame_weights(exposure, weights)
    # The formulas of `_per_signal`; a kernel may round powers differently.
    n2, n3, n4 = ((t**m).sum(axis=-1) for m in (2, 3, 4))
    t31 = n3 - 3 * n2**2
    t41 = n4 - 10 * n2 * n3 - n2 * 3 * n2**2 + 18 * n2**3
    return np.stack([n2, t31, t41], axis=-1) * exposure.frame_time ** np.array([1.0, 2.0, 3.0])


@kernel
def _per_signal(n2, n3, n4, frame_time):
    """`moments` from the sums of the second, third and fourth power of T."""
    t31 = n3 - 3 * n2**2
    t41 = n4 - 10 * n2 * n3 - n2 * 3 * n2**2 + 18 * n2**3
    return n2 * frame_time, t31 * frame_time**2, t41 * frame_time**3


def pearson_noise(
    rng: np.random.Generator,
    level: np.ndarray,
    gain: np.ndarray,
    ends: np.ndarray,
    weights: np.ndarray,
    exposure: Exposure,
) -> tuple[np.ndarray, np.ndarray]:
    """One draw of zero mean for every pixel of a block.

    With the electron rate ``I = max(g * level, 0.01)`` and `moments`: mu2 = t21 I,
    beta1 = t31^2/(t21^3 I), beta2 = 3 + t41/(t21^2 I), skew of the sign of t31; divided by g.

    Parameters
    ----------
    rng : numpy.random.Generator
    level : ndarray (y, x) of float
        Signal, DN/s. Not finite: the pixel gets no noise.
    gain : ndarray (y, x) of float
        e/DN, clipped to 1e-4 .. 1e4; 1 where it is not finite.
    ends : ndarray (y, x) of int
        The ramp ends before this resultant, R for a full ramp; more: a further row of `weights`.
    weights : ndarray (R + 1 or more, R) of float
        K for every value of `ends`, 1/s: ``Fit.k`` of `roman_dask_l2.steps.ramp_weights.fits`, and
        further rows of `own_weights`.
    exposure : Exposure

    Returns
    -------
    noise : ndarray (y, x) of float32
        DN/s.
    inadmissible : ndarray (y, x) of bool
        Pixels whose moments no distribution has; their noise is 0.
    """
    noise, inadmissible = np.empty(level.shape, np.float32), np.zeros(level.shape, np.bool_)
    blocks = PearsonNoise(level, gain, ends, weights, exposure)
    blocks.draw(rng, whole(noise), noise, inadmissible)
    return noise, inadmissible


class PearsonNoise:
    """`pearson_noise` of several blocks, for all of which what does not depend on chance is worked
    out once.

    Parameters
    ----------
    level, gain, ends, weights, exposure
        As for `pearson_noise`, on an array that holds the blocks.

    Raises
    ------
    ValueError
        If `ends` has a row that `weights` lacks.
    """

    def __init__(
        self,
        level: np.ndarray,
        gain: np.ndarray,
        ends: np.ndarray,
        weights: np.ndarray,
        exposure: Exposure,
    ) -> None:
        ends = np.ascontiguousarray(ends, np.int64)
        check_rows(ends, weights)
        self._light = np.ascontiguousarray(level), np.ascontiguousarray(gain), ends
        self._moments = moments(exposure, weights)
        self._full = exposure.n_resultants

    def draw(
        self,
        rng: np.random.Generator,
        place: Window,
        noise: np.ndarray,
        inadmissible: np.ndarray,
    ) -> None:
        """Write the noise of one block, which is at `place` in the arrays, DN/s; mark its
        inadmissible pixels."""
        _noise(rng, place, *self._light, self._full, self._moments, noise, inadmissible)


def own_pearson_noise(
    rng: np.random.Generator,
    level: np.ndarray,
    gain: np.ndarray,
    coefficients: np.ndarray,
    exposure: Exposure,
) -> tuple[np.ndarray, np.ndarray]:
    """`pearson_noise` with weights of its own for every pixel.

    Parameters
    ----------
    rng, level, gain, exposure
        As for `pearson_noise`.
    coefficients : ndarray (R - 1, y, x) of float64
        Of the differences of resultants in each pixel's rate, 1/s, from `difference_coefficients`.
        A pixel without any gets no noise.

    Returns
    -------
    noise : ndarray (y, x) of float32
        DN/s.
    inadmissible : ndarray (y, x) of bool
        Where no distribution has these moments.
    """
    sums = np.empty((3, level.size))
    weight_powers(coefficients.reshape(-1, level.size), frame_limits(exposure), sums)
    noise = np.empty(level.shape, np.float32)
    own = sums.reshape(3, *level.shape)
    inadmissible = np.zeros(level.shape, np.bool_)
    _own_noise(rng, level, gain, own, exposure.frame_time, noise, inadmissible)
    return noise, inadmissible


@kernel
def _noise(rng, place, level, gain, ends, full, moments, noise, inadmissible):
    """Noise of a block, which is at `place`, into `noise`; marks the inadmissible pixels. Row
    `full` of `moments` is that of most pixels."""
    x0, x1 = place.x0, place.x1
    nx = x1 - x0
    n_ends = len(moments)
    mu2, beta1, excess = np.empty(n_ends), np.empty(n_ends), np.empty(n_ends)  # at 1 e/s
    for e in range(n_ends):
        t21, t31, t41 = moments[e]
        mu2[e], beta1[e], excess[e] = t21, t31 * t31 / (t21 * t21 * t21), t41 / (t21 * t21)
    g, charge = np.empty(nx), np.empty(nx)
    z, u = np.empty(nx), np.empty(nx)
    m, n, t = np.empty(nx), np.empty(nx), np.empty(nx)
    tried, kept = np.empty(nx, np.bool_), np.empty(nx, np.bool_)
    for y in range(place.y0, place.y1):
        light, its_gain, its_ends = level[y, x0:x1], gain[y, x0:x1], ends[y, x0:x1]
        out, bad = noise[y, x0:x1], inadmissible[y, x0:x1]
        for x in range(nx):
            g[x] = its_gain[x]
            g[x] = min(max(g[x], 1e-4), 1e4) if np.isfinite(g[x]) else 1.0
            signal = g[x] * light[x]
            charge[x] = max(signal, _LOWEST_RATE) if np.isfinite(signal) else np.nan
        for x in range(nx):
            z[x] = rng.standard_normal()
            u[x] = 1 - rng.random()
        _try_symmetric(
            charge, mu2[full], beta1[full], excess[full], z, u, m, n, t, tried, kept, out
        )
        for x in range(nx):
            e = its_ends[x]
            if e == full and (kept[x] or (tried[x] and _accept(m[x], n[x], t[x], u[x]))):
                out[x] /= g[x]
                out[x] = -out[x] if moments[e, 1] < 0 else out[x]
                continue
            out[x] = 0
            if np.isfinite(charge[x]):
                i = charge[x]
                draw = pearson_variate(rng, mu2[e] * i, beta1[e] / i, excess[e] / i, moments[e, 1])
                if np.isfinite(draw):
                    out[x] = draw / g[x]
                else:
                    bad[x] = True


@kernel
def _try_symmetric(charge, mu2, beta1, excess, z, u, m, n, t, tried, kept, out):
    """One proposal of the normal rejection for every pixel of a row, in a loop without branches: in
    most exposures it makes nearly all draws.

    `tried` where the method suits the pixel, `kept` where the first test accepts `out`.
    """
    slope = -6 / (2 * excess - 3 * beta1)
    for x in range(len(charge)):
        m[x], n[x], t[x], tried[x], kept[x], out[x] = _propose(
            charge[x], slope, mu2, beta1, excess, z[x], u[x]
        )


@kernel
def _propose(i, slope, mu2, beta1, excess, z, u):
    """The proposal for one pixel: m, n, t, tried, kept and the draw. No branches, for speed."""
    r = slope * (2 * i + excess - beta1)
    q = beta1 / i * (r + 2) * (r + 2)
    width2 = q + 16 * (r + 1)
    a = r / 2 * (1 - np.sqrt(q / width2))
    n = r - 2
    m = (a - 1) / n
    t = z * 0.5 / np.sqrt(n)
    tried = (slope > 0) & (r < 1e9) & (a > 2) & (4 * m * (1 - m) > _SYMMETRIC)
    u1, u2 = 1 / m, 1 / (1 - m)
    third = (u1 * u1 - u2 * u2) / 3
    fourth = (u1 * u1 * u1 + u2 * u2 * u2) / 2
    bound = n * t * t * (2 - (u1 + u2) / 2 + t * (third - t * fourth))
    kept = tried & (abs(t) < 0.5 * m) & (u < 1 + bound)
    return m, n, t, tried, kept, np.sqrt(mu2 * i) * np.sqrt(width2) / 2 * (m - a / r + t)


@kernel
def _own_noise(rng, level, gain, sums, frame_time, noise, inadmissible):
    """`_noise` with the sums (3, y, x) of the second to fourth power of T of every pixel; those of
    a pixel without weights are 0."""
    ny, nx = noise.shape
    g, charge = np.empty(nx), np.empty(nx)
    mu2, beta1, excess = np.empty(nx), np.empty(nx), np.empty(nx)
    third = np.empty(nx)
    z, u = np.empty(nx), np.empty(nx)
    m, n, t = np.empty(nx), np.empty(nx), np.empty(nx)
    tried, kept = np.empty(nx, np.bool_), np.empty(nx, np.bool_)
    for y in range(ny):
        out = noise[y]
        for x in range(nx):
            t21, t31, t41 = _per_signal(sums[0, y, x], sums[1, y, x], sums[2, y, x], frame_time)
            g[x] = gain[y, x]
            g[x] = min(max(g[x], 1e-4), 1e4) if np.isfinite(g[x]) else 1.0
            signal = g[x] * level[y, x]
            known = np.isfinite(signal) & (t21 > 0)
            charge[x] = max(signal, _LOWEST_RATE) if known else np.nan
            third[x], mu2[x], beta1[x] = t31, t21, t31 * t31 / (t21 * t21 * t21)
            excess[x] = t41 / (t21 * t21)
        for x in range(nx):
            z[x] = rng.standard_normal()
            u[x] = 1 - rng.random()
        for x in range(nx):
            slope = -6 / (2 * excess[x] - 3 * beta1[x])
            m[x], n[x], t[x], tried[x], kept[x], out[x] = _propose(
                charge[x], slope, mu2[x], beta1[x], excess[x], z[x], u[x]
            )
        for x in range(nx):
            sign, i = third[x], charge[x]
            if kept[x] or (tried[x] and _accept(m[x], n[x], t[x], u[x])):
                out[x] = (-out[x] if sign < 0 else out[x]) / g[x]
                continue
            out[x] = 0
            if np.isfinite(i):
                draw = pearson_variate(rng, mu2[x] * i, beta1[x] / i, excess[x] / i, sign)
                if np.isfinite(draw):
                    out[x] = draw / g[x]
                else:
                    inadmissible[y, x] = True


@kernel
def pearson_variate(rng, mu2, beta1, excess, sign):
    """One draw of zero mean and given moments, a kernel.

    Parameters
    ----------
    rng : numpy.random.Generator
    mu2, beta1, excess : float
        Variance, squared skewness, kurtosis less 3. (Not the kurtosis, because the excess of bright
        pixels is 1e-6 and less.)
    sign : float
        The skewness has this sign.

    Returns
    -------
    float
        NaN, which `pearson_noise` counts and replaces by 0, if no distribution has these moments.
    """
    above = 2 + excess - beta1  # beta2 - (beta1 + 1)
    if not (mu2 > 0 and mu2 < np.inf and beta1 >= 0 and above > _BOUNDARY * (1 + beta1)):
        return np.nan  # among them all NaN; the border itself has two values only
    c = 2 * excess - 3 * beta1
    if abs(c) <= _BOUNDARY * (1 + beta1):
        z = _type_iii(rng, beta1)
    elif c < 0:
        z = _type_i(rng, beta1, -6 * above / c)
    else:
        r = 6 * above / c
        d = 16 * (r - 1) - beta1 * (r - 2) ** 2
        if abs(d) <= _BOUNDARY * 16 * (r - 1):
            z = (r / _gamma(rng, r + 1) - 1) * sqrt(r - 1)
        elif d > 0:
            z = _type_iv(rng, beta1, r, d)
        else:
            # Beta prime (p, q) has mean p/(q-1), variance p (p+q-1)/((q-2)(q-1)^2), and q = r + 1.
            # p = r/2 ((r-2) sqrt(beta1/-d) - 1), without its cancellation near type III.
            h = 16 * (r - 1) / (beta1 * (r - 2) ** 2)
            p = r / 2 * h / (sqrt(1 - h) * (1 + sqrt(1 - h)))
            y = _gamma(rng, p) / _gamma(rng, r + 1)
            z = (y - p / r) * r * sqrt((r - 1) / (p * (p + r)))
    return sqrt(mu2) * (-z if sign < 0 else z)


@kernel
def _type_iii(rng, beta1):
    if beta1 < _NO_SKEW:
        return rng.standard_normal()
    shape = 4 / beta1
    return (_gamma(rng, shape) - shape) / sqrt(shape)


@kernel
def _type_i(rng, beta1, r):
    """Standardised beta variate of positive skew, a <= b, a + b = r."""
    # a = r/2 (1 - root), without the cancellation where b is much larger than a.
    q = beta1 * (r + 2) * (r + 2)
    width2 = q + 16 * (r + 1)
    root = sqrt(q / width2)
    a = r / 2 * (16 * (r + 1) / width2) / (1 + root)
    b = r / 2 * (1 + root)
    mean, width = a / r, sqrt(width2) / 2
    n = r - 2
    m = (a - 1) / n
    if a > 2 and 4 * m * (1 - m) > _SYMMETRIC:
        while True:
            t = rng.standard_normal() * 0.5 / sqrt(n)
            if _accept(m, n, t, 1 - rng.random()):
                return width * (m - mean + t)
    # Logarithms, because both variates of small shape can be below the smallest float.
    ratio = exp(min(_log_gamma(rng, b) - _log_gamma(rng, a), 700.0))
    return width * (1 / (1 + ratio) - mean)


@kernel
def _accept(m, n, t, u):
    """Whether t, normal of variance 1/(4n), is kept as beta variate minus its mode m.

    The beta density over that at m, which stays below the normal's because
    ``m ln(x/m) + (1-m) ln((1-x)/(1-m)) <= -2 (x-m)^2``. It takes more than 0.7 of the proposals
    where ``4 m (1-m) > _SYMMETRIC``. (`_try_symmetric` has a lower bound, by Taylor series.)
    """
    if not -m < t < 1 - m:
        return False
    return log(u) < n * (m * log1p(t / m) + (1 - m) * log1p(-t / (1 - m)) + 2 * t * t)


@kernel
def _type_iv(rng, beta1, r, d):
    """Standardised type IV variate of positive skew; d > 0.

    cot(phi) of the density sin(phi)^r exp(-nu phi), in terms of t = phi minus its mode: with
    k = nu/r, sin(phi) is cos(t) + k sin(t) times a constant and cot(phi) is k - w(t). (Differences
    to the mode, because near the types III and V r or nu is large.)
    """
    k = (r - 2) * sqrt(beta1 / d)
    mode = atan2(1.0, k)
    # The logarithm of the density is concave, so below its tangents: below 0, its height at the
    # mode, and outside two points below the tangents there. A good height to touch is about -1.
    step = sin(mode) * sqrt(2 / r)  # where a parabola falls by 1
    left, right = max(-step, -0.5 * mode), min(step, 0.5 * (pi - mode))
    rise, fall = -r * _w(k, left), r * _w(k, right)
    # Where the tangents reach the height 0.
    x0 = left - _log_density(r, k, left) / rise
    x1 = right + _log_density(r, k, right) / fall
    while True:
        v = rng.random() * (1 / rise + (x1 - x0) + 1 / fall)
        height = 0.0
        if v < 1 / rise:
            height = -rng.standard_exponential()
            t = x0 + height / rise
        elif v < 1 / rise + 1 / fall:
            height = -rng.standard_exponential()
            t = x1 - height / fall
        else:
            t = x0 + (x1 - x0) * rng.random()
        if not -mode < t < pi - mode:
            continue
        if height - rng.standard_exponential() < _log_density(r, k, t):
            return -sqrt(d) / 4 * _w(k, t)


@kernel
def _log_density(r, k, t):
    half = sin(t / 2)
    return r * (log1p(k * sin(t) - 2 * half * half) - k * t)


@kernel
def _w(k, t):
    return (1 + k * k) * sin(t) / (cos(t) + k * sin(t))


@kernel
def _gamma(rng, shape):
    """Gamma variate of unit scale."""
    return _gamma_from_1(rng, shape) if shape >= 1 else exp(_log_gamma(rng, shape))


@kernel
def _log_gamma(rng, shape):
    """Logarithm of a gamma variate; for shape < 1 from that of shape + 1, as they propose."""
    if shape >= 1:
        return log(_gamma_from_1(rng, shape))
    return log(_gamma_from_1(rng, shape + 1)) + log(1 - rng.random()) / shape


@kernel
def _gamma_from_1(rng, shape):
    """Gamma variate of shape >= 1."""
    d = shape - 1 / 3
    c = 1 / sqrt(9 * d)
    while True:
        x = rng.standard_normal()
        v = 1 + c * x
        if v <= 0:
            continue
        v = v * v * v
        u = 1 - rng.random()
        if u < 1 - 0.0331 * x * x * x * x or log(u) < 0.5 * x * x + d * (1 - v + log(v)):
            return d * v
