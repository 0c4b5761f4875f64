"""Pearson layer: every type against its distribution function and its moments.

False alarms: seeds are fixed, so a test that passed once passes always. For another seed, a
Kolmogorov-Smirnov test fails by chance with probability 1e-6, a moment with 2e-9 (6 sigma).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.jit import kernel
from roman_dask_l2.noise.pearson import moments, pearson_noise, pearson_variate
from roman_dask_l2.noise.poisson import frame_weights
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import fits

EIGHT = tuple(tuple(range(a, b)) for a, b in pairwise((0, 1, 2, 4, 10, 26, 32, 34, 35)))
EXPOSURE = Exposure(256, EIGHT, 3.04)
WEIGHTS = np.array([f.k for f in fits(EXPOSURE, RampFitParams())])


def generator(seed=1):
    return np.random.Generator(np.random.Philox(seed))


@kernel
def _fill(rng, mu2, beta1, excess, sign, out):
    for i in range(len(out)):
        out[i] = pearson_variate(rng, mu2, beta1, excess, sign)


def pearson_draw(rng, mu2, beta1, beta2, sign, n):
    """`n` draws of zero mean with these moments; NaN if no distribution has them."""
    out = np.empty(n)
    _fill(rng, float(mu2), float(beta1), float(beta2) - 3, float(sign), out)
    return out


class TypeIV:
    """Pearson IV by numbers: cot(phi), density sin(phi)^r exp(-nu phi) in (0, pi)."""

    def __init__(self, r, nu):
        # Dense where phi is small: that is the tail. Simpson's rule on every other point.
        phi = np.pi * np.linspace(0, 1, 400_001)[1:-1] ** 2
        log_density = r * np.log(np.sin(phi)) - nu * phi + 0.5 * np.log(phi)
        p = np.exp(log_density - log_density.max())
        self.x = (1 / np.tan(phi))[::-1]
        self.p = p[::-1] / p.sum()
        self.cumulative = np.cumsum(self.p) - self.p / 2

    def cdf(self, x):
        return np.interp(x, self.x, self.cumulative)

    def moment(self, n):
        return (self.p * self.x**n).sum()


def standard(distribution):
    """Mean, standard deviation, skewness and kurtosis of a distribution."""
    raw = [distribution.moment(n) for n in (1, 2, 3, 4)]
    mean, sigma = raw[0], np.sqrt(raw[1] - raw[0] ** 2)
    third = raw[2] - 3 * mean * raw[1] + 2 * mean**3
    fourth = raw[3] - 4 * mean * raw[2] + 6 * mean**2 * raw[1] - 3 * mean**4
    return mean, sigma, third / sigma**3, fourth / sigma**4


def standard_moments(skewness, kurtosis):
    """Moments 0..8 by the recursion that Pearson's differential equation gives, without types:
    p'/p = -(c1 + x)/(c0 + c1 x + c2 x^2) (Johnson, Kotz & Balakrishnan 1994, eq. 12.38)."""
    beta1 = skewness**2
    scale = 10 * kurtosis - 12 * beta1 - 18
    c0 = (4 * kurtosis - 3 * beta1) / scale
    c1 = skewness * (kurtosis + 3) / scale
    c2 = (2 * kurtosis - 3 * beta1 - 6) / scale
    m = [1.0, 0.0]
    for n in range(1, 8):
        m.append(n * (c0 * m[n - 1] + c1 * m[n]) / (1 - (n + 2) * c2))
    return m


def assert_moments(x, skewness, kurtosis, extra=0.0):
    """Mean to fourth moment of standardised draws; their errors need moments up to the eighth."""
    m = standard_moments(skewness, kurtosis)
    assert m[2:5] == pytest.approx([1, skewness, kurtosis], abs=1e-6)
    x = x.astype(np.float64).ravel()
    for n in range(1, 5):
        error = np.sqrt(max(m[2 * n] - m[n] ** 2, 0) / x.size)
        assert abs((x**n).mean() - m[n]) < 6 * error + extra, n


