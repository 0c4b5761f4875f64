"""Poisson layer: the shortcut against the exact process and against frame-by-frame draws.

False alarms: seeds are fixed, so a test that passed once passes always. For another seed, a moment
fails by chance with probability 2e-9 (6 sigma; a few times that where few electrons arrive), a
two-sample test with 1e-6.
"""

from __future__ import annotations

from itertools import pairwise
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.noise import poisson
from roman_dask_l2.noise.poisson import frame_weights, poisson_noise
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import fits

FRAME_TIME = 3.04
GAIN = 1.8
EIGHT = tuple(tuple(range(a, b)) for a, b in pairwise((0, 1, 2, 4, 10, 26, 32, 34, 35)))
GAPS = ((0,), (2, 3, 4), (9,), (30, 31, 32, 33, 34, 35, 36), (38, 39))
LATE = ((3, 4), (7,), (9, 10, 11), (20,))


def exposure_of(pattern, exclude_first=True):
    return Exposure(256, pattern, FRAME_TIME, exclude_first=exclude_first)


def weights_of(exposure):
    return np.array([f.k for f in fits(exposure, RampFitParams())])


def reference_poisson_noise(rng, level, gain, ends, weights, exposure):
    """The definition: a draw per frame, the ramp accumulated, averaged over reads and fitted.

    Slow. The distribution that `poisson_noise` is tested against; arguments and result as there.
    """
    g = np.clip(np.where(np.isfinite(gain), gain, 1.0), 1e-4, 1e4)
    charge = np.maximum(level * g * exposure.frame_time, 0)
    charge = np.where(charge < 1e15, charge, 0)  # no measurement is larger; NaN compares false
    ramp = np.zeros(charge.shape)
    resultants = np.zeros((exposure.n_resultants, *charge.shape))
    for frame in range(exposure.read_pattern[-1][-1] + 1):
        ramp += rng.poisson(charge) - charge
        for j, reads in enumerate(exposure.read_pattern):
            if frame in reads:
                resultants[j] += ramp / len(reads)
    resultants -= resultants[exposure.start].copy()
    k = np.array(weights, np.float64)
    k[:, : exposure.start] = 0
    return (np.einsum("yxj,jyx->yx", k[ends], resultants) / g).astype(np.float32)


def draw(function, seed, exposure, rate, end, shape=(512, 512)):
    """Noise (DN/s) of pixels with `rate` e/frame whose ramps end before resultant `end`."""
    rng = np.random.Generator(np.random.Philox(seed))
    level = np.full(shape, rate / GAIN / FRAME_TIME)
    ends = np.full(shape, end, np.int8)
    return function(rng, level, np.full(shape, GAIN), ends, weights_of(exposure), exposure)


@pytest.mark.parametrize("exclude_first", [True, False])
@pytest.mark.parametrize("pattern", [EIGHT, GAPS, LATE])
def test_frame_weights_are_the_slope_of_one_dn(pattern, exclude_first):
    exposure = exposure_of(pattern, exclude_first)
    for k in weights_of(exposure):
        t = frame_weights(exposure, k)
        for frame in range(len(t)):
            reads = np.arange(len(t)) >= frame
            ramp = np.array([reads[list(resultant)].mean() for resultant in pattern])
            slope = (k.astype(float) * (ramp - ramp[exposure.start])).sum()
            assert t[frame] == pytest.approx(slope, abs=1e-16)
        assert not t[: pattern[exposure.start][0] + 1].any()


def patterns():
    """Read patterns of one to 40 reads, with gaps of up to 40 frames."""
    resultant = st.tuples(st.integers(0, 40), st.integers(1, 40))

    def build(resultants):
        pattern, frame = [], 0
        for gap, n in resultants:
            pattern.append(tuple(range(frame + gap, frame + gap + n)))
            frame += gap + n
        return tuple(pattern)

    return st.lists(resultant, min_size=3, max_size=8).map(build)


