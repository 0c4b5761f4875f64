"""Noise of the light through the likelihood fit: weights of frames, and draws with them.

False alarms: seeds are fixed, so a test that passed once passes always. For another seed, a moment
fails by chance with probability 2e-9 (6 sigma), a two-sample test with 1e-6.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.noise.difference_weights import (
    difference_coefficients,
    frame_limits,
    frame_weights,
    weight_powers,
)
from roman_dask_l2.noise.pearson import own_pearson_noise
from roman_dask_l2.noise.poisson import own_poisson_noise
from roman_dask_l2.steps.likelihood_pixel import difference_weights
from roman_dask_l2.steps.likelihood_tables import difference_tables

FRAME_TIME = 3.04
GAIN, SIGMA = 1.8, 6.5
EIGHT = tuple(tuple(range(a, b)) for a, b in pairwise((0, 1, 2, 4, 10, 26, 32, 34, 35)))
GAPS = ((0,), (2, 3, 4), (9,), (30, 31, 32, 33, 34, 35, 36), (38, 39))
NINE = tuple((2 * i, 2 * i + 1) for i in range(9))
"""Eight differences, whose bits just fill a byte."""
KINDS = {
    "all": (1, 2, 3, 4, 5, 6),
    "a jump": (1, 2, 3, 5, 6),
    "a jump within a resultant": (1, 4, 5, 6),
    "a flagged resultant": (1, 2, 5, 6),
    "saturates early": (1, 2),
    "saturates at once": (1,),
    "begins late": (4, 5, 6),
    "two apart": (1, 6),
    "none": (),
}
"""Used differences of `EIGHT`, by what happened to the ramp."""


def exposure_of(pattern, exclude_first=True):
    return Exposure(256, pattern, FRAME_TIME, exclude_first=exclude_first)


def seen(pattern):
    """Fraction of the reads of each resultant (R) at or after each frame (F)."""
    frames = np.arange(pattern[-1][-1] + 1)
    return np.array([[np.mean(np.array(reads) >= s) for s in frames] for reads in pattern])


def dense(pattern, used, u):
    """Weights K (R,) of the resultants by generalised least squares with dense matrices: the
    covariance of the resultants read by read, the slope from the used differences."""
    times = [np.array(reads) * FRAME_TIME for reads in pattern]
    c = np.array([[u * np.minimum.outer(a, b).mean() for b in times] for a in times])
    c += np.diag([1 / len(reads) for reads in pattern])
    t = np.array([a.mean() for a in times])
    used = list(used)
    if not used:
        return np.zeros(len(pattern))
    d = (np.diff(np.eye(len(pattern)), axis=0) / np.diff(t)[:, None])[used]
    x = np.linalg.solve(d @ c @ d.T, np.ones(len(used)))
    return x @ d / x.sum()


def bits_of(used, n, start, shape):
    """The bits that the file keeps, for masks (y, x, n)."""
    left_out = ~used.reshape(*shape, n)
    left_out[..., :start] = False
    return np.packbits(np.moveaxis(left_out, -1, 0), axis=0, bitorder="little")


def coefficients_of(pattern, kinds, u, exposure=None):
    """Coefficients (R - 1, y, x), a column for each list of used differences."""
    exposure = exposure or exposure_of(pattern)
    u = np.broadcast_to(np.asarray(u, np.float32), np.shape(u) or (1, len(kinds)))
    used = np.zeros((*u.shape, len(pattern) - 1), bool)
    for x, kind in enumerate(kinds):
        used[:, x, list(kind)] = True
    bits = bits_of(used, len(pattern) - 1, exposure.start, u.shape)
    return difference_coefficients(bits, np.ascontiguousarray(u), exposure)


def resultant_weights(c):
    """K (R, y, x) from the coefficients of the differences."""
    zero = np.zeros((1, *c.shape[1:]))
    return np.concatenate([zero, c]) - np.concatenate([c, zero])


def patterns():
    """Read patterns of 4 to 12 resultants, with gaps of up to 40 frames."""
    resultant = st.tuples(st.integers(0, 40), st.integers(1, 40))

    def build(resultants):
        pattern, frame = [], 0
        for gap, n in resultants:
            pattern.append(tuple(range(frame + gap, frame + gap + n)))
            frame += gap + n
        return tuple(pattern)

    return st.lists(resultant, min_size=4, max_size=12).map(build)


@given(pattern=patterns(), seed=st.integers(0, 2**32), exclude_first=st.booleans())
def test_weights_are_a_slope(pattern, seed, exclude_first):
    """sum K = 0 and sum K t = 1 of every fit; the same of the frames: nothing before the first used
    difference or in one that is not used counts, and constant light has its own rate."""
    rng = np.random.default_rng(seed)
    exposure = exposure_of(pattern, exclude_first)
    n, shape = len(pattern) - 1, (3, 100)
    used = rng.uniform(size=(*shape, n)) < rng.uniform(size=(*shape, 1))
    used[..., : exposure.start] = False
    u = (10 ** rng.uniform(-6, 2, shape)).astype(np.float32)
    u[rng.uniform(size=shape) < 0.1] = 0
    c = difference_coefficients(bits_of(used, n, exposure.start, shape), u, exposure)
    k, some = resultant_weights(c), used.any(axis=-1)
    t = np.array([np.mean(reads) for reads in pattern]) * FRAME_TIME
    largest = np.abs(k).max(axis=0)
    np.testing.assert_allclose(k.sum(axis=0), 0, atol=1e-12 * largest.max())
    slope = (k * t[:, None, None]).sum(axis=0)
    assert (np.abs(slope - some) <= 1e-12 * (largest * t[-1] + 1)).all()
    assert not c[np.moveaxis(~used, -1, 0)].any()
    by_frame = np.empty((pattern[-1][-1] + 1, u.size))
    frame_weights(c.reshape(n, -1), frame_limits(exposure), by_frame)
    expected = np.einsum("jp,js->sp", k.reshape(n + 1, -1), seen(pattern))
    tolerance = 1e-12 * largest.max()
    np.testing.assert_allclose(by_frame, expected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        by_frame.sum(axis=0) * FRAME_TIME, some.reshape(-1), atol=1e-9 * (largest.max() * t[-1] + 1)
    )
    assert not by_frame[: pattern[exposure.start][0] + 1].any()
    for i, (a, b) in enumerate(pairwise(pattern)):
        assert not by_frame[a[-1] + 1 : b[0] + 1, ~used.reshape(-1, n)[:, i]].any()
    powers = np.empty((3, u.size))
    weight_powers(c.reshape(n, -1), frame_limits(exposure), powers)
    for m, found in zip((2, 3, 4), powers, strict=True):
        exact = (expected**m).sum(axis=0)
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-9 * largest.max() ** m)


@pytest.mark.parametrize("pattern", [EIGHT, GAPS, NINE])
def test_weights_are_those_of_dense_least_squares(pattern):
    n = len(pattern) - 1
    kinds = [[i for i in range(1, n) if pick >> (i - 1) & 1] for pick in range(2 ** (n - 1))]
    for u in (0.0, 1e-4, 0.02, 3.0, 500.0):
        k = resultant_weights(coefficients_of(pattern, kinds, np.full((1, len(kinds)), u)))[:, 0]
        for found, kind in zip(k.T, kinds, strict=True):
            expected = dense(pattern, kind, float(np.float32(u)))
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("exclude_first", [True, False])
@pytest.mark.parametrize("pattern", [EIGHT, GAPS, NINE])
def test_weights_are_those_of_the_fit_to_the_last_bit(pattern, exclude_first):
    """The many pixels that use all differences have a kernel of their own."""
    rng = np.random.default_rng(1)
    exposure, n, shape = exposure_of(pattern, exclude_first), len(pattern) - 1, (37, 61)
    used = np.ones((*shape, n), bool)
    used[rng.uniform(size=shape) < 0.2] = False
    used |= rng.uniform(size=used.shape) < 0.5
    used[..., : exposure.start] = False
    u = (10 ** rng.uniform(-6, 2, shape)).astype(np.float32)
    u[::7, ::3] = np.nan
    tables = difference_tables(pattern, FRAME_TIME)
    expected = np.empty((u.size, n))
    difference_weights(used.reshape(-1, n), u.reshape(-1), tables, expected)
    assert not expected[np.isnan(u.reshape(-1))].any()
    expected = np.moveaxis((expected * tables.per_time).reshape(*shape, n), -1, 0)
    bits = bits_of(used, n, exposure.start, shape)
    np.testing.assert_array_equal(difference_coefficients(bits, u, exposure), expected)
    usual = used[..., exposure.start :].all(axis=-1)
    found = difference_coefficients(None, u, exposure)
    np.testing.assert_array_equal(found[:, usual], expected[:, usual])
    assert usual.mean() > 0.5


# -- draws ----------------------------------------------------------------------------------------


def poisson_draws(rng, charge, k, pattern):
    """The definition: a draw per frame, the ramp accumulated, averaged over reads and contracted
    with K (R, y, x); (DN/s)."""
    ramp = np.zeros(charge.shape)
    resultants = np.zeros((len(pattern), *charge.shape))
    for frame in range(pattern[-1][-1] + 1):
        ramp += rng.poisson(charge) - charge
        for j, reads in enumerate(pattern):
            if frame in reads:
                resultants[j] += ramp / len(reads)
    return (k * resultants).sum(axis=0) / GAIN


def block(rate, rows=20_000):
    """Level, coefficients and dense K of a block whose columns are the kinds of pixels, beside each
    other; `rate` in e/frame, with weights for another rate in every row."""
    kinds, pattern = list(KINDS.values()), EIGHT
    rates = np.resize([rate * f for f in (0.3, 1, 3)], (rows, 1))
    u = np.resize((rates / (FRAME_TIME * GAIN**2 * SIGMA**2)).astype(np.float32), rates.shape)
    u = np.repeat(u, len(kinds), axis=1)
    level = np.full(u.shape, rate / GAIN / FRAME_TIME)
    c = coefficients_of(pattern, kinds, u)
    weights = {(v, x): dense(pattern, kind, float(v))
               for v in np.unique(u) for x, kind in enumerate(kinds)}  # fmt: skip
    k = np.array([[weights[v, x] for x, v in enumerate(row)] for row in u[:3]])
    k = np.moveaxis(np.resize(k, (*u.shape, len(pattern))), -1, 0)
    return level, c, k


def assert_cumulants(noise, k2, k3, k4, k6):
    """Mean, variance and third moment of a sample, 6 sigma, from cumulants."""
    m4, m6 = k4 + 3 * k2**2, k6 + 15 * k4 * k2 + 10 * k3**2 + 15 * k2**3
    n = noise.size
    noise = noise.astype(np.float64)
    errors = np.sqrt(np.array([k2, m4 - k2**2, m6 - k3**2]) / n)
    for power, expected, error in zip((1, 2, 3), (0, k2, k3), errors, strict=True):
        assert abs((noise**power).mean() - expected) <= 6 * error, power


@pytest.mark.parametrize("rate", [0.02, 2.19, 60.0, 2e4])
def test_moments_of_poisson_noise(rate):
    """Of every kind of pixel in a block that mixes them."""
    level, c, k = block(rate)
    rng = np.random.Generator(np.random.Philox(2))
    noise = own_poisson_noise(rng, level, np.full(level.shape, GAIN), c, exposure_of(EIGHT))
    for x, kind in enumerate(KINDS):
        for first in range(3):
            t = k[:, first, x] @ seen(EIGHT) / GAIN
            cumulants = [rate * (t**m).sum() for m in (2, 3, 4, 6)]
            if kind == "none":
                assert not noise[:, x].any()
            else:
                assert cumulants[0] > 0
                assert_cumulants(noise[first::3, x], *cumulants)


def two_sample(a, b, seed):
    """p-value of a chi-square test on 64 quantiles of both samples, with the same small jitter."""
    rng = np.random.default_rng(seed)
    jitter = 1e-3 * a.std()
    a, b = (x.ravel() + rng.uniform(-jitter, jitter, x.size) for x in (a, b))
    edges = np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 65)[1:-1])
    counts = np.array([np.bincount(np.searchsorted(edges, x), minlength=64) for x in (a, b)])
    return stats.chi2_contingency(counts).pvalue


@pytest.mark.parametrize("rate", [0.3, 8.0])
def test_same_distribution_as_frame_by_frame(rate):
    level, c, k = block(rate, 30_000)
    rng = np.random.Generator(np.random.Philox(3))
    quick = own_poisson_noise(rng, level, np.full(level.shape, GAIN), c, exposure_of(EIGHT))
    slow = poisson_draws(rng, level * GAIN * FRAME_TIME, k, EIGHT)
    some = np.array(list(KINDS)) != "none"
    assert not slow[:, ~some].any()
    for x in np.flatnonzero(some):
        assert two_sample(quick[:, x], slow[:, x], 4) > 1e-6, list(KINDS)[x]
    # What another kind of pixel gets would not pass.
    assert two_sample(quick[:, 0], slow[:, list(KINDS).index("two apart")], 4) < 1e-6


@pytest.mark.parametrize("rate", [2.19, 60.0])
def test_moments_of_pearson_draws(rate):
    """Mean and variance are those of Poisson draws frame by frame; the third moment is that of
    pseudo-Poisson noise, `t31` of the manual."""
    level, c, k = block(rate, 60_000)
    rng = np.random.Generator(np.random.Philox(5))
    noise, bad = own_pearson_noise(rng, level, np.full(level.shape, GAIN), c, exposure_of(EIGHT))
    slow = poisson_draws(rng, level[:9000] * GAIN * FRAME_TIME, k[:, :9000], EIGHT)
    without = 0
    for x, kind in enumerate(KINDS):
        for first in range(3):
            drawn = noise[first::3, x]
            if kind == "none":
                assert not drawn.any()
                continue
            if not drawn.any():
                without += drawn.size  # no Pearson distribution has its moments
                continue
            t = k[:, first, x] @ seen(EIGHT)
            n2, n3, n4 = ((t**m).sum() for m in (2, 3, 4))
            mu2 = rate * n2 / GAIN**2
            mu3 = rate * FRAME_TIME * (n3 - 3 * n2**2) / GAIN**3
            excess = rate * FRAME_TIME**2 * (n4 - 10 * n2 * n3 + 15 * n2**3) / GAIN**4
            # the sixth moment from the sample: its error matters little
            sixth = (drawn.astype(float) ** 6).mean() - 15 * excess * mu2
            sixth -= 10 * mu3**2 + 15 * mu2**3
            assert_cumulants(drawn, mu2, mu3, excess, sixth)
            brute = slow[first::3, x].var()
            assert abs(brute / drawn.var() - 1) < 6 * np.sqrt((2 + excess / mu2**2) / 3000 * 1.2)
    assert bad.sum() == without
    assert without < 0.4 * noise.size


def test_pixels_without_a_fit_or_a_level_get_no_noise():
    level = np.array([[0.4, np.nan, np.inf, 0.4, 0.4, -1.0]])
    u = np.array([[np.nan, 0.01, 0.01, 0.01, 0.01, 0.0]], np.float32)
    kinds = [(1, 2, 3), (1, 2), (1, 2), (), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6)]
    c = coefficients_of(EIGHT, kinds, u)
    gain = np.full(level.shape, GAIN)
    noise = own_poisson_noise(np.random.default_rng(1), level, gain, c, exposure_of(EIGHT))
    assert (noise != 0).tolist() == [[False] * 4 + [True, False]]
    noise, bad = own_pearson_noise(np.random.default_rng(1), level, gain, c, exposure_of(EIGHT))
    assert (noise != 0).tolist() == [[False] * 4 + [True, False]]
    assert (
        bad.sum() == 1
    )  # O has a least signal, at which these weights have no Pearson distribution


def test_pieces_of_a_block_do_not_matter(monkeypatch):
    """How many rows of weights are in memory at a time."""
    from roman_dask_l2.noise import poisson

    level, c, _ = block(2.19, 128)
    gain = np.full(level.shape, GAIN)
    drawn = []
    for terms in (1, 35 * 9 * 7, 1 << 30):
        monkeypatch.setattr(poisson, "_OWN_TERMS", terms)
        rng = np.random.Generator(np.random.Philox(6))
        drawn.append(own_poisson_noise(rng, level, gain, c, exposure_of(EIGHT)))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    np.testing.assert_array_equal(drawn[0], drawn[2])