KNOWN = {
    "I, nearly symmetric": stats.beta(24.0, 31.0),
    "I, skewed": stats.beta(2.5, 40.0),
    "I, J-shaped": stats.beta(0.7, 3.0),
    "I, U-shaped": stats.beta(0.3, 0.5),
    "II, no skew": stats.beta(6.0, 6.0),
    "III": stats.gamma(3.7),
    "III, J-shaped": stats.gamma(1.0),
    "normal": stats.norm(),
    "IV": TypeIV(12.0, 9.0),
    "IV, nearly symmetric": TypeIV(40.0, 2.0),
    "IV, nearly V": TypeIV(9.5, 900.0),
    "V": stats.invgamma(11.0),
    "V, no eighth moment": stats.invgamma(5.0),
    "VI": stats.betaprime(2.0, 10.0),
    "VI, J-shaped": stats.betaprime(0.6, 12.0),
    "VI, no eighth moment": stats.betaprime(3.0, 5.0),
    "VII": stats.t(11.0),
    "VII, no eighth moment": stats.t(5.0),
}


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_distribution(name, mirror):
    """beta1 and beta2 of a known distribution must lead back to it."""
    mean, sigma, skewness, kurtosis = standard(KNOWN[name])
    sign = -1 if mirror ^ (skewness < 0) else 1
    x = pearson_draw(generator(), 4.0, skewness**2, kurtosis, sign, 200_000) / 2
    assert stats.kstest((-x if mirror else x) * sigma + mean, KNOWN[name].cdf).pvalue > 1e-6


@pytest.mark.parametrize("name", [name for name in KNOWN if "no eighth" not in name])
def test_moments_of_each_type(name):
    _, _, skewness, kurtosis = standard(KNOWN[name])
    x = pearson_draw(generator(2), 0.25, skewness**2, kurtosis, skewness, 500_000) / 0.5
    assert_moments(x, skewness, kurtosis)


def test_two_peaks():
    """Just inside what is admissible there are almost only two values; moments still agree."""
    for skewness, above in ((0.0, 1e-8), (1.0, 1e-3), (3.0, 1e-6)):
        kurtosis = skewness**2 + 1 + above
        x = pearson_draw(generator(2), 1.0, skewness**2, kurtosis, 1, 500_000)
        assert_moments(x, skewness, kurtosis, extra=1e-9)


@pytest.mark.parametrize(
    ("border", "beta1", "beta2"),
    [("III", 0.4, 3.6), ("III", 0.0, 3.0), ("III", 1e-9, 3 + 1.5e-9), ("V", 1.0, 4.8)],
)
def test_continuous_across_the_borders(border, beta1, beta2):
    """Just beside a border, on either side, the draws follow the border's distribution."""
    if border == "V":  # (beta1, beta2) of 1/gamma of shape a
        a = 9.0
        beta1, beta2 = 16 * (a - 2) / (a - 3) ** 2, 3 + 6 * (5 * a - 11) / ((a - 3) * (a - 4))
    on = np.sort(pearson_draw(generator(3), 1.0, beta1, beta2, 1, 100_000))
    for nudge in (1e-3, 1e-6, 1e-9, 1e-10, 1e-13):
        for side in (-1, 1):
            x = pearson_draw(generator(4), 1.0, beta1, beta2 * (1 + side * nudge), 1, 100_000)
            assert np.isfinite(x).all()
            assert stats.ks_2samp(x, on).pvalue > 1e-6, (nudge, side)


def test_inadmissible_pairs():
    for beta1, beta2 in ((0, 1), (0, 0.5), (2, 3), (2, 2.9), (1e6, 1e6), (0, -4), (np.nan, 3),
                         (1, np.nan), (-1, 3), (np.inf, 3), (1, np.inf)):  # fmt: skip
        assert np.isnan(pearson_draw(generator(), 1.0, beta1, beta2, 1, 100)).all()
    for mu2 in (0, -1, np.nan, np.inf):
        assert np.isnan(pearson_draw(generator(), mu2, 0.1, 3, 1, 100)).all()


