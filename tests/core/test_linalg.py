"""Small linear algebra in a fixed order, against NumPy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.linalg import cholesky, dot, inverse, least_squares
from roman_dask_l2.errors import InputError


def _positive(seed: int, n: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T + n * np.eye(n)


@given(st.integers(0, 2**32 - 1), st.integers(1, 33))
def test_inverse_and_cholesky(seed: int, n: int) -> None:
    a = _positive(seed, n)
    np.testing.assert_allclose(inverse(a), np.linalg.inv(a), rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(cholesky(a), np.linalg.cholesky(a), rtol=1e-11, atol=1e-13)


def test_singular_is_an_input_error() -> None:
    with pytest.raises(InputError, match="singular"):
        cholesky(np.zeros((2, 2)))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_dot(seed: int, n: int, k: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, k)), rng.normal(size=(k, m))
    np.testing.assert_allclose(dot(a, b), a @ b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dot(a, b[:, 0]), a @ b[:, 0], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dot(a[0], b), a[0] @ b, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dot(a[0], b[:, 0]), a[0] @ b[:, 0], rtol=1e-12, atol=1e-13)


@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def test_least_squares(seed: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    design, values = rng.normal(size=(64, m)), rng.normal(size=64)
    expected = np.linalg.lstsq(design, values, rcond=None)[0]
    np.testing.assert_allclose(least_squares(design, values), expected, rtol=1e-10, atol=1e-12)


def test_least_squares_without_full_rank() -> None:
    design = np.column_stack([np.ones(6), np.full(6, 2.0), np.arange(6.0)])
    found = least_squares(design, 3 + np.arange(6.0))
    np.testing.assert_allclose(design @ found, 3 + np.arange(6.0), atol=1e-13)
    assert found[1] == 0