@given(pattern=patterns(), exclude_first=st.booleans())
def test_pieces_cover_every_frame_with_its_weight(pattern, exclude_first):
    exposure = exposure_of(pattern, exclude_first)
    rng = np.random.default_rng(1)
    t = frame_weights(exposure, rng.normal(size=len(pattern)))
    covered = np.zeros(len(t), int)
    for frame, positions in poisson._pieces(pattern[exposure.start :]):
        frames = np.arange(frame, frame + len(positions))
        covered[frames] += 1
        drop = t[frame] - t[frame + positions.index(1)] if any(positions) else 0
        np.testing.assert_allclose(t[frames], t[frame] - drop * np.array(positions), atol=1e-12)
    assert (covered == (np.arange(len(t)) > pattern[exposure.start][0])).all()


def probabilities(tables, row):
    """Distribution that a row of the alias tables draws from: values, probabilities."""
    start, shift, lowest = tables.rows[row]
    n = 1 << (16 - shift)
    cells = tables.cells[start : start + n]
    own = ((cells & 0xFFFF) + tables.ties[start : start + n]) / 2.0**shift
    p = own.copy()
    np.add.at(p, cells >> 16, 1 - own)
    return lowest + np.arange(n), p / n


def test_tables_hold_the_exact_probabilities():
    tables = poisson._tables(GAPS, 1)
    shapes = sorted({positions for _, positions in poisson._pieces(GAPS[1:])})
    frames = GAPS[-1][-1] - GAPS[1][0]
    for level in range(1, len(tables.rates)):
        step = tables.rates[level] - tables.rates[level - 1]
        rows = [(tables.candidates + level - 1, step * frames)]
        for i, shape in enumerate(shapes):
            rows.append((level * tables.n_shapes + i, tables.rates[level] * len(shape)))
        for row, mean in rows:
            value, p = probabilities(tables, row)
            np.testing.assert_allclose(p, stats.poisson.pmf(value, mean), rtol=1e-10, atol=1e-15)
            assert abs(p.sum() - 1) < 1e-14
    for shape, first in zip(tables.shape, tables.sums, strict=True):
        exact, position = np.ones(1), np.bincount(shapes[shape]) / len(shapes[shape])
        mean = tables.rates[-1] * len(shapes[shape])
        most = int(mean + 6 * np.sqrt(mean))
        for count in range(most if first >= 0 else 0):
            value, p = probabilities(tables, first + count)
            known = np.where(value < len(exact), exact[np.minimum(value, len(exact) - 1)], 0)
            np.testing.assert_allclose(p, known, rtol=1e-10, atol=1e-15)
            exact = np.convolve(exact, position)


def central_moments(cumulants):
    """Central moments 0..8 from cumulants 2..8 (index 0 and 1 unused)."""
    m = [1.0, 0.0]
    for n in range(2, 9):
        m.append(sum(comb(n - 1, j - 1) * cumulants[j] * m[n - j] for j in range(2, n + 1)))
    return m


RATES = (1e-3, 0.03, 0.5, 2.19, 7.9, 8.1, 40.0, 300.0, 1e4, 3e6)


@pytest.mark.parametrize(
    ("pattern", "end"), [(EIGHT, 8), (EIGHT, 3), (EIGHT, 5), (GAPS, 5), (LATE, 4)]
)
@pytest.mark.parametrize("rate", RATES)
def test_moments(pattern, end, rate):
    exposure = exposure_of(pattern, pattern is not LATE)
    noise = draw(poisson_noise, 1, exposure, rate, end).astype(np.float64).ravel()
    t = frame_weights(exposure, weights_of(exposure)[end]) / GAIN
    sigma = np.sqrt(rate * (t**2).sum())
    m = central_moments([0, 0, *(rate * (t**k).sum() / sigma**k for k in range(2, 9))])
    for k in range(1, 5):
        error = np.sqrt((m[2 * k] - m[k] ** 2) / noise.size)
        assert abs(((noise / sigma) ** k).mean() - m[k]) < 6 * error, k


def two_sample(a, b, seed):
    """p-value of a chi-square test on 256 quantiles of both samples.

    Both get the same small jitter, far above float32's rounding: sums that differ only in the order
    of their terms must not fall into different bins, and the support may be discrete.
    """
    rng = np.random.default_rng(seed)
    jitter = 1e-3 * a.std()
    a, b = (x.ravel() + rng.uniform(-jitter, jitter, x.size) for x in (a, b))
    edges = np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 257)[1:-1])
    counts = np.array([np.bincount(np.searchsorted(edges, x), minlength=256) for x in (a, b)])
    return stats.chi2_contingency(counts).pvalue


