"""The combined mask: against scipy.ndimage's dilation, flag by flag."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as array_of
from pydantic import ValidationError
from scipy import ndimage

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROWTHS, MASK_GROWTH, PIXEL, growth_halo
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.mask import MaskParams, combine_mask, step

SHAPES = {
    1: np.ones((1, 1), bool),
    5: ndimage.generate_binary_structure(2, 1),
    9: np.ones((3, 3), bool),
    25: np.ones((5, 5), bool),
}


def restated(dq, growth):
    """Every flag by itself, on the active array; nothing comes in from the border."""
    out = np.zeros(dq.shape, bool)
    active = dq[4:252, 4:252]
    for name, n in growth.items():
        flagged = active & PIXEL[name] != 0
        out[4:252, 4:252] |= ndimage.binary_dilation(flagged, SHAPES[n])
    return out


@pytest.fixture(scope="module")
def dq():
    rng = np.random.default_rng(37)
    dq = np.zeros((256, 256), np.uint32)
    for bit in range(32):
        dq[rng.random(dq.shape) < 4e-4] |= np.uint32(1 << bit)
    dq[:4] |= np.uint32(PIXEL["DROPOUT"])
    return dq


TABLES = {
    "default": MASK_GROWTH,
    "other": {"SATURATED": 25, "HOT": 5, "DEAD": 1},
    "cardinal": {"HOT": 5},
    "no growth": {"HOT": 1},
    "nothing": {},
}


@pytest.mark.parametrize("growth", TABLES.values(), ids=TABLES)
def test_dilation(growth, dq, exposure, run_step, window):
    params = MaskParams(growth=growth)
    result = run_step(step, exposure, window, {"dq": dq}, params)["mask"]
    np.testing.assert_array_equal(result, restated(dq, growth)[window.slices], strict=True)


@pytest.mark.parametrize("name", PIXEL)
def test_each_flag_of_the_table(name, exposure, run_step):
    dq = np.zeros((256, 256), np.uint32)
    dq[100, 120] = PIXEL[name]
    mask = run_step(step, exposure, Window(90, 110, 110, 130), {"dq": dq})["mask"]
    assert mask.sum() == MASK_GROWTH.get(name, 0)


@given(array_of(np.uint32, (12, 15)), array_of(np.uint32, (12, 15)))
def test_more_flags_never_mask_less(a, b):
    tile = Tile(Window(0, 12, 241, 256), 256)
    both, one = (combine_mask(dq, tile=tile, params=MaskParams()) for dq in (a | b, a))
    assert (both | one == both).all()
    assert not both[:4].any()
    assert not both[:, 11:].any()


@given(st.dictionaries(st.sampled_from(list(PIXEL)), st.sampled_from(GROWTHS), max_size=5))
def test_halo_is_the_widest_growth(growth):
    reach = max((SHAPES[n].shape[0] // 2 for n in growth.values()), default=0)
    assert growth_halo(growth) == step.halo(MaskParams(growth=growth)) == reach


@pytest.mark.parametrize("growth", [{"HOTT": 1}, {"HOT": 3}, {"HOT": "many"}])
def test_bad_tables(growth):
    with pytest.raises(ValidationError):
        MaskParams(growth=growth)