@given(
    beta1=st.one_of(st.just(0.0), st.floats(1e-12, 1e8), st.floats(0, 40)),
    above=st.one_of(st.floats(1e-8, 1e8), st.floats(0.1, 10)),
    border=st.sampled_from(["none", "III", "V"]),
    nudge=st.sampled_from([0, 1e-16, -1e-16, 1e-12, -1e-12, 1e-10, -1e-10, 1e-9, -1e-9, 1e-5]),
    sign=st.sampled_from([-1, 0, 1]),
)
@example(beta1=1e8, above=1e-9, border="none", nudge=0, sign=1)
@example(beta1=0.0, above=1e-9, border="none", nudge=0, sign=1)
@example(beta1=8e6, above=1.0, border="III", nudge=1e-10, sign=-1)
@example(beta1=0.0, above=1e8, border="none", nudge=0, sign=1)
def test_admissible_pairs_never_give_nan(beta1, above, border, nudge, sign):
    beta2 = beta1 + 1 + above * (1 + beta1)
    if border == "III":
        beta2 = 3 + 1.5 * beta1
    elif border == "V" and beta1 < 30:
        # Positive root s = (a - 3) of beta1 (a - 3)^2 = 16 (a - 2).
        a = 3 + (8 + np.sqrt(64 + 16 * beta1)) / beta1 if beta1 > 1e-6 else 1e8
        beta2 = 3 + 6 * (5 * a - 11) / ((a - 3) * (a - 4)) if a > 4.01 else beta2
    x = pearson_draw(generator(), 1.0, beta1, beta2 * (1 + nudge), sign, 50)
    assert np.isfinite(x).all()


def draw(level, gain=1.8, end=8, weights=WEIGHTS, exposure=EXPOSURE, shape=(512, 512), seed=1):
    filled = (np.full(shape, v) for v in (level, gain, end))
    return pearson_noise(generator(seed), *filled, weights, exposure)


def test_moments_by_the_formulas():
    table = moments(EXPOSURE, WEIGHTS)
    for k, row in zip(WEIGHTS, table, strict=True):
        t = frame_weights(EXPOSURE, k)
        n21, n31, n41 = (sum(x**m for x in t) for m in (2, 3, 4))
        n42 = 3 * n21**2
        assert row[0] == pytest.approx(3.04 * n21)
        assert row[1] == pytest.approx(3.04**2 * (n31 - 3 * n21**2))
        assert row[2] == pytest.approx(3.04**3 * (n41 - 10 * n21 * n31 - n21 * n42 + 18 * n21**3))


def betas(end, charge, weights=WEIGHTS, exposure=EXPOSURE):
    t21, t31, t41 = moments(exposure, weights)[end]
    beta1, beta2 = t31**2 / (t21**3 * charge), (3 * t21**2 * charge + t41) / (t21**2 * charge)
    return t21 * charge, beta1, beta2, np.sign(t31)


def admissible(end, charge):
    _, beta1, beta2, _ = betas(end, charge)
    return beta2 > beta1 + 1


PIXELS = [
    (end, charge)
    for charge in (0.05, 0.06, 0.3, 0.72, 4.0, 100.0, 1e7)
    for end in (8, 3, 5)
    if admissible(end, charge)
]


@pytest.mark.parametrize(("end", "charge"), PIXELS)
def test_noise_of_a_pixel(end, charge):
    """Type I, as real weights give it: against the beta distribution with these moments."""
    mu2, beta1, beta2, sign = betas(end, charge)
    noise, inadmissible = draw(charge / 1.8, end=end)
    assert not inadmissible.any()
    z = sign * noise.ravel() * 1.8 / np.sqrt(mu2)
    assert_moments(z, np.sqrt(beta1), beta2, extra=1e-5)
    # The two shapes of the beta distribution from its skewness and kurtosis.
    total = 3 * (beta2 - beta1 - 1) / (1.5 * beta1 - beta2 + 3)
    half = 1 / np.sqrt(1 + 16 * (total + 1) / ((total + 2) ** 2 * beta1))
    beta = stats.beta(total / 2 * (1 - half), total / 2 * (1 + half))
    if total > 1e6:  # scipy's distribution function is not to be trusted there
        assert stats.kstest(z, "norm").pvalue > 1e-6
    elif total > 2:  # below, much of it is nearer to the ends than float32 tells
        assert stats.kstest(z * beta.std() + beta.mean(), beta.cdf).pvalue > 1e-6


# Weights T of six single frames that pull the moments into each type.
CHOSEN = {
    "I": [1, 1, 1, 1, 1, 1],
    "III": [1, *[-0.23815358244618] * 5],
    "IV": [3, -2, 1, 0.3, 0.2, 0.1],
    "VI": [1, *[-0.27] * 5],
}


