"""Flags as bits, against NumPy's."""

import numpy as np
import pytest

from roman_dask_l2.core.bits import pack, unpack


@pytest.mark.parametrize("n_resultants", [1, 7, 8, 9, 20])
@pytest.mark.parametrize("start", [0, 1, 3])
def test_bits(n_resultants, start):
    values = np.random.default_rng(1).integers(0, 256, (n_resultants, 5, 37), np.uint8)
    marked = values & 0b101 != 0
    marked[:start] = False
    packed = pack(values, 0b101, start)
    np.testing.assert_array_equal(packed, np.packbits(marked, axis=0, bitorder="little"))
    assert packed.dtype == np.uint8
    np.testing.assert_array_equal(unpack(packed, n_resultants), marked)


def test_a_part_of_an_array():
    """Kernels get views that are not contiguous: a tile without its halo."""
    values = np.random.default_rng(2).integers(0, 256, (9, 20, 30), np.uint8)
    np.testing.assert_array_equal(pack(values[:, 3:-2, 4:-1], 4), pack(values, 4)[:, 3:-2, 4:-1])
