"""The transform of half a million modes against SciPy's in double precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.fft

from roman_dask_l2.noise.fourier import Workspace, real_series, roots


def workspace(m):
    rng = np.random.default_rng(m)
    spectrum = np.empty(m + 1, np.complex64)
    spectrum.view(np.float32)[:] = rng.standard_normal(2 * m + 2, np.float32)
    spectrum[[0, m]] = spectrum[[0, m]].real
    return Workspace(spectrum, np.full(m, np.nan, np.complex64))


@pytest.mark.parametrize("side", [128, 256, 384, 1408, 4096])
def test_is_the_inverse_real_transform(side):
    m = 128 * side
    work = workspace(m)
    expected = scipy.fft.irfft(work.spectrum.astype(complex), n=2 * m, norm="forward")
    series = real_series(work)
    assert series.dtype == np.float32
    np.testing.assert_allclose(series, expected, rtol=0, atol=2e-6 * expected.std())


@pytest.mark.parametrize("mode", [0, 1, 2, 77, 8191, 8192, 8193, 16383, 16384])
def test_single_modes(mode):
    """Each is its cosine and sine; of mode 0 and the last one there is the real part only."""
    m = 16384
    work = Workspace(np.zeros(m + 1, np.complex64), np.empty(m, np.complex64))
    ends = mode in (0, m)
    work.spectrum[mode] = 1 if ends else 0.5 - 0.25j
    phase = 2 * np.pi * (np.arange(2 * m) * mode % (2 * m)) / (2 * m)
    expected = np.cos(phase) if ends else np.cos(phase) + 0.5 * np.sin(phase)
    np.testing.assert_allclose(real_series(work), expected, rtol=0, atol=1e-6)


def test_same_bits_in_used_memory():
    work, fresh = workspace(128 * 256), workspace(128 * 256)
    real_series(work)
    work.spectrum[:] = fresh.spectrum
    np.testing.assert_array_equal(real_series(work), real_series(fresh))


@pytest.mark.parametrize("n", [8, 49152, 2**20])
def test_roots_of_one(n):
    k = np.unique(np.r_[0:9, n // 8, n // 4 + 1, n // 2, 3 * n // 4 - 1, n - 1])
    exact = [complex(math.cos(2 * math.pi * i / n), math.sin(2 * math.pi * i / n)) for i in k]
    np.testing.assert_allclose(roots(k, n), exact, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(roots(k, n), roots(k + 5 * n, n))
    assert roots(np.array([n // 4]), n).real == 0