def chosen_weights(name):
    """K for one-frame resultants: T_s = sum of K_j with j >= s. So small that the products of
    moments in t31 and t41 vanish beside n31 and n41."""
    t = 2e-5 * np.array([0, *CHOSEN[name]])
    k = np.append(t[:-1] - t[1:], t[-1])[1:]
    return np.tile(np.concatenate([[-k.sum()], k]), (8, 1))


@pytest.mark.parametrize("name", CHOSEN)
def test_types_by_chosen_weights(name):
    """The whole way from weights to noise, in types that real weights do not give."""
    exposure = Exposure(256, tuple((f,) for f in range(7)), 3.04, exclude_first=False)
    weights = chosen_weights(name)
    charge = 4.0
    mu2, beta1, beta2, sign = betas(7, charge, weights, exposure)
    c = 2 * beta2 - 3 * beta1 - 6
    r = 6 * (beta2 - beta1 - 1) / c
    d = 16 * (r - 1) - beta1 * (r - 2) ** 2
    found = "III" if abs(c) < 1e-4 else "I" if c < 0 else "IV" if d > 0 else "VI"
    assert found == name
    noise, inadmissible = draw(charge / 1.8, end=7, weights=weights, exposure=exposure)
    assert not inadmissible.any()
    reference = pearson_draw(generator(5), mu2, beta1, beta2, sign, 400_000) / 1.8
    assert stats.ks_2samp(noise.ravel(), reference.astype(np.float32)).pvalue > 1e-6
    assert noise.var() == pytest.approx(mu2 / 1.8**2, rel=0.02)


def test_inadmissible_pixels_are_zero_and_counted():
    noise, inadmissible = draw(-3.0)
    _, beta1, beta2, _ = betas(8, 0.01)
    assert beta2 < beta1 + 1
    assert inadmissible.all()
    assert not noise.any()
    level, ends = np.full((4, 4), 0.4), np.full((4, 4), 8)
    level[0, :3] = 0.0, np.nan, np.inf
    noise, inadmissible = pearson_noise(
        generator(), level, np.full((4, 4), 1.8), ends, WEIGHTS, EXPOSURE
    )
    np.testing.assert_array_equal(np.argwhere(inadmissible), [[0, 0]])
    assert not noise[0, :3].any()
    assert np.count_nonzero(noise) == 13
    noise, inadmissible = draw(0.4, weights=WEIGHTS * 0, shape=(4, 4))
    assert inadmissible.all()
    assert not noise.any()


anything = st.floats(width=32)


def eight(values):
    return st.lists(values, min_size=8, max_size=8)


@given(
    pixels=st.lists(st.tuples(anything, anything, st.integers(0, 8)), min_size=1, max_size=20),
    weights=st.one_of(st.none(), eight(st.floats(-1, 1)), eight(anything)),
)
def test_never_nan(pixels, weights):
    level, gain, ends = (np.array([column]) for column in zip(*pixels, strict=True))
    table = WEIGHTS if weights is None else np.tile(weights, (9, 1))
    with np.errstate(all="ignore"):
        noise, inadmissible = pearson_noise(generator(), level, gain, ends, table, EXPOSURE)
    assert not np.isnan(noise).any()
    assert not noise[inadmissible].any()


def test_gain_is_clipped():
    for gain, used in ((np.nan, 1.0), (np.inf, 1.0), (1e-9, 1e-4), (1e9, 1e4), (-1.0, 1e-4)):
        a, _ = draw(50.0, gain, shape=(16, 16))
        b, _ = draw(50.0, used, shape=(16, 16))
        np.testing.assert_array_equal(a, b)


def test_same_state_same_bits():
    a, b = draw(0.4, shape=(64, 64))[0], draw(0.4, shape=(64, 64))[0]
    assert a.tobytes() == b.tobytes()
    assert a.dtype == np.float32
    assert (a != draw(0.4, shape=(64, 64), seed=2)[0]).all()


def test_ends_outside_the_table():
    for end in (-1, 9):
        with pytest.raises(ValueError, match=r"ends outside 0\.\.8"):
            draw(0.4, end=end)