@pytest.mark.parametrize(
    ("pattern", "rate", "end", "blocks"),
    [
        (EIGHT, 2.19, 8, 6),
        (EIGHT, 0.02, 8, 2),
        (EIGHT, 13.0, 8, 2),
        (EIGHT, 2.6, 4, 2),
        (LATE, 0.7, 4, 4),
        (LATE, 250.0, 4, 2),
        (GAPS, 5.1, 5, 2),
    ],
)
def test_same_distribution_as_frame_by_frame(pattern, rate, end, blocks):
    """1.05e7 pixels in all, half of them drawn frame by frame."""
    exposure = exposure_of(pattern, pattern is not LATE)
    shape = (512 * blocks, 512)
    quick = draw(poisson_noise, 2, exposure, rate, end, shape)
    slow = draw(reference_poisson_noise, 3, exposure, rate, end, shape)
    assert two_sample(quick, slow, 4) > 1e-6


def test_two_sample_test_sees_small_differences():
    """A fifth of an electron, or seven per cent of lambda, does not go unnoticed."""
    exposure = exposure_of(EIGHT)
    a = draw(poisson_noise, 5, exposure, 2.19, 8, (2048, 512))
    assert two_sample(a, draw(poisson_noise, 6, exposure, 2.34, 8, (2048, 512)), 7) < 1e-6
    per_electron = frame_weights(exposure, weights_of(exposure)[8]).max() / GAIN
    b = draw(poisson_noise, 6, exposure, 2.19, 8, (2048, 512)) + np.float32(0.2 * per_electron)
    assert two_sample(a, b, 7) < 1e-6


def test_pixels_are_independent():
    """Neighbours of a mixed block: correlation below 5 of its standard errors."""
    exposure = exposure_of(EIGHT)
    rng = np.random.Generator(np.random.Philox(8))
    level = rng.uniform(0, 3, (512, 512))
    ends = rng.integers(3, 9, level.shape)
    noise = poisson_noise(rng, level, np.ones(level.shape), ends, weights_of(exposure), exposure)
    noise /= np.array([noise[ends == e].std() if e > 2 else 1 for e in range(9)])[ends]
    for shift in ((0, 1), (1, 0), (0, 7), (1, 1)):
        correlation = (noise * np.roll(noise, shift, (0, 1))).mean()
        assert abs(correlation) < 5 * (noise**2).mean() / 512


def test_same_state_same_bits():
    exposure = exposure_of(EIGHT)
    a, b = (draw(poisson_noise, 9, exposure, 2.0, 8, (64, 64)) for _ in range(2))
    assert a.tobytes() == b.tobytes()
    assert a.dtype == np.float32
    assert (a != draw(poisson_noise, 10, exposure, 2.0, 8, (64, 64))).mean() > 0.9


def test_dark_and_unusable_pixels():
    exposure = exposure_of(EIGHT)
    level = np.array([[0, -1, np.nan, np.inf, -np.inf, 1e30, 5, 5, 5, 5]])
    gain = np.array([[1, 1, 1, 1, 1, 1, np.nan, 1, 1e-9, 1e-4]])
    for function in (poisson_noise, reference_poisson_noise):
        noise = np.array(
            [
                function(
                    np.random.default_rng(i), level, gain, np.full(level.shape, 8),
                    weights_of(exposure), exposure,
                )[0]
                for i in range(400)
            ]
        )  # fmt: skip
        assert np.isfinite(noise).all()
        assert not noise[:, :6].any()
        # A NaN gain counts as 1, a tiny one as 1e-4. Of 400 draws, variances agree to 5 sigma.
        for one, other in ((6, 7), (8, 9)):
            ratio = noise[:, one].var() / noise[:, other].var()
            assert abs(np.log(ratio)) < 5 * np.sqrt(4 / 400) * (5 if one == 8 else 1)


def test_ends_outside_the_table():
    exposure = exposure_of(EIGHT)
    for end in (-1, 9):
        with pytest.raises(ValueError, match=r"ends outside 0\.\.8"):
            draw(poisson_noise, 1, exposure, 1.0, end, (4, 4))
