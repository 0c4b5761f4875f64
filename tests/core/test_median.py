"""Exact medians, and float16 in vectors, against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from roman_dask_l2.core.float16 import to_float16
from roman_dask_l2.core.median import median, quartiles

FLOATS = st.floats(width=32, allow_nan=False)


@given(arrays(np.float32, st.integers(1, 300), elements=FLOATS))
def test_median(values):
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(median(values), float(np.median(values)))


@pytest.mark.parametrize("shape", [(7, 11), (100, 100), (1, 1)])
def test_median_of_an_image(shape):
    image = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    assert median(image) == float(np.median(image))
    assert median(image[::2]) == float(np.median(image[::2]))


def test_median_with_nan():
    assert np.isnan(median(np.array([1, np.nan, 2], np.float32)))


def _odd(values):
    """Some of them NaN of any sign and payload, or infinite."""
    odd = np.array([0x7FC00000, 0xFFC00001, 0x7F800001, 0xFFFFFFFF, 0x7F800000, 0xFF800000], "u4")
    return np.concatenate([odd.view(np.float32), values])


@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(width=32, allow_infinity=False)))
def test_finite_values_alone(values):
    finite = values[np.isfinite(values)]
    found = median(_odd(values), finite=True)
    quarters = quartiles(lambda: [values, _odd(values)], finite=True)
    if finite.size == 0:
        assert np.isnan([found, *quarters]).all()
        return
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(found, float(np.median(finite)))
        expected = np.percentile(np.tile(finite.astype(float), 2), [25, 50, 75])
        np.testing.assert_allclose(quarters, expected, rtol=1e-14)


def _clipped(values):
    largest = np.float32(np.finfo(np.float16).max)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.clip(values, -largest, largest).astype(np.float16)


def test_half_on_every_kind_of_number():
    """All float16, their neighbours in float32, and random bits."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = np.nextafter(every, np.float32(np.inf)), np.nextafter(every, np.float32(-np.inf))
    middle = every + np.spacing(every.astype(np.float16)).astype(np.float32) / 2
    bits = np.random.default_rng(7).integers(0, 1 << 32, 1_000_000, np.uint32).view(np.float32)
    values = np.concatenate([every, *between, middle, bits])
    found, expected = to_float16(values), _clipped(values)
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), nan)
    np.testing.assert_array_equal(found[~nan].view(np.uint16), expected[~nan].view(np.uint16))


@given(arrays(np.float32, st.integers(0, 50), elements=st.floats(width=32)))
def test_half(values):
    np.testing.assert_array_equal(to_float16(values), _clipped(values))
