"""The transform of half a million modes against SciPy's in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft

from roman_dask_l2.noise.fourier import first_half, roots, workspace


def filled(m):
    work = workspace(m)
    work.modes[:] = np.random.default_rng(m).standard_normal((2, m), np.float32)
    work.series[:] = np.nan
    return work


@pytest.mark.parametrize("side", [128, 131, 256, 384, 1408, 4096])
def test_is_the_inverse_real_transform(side):
    """Sides whose factors are 2 and 4 alone, and others."""
    m = 128 * side
    work = filled(m)
    x, y = work.modes.astype(float)
    spectrum = np.r_[0, x[1:] + 1j * y[1:], x[0]]
    expected = scipy.fft.irfft(spectrum, n=2 * m, norm="forward")[:m]
    series = first_half(work)
    assert series.dtype == np.float32
    np.testing.assert_allclose(series, expected, rtol=0, atol=3e-6 * expected.std())


@pytest.mark.parametrize("mode", [1, 2, 77, 8191, 8192, 8193, 16383, 16384])
def test_single_modes(mode):
    """Each is its cosine and sine; of the last one there is the real part only."""
    m = 16384
    work = workspace(m)
    work.modes[:, mode % m] = (1, 7) if mode == m else (0.5, -0.25)
    phase = 2 * np.pi * (np.arange(m) * mode % (2 * m)) / (2 * m)
    expected = np.cos(phase) if mode == m else np.cos(phase) + 0.5 * np.sin(phase)
    np.testing.assert_allclose(first_half(work), expected, rtol=0, atol=1e-6)


def test_same_bits_in_used_memory():
    work, fresh = filled(128 * 256), filled(128 * 256)
    first = first_half(work).copy()
    work.modes[:] = fresh.modes
    np.testing.assert_array_equal(first_half(work), first)


@pytest.mark.parametrize("n", [8, 49152, 2**20])
def test_roots_of_one(n):
    k = np.unique(np.r_[0:9, n // 8, n // 4 + 1, n // 2, 3 * n // 4 - 1, n - 1])
    exact = [complex(math.cos(2 * math.pi * i / n), math.sin(2 * math.pi * i / n)) for i in k]
    np.testing.assert_allclose(roots(k, n), exact, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(roots(k, n), roots(k + 5 * n, n))
    assert roots(np.array([n // 4]), n).real == 0
