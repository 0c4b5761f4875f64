"""Initialisation: ramp in float32, guide window, first resultant."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.dq_init import DqInitParams, initialise, step

AFFECTED, UNUSABLE = PIXEL["GW_AFFECTED_DATA"], PIXEL["DO_NOT_USE"]
PATTERN = ((0,), (1,), (2, 3))
GUIDE_WINDOWS = {
    "inside": (40, 72, 100, 116),
    "corner": (0, 16, 240, 256),
    "one pixel": (60, 61, 50, 51),
    "stops beyond the edge": (250, 300, 245, 290),
    "starts left of the detector": (-1, 10, 5, 10),
    "starts below the detector": (10, 20, -3, 5),
    "starts right of the detector": (256, 270, 5, 9),
    "starts above the detector": (5, 9, 256, 270),
    "not known": (-999999, -999999, -999999, -999999),
}


def exposed(guide_window=None, offset=0.0, exclude=True):
    return Exposure(
        256, PATTERN, 3.0, guide_window=guide_window, encoding_offset=offset, exclude_first=exclude
    )


def guide_flags(guide_window, side=256, g=1):
    xstart, xstop, ystart, ystop = guide_window
    if not (0 <= xstart < side and 0 <= ystart < side):
        return np.zeros((side, side), np.uint32)
    y, x = np.mgrid[:side, :side]
    columns = (x >= xstart) & (x < xstop)
    near = (x >= xstart - g) & (x < xstop + g) & (y >= ystart - g) & (y < ystop + g)
    return (np.where(columns | near, AFFECTED, 0) | np.where(near, UNUSABLE, 0)).astype(np.uint32)


@pytest.fixture
def arrays(rng):
    science = rng.integers(0, 65536, (3, 256, 256), np.uint16)
    science[:, :2, :2] = 0
    science[:, -2:, -2:] = 65535
    return {"science": science}


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize("guide", GUIDE_WINDOWS.values(), ids=GUIDE_WINDOWS)
def test_guide_window(guide, run_step, window, arrays, rng):
    mask = rng.integers(0, 2**32, (256, 256), np.uint32)
    result = run_step(step, exposed(guide), window, arrays | {"mask_dq": mask})
    expected = (mask | guide_flags(guide))[window.slices]
    np.testing.assert_array_equal(result["pixeldq"], expected, strict=True)


@pytest.mark.parametrize("growth", [0, 1, 3])
def test_guide_window_growth(growth, run_step, window, arrays):
    for guide in GUIDE_WINDOWS.values():
        params = DqInitParams(guide_window_growth=growth)
        result = run_step(step, exposed(guide), window, arrays, params)["pixeldq"]
        expected = guide_flags(guide, g=growth)[window.slices]
        np.testing.assert_array_equal(result, expected, strict=True)


@given(
    guide=st.tuples(*[st.integers(-3, 260)] * 4),
    y=st.tuples(st.integers(0, 255), st.integers(0, 255)),
    x=st.tuples(st.integers(0, 255), st.integers(0, 255)),
)
def test_any_guide_window_in_any_tile(guide, y, x):
    window = Window(min(y), max(y) + 1, min(x), max(x) + 1)
    tile, science = Tile(window, 256), np.zeros((3, *window.shape), np.uint16)
    guide = (guide[0], guide[0] + abs(guide[1]), guide[2], guide[2] + abs(guide[3]))
    _, _, dq = initialise(science, tile=tile, exposure=exposed(guide))
    np.testing.assert_array_equal(dq, guide_flags(guide)[window.slices])


def test_no_guide_window_and_no_mask(run_step, window, arrays):
    assert not run_step(step, exposed(), window, arrays)["pixeldq"].any()


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("with_read", [False, True])
def test_ramp_is_formed_in_float32(offset, with_read, run_step, window, arrays, rng):
    """Neither sums above 65535 nor differences below 0 wrap around."""
    expected = arrays["science"].astype(float) - offset
    if with_read:
        read = rng.integers(0, 65536, (256, 256)).astype(np.float32)
        read[:2, :2], read[-2:, -2:] = 0, 65535
        expected += read
        arrays["reference_read"] = read
        assert expected.max() > 65535
    if offset:
        assert expected.min() < 0
    result = run_step(step, exposed(offset=offset), window, arrays)["ramp"]
    # integers below 2^24 are exact in float32
    expected = expected.astype(np.float32)[(..., *window.slices)]
    np.testing.assert_array_equal(result, expected, strict=True)


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("given_flags", [True, False])
def test_resultant_flags(exclude, given_flags, run_step, window, arrays, rng):
    flags = rng.integers(0, 256, (3, 256, 256), np.uint8)
    if given_flags:
        arrays["resultantdq"] = flags
    result = run_step(step, exposed(exclude=exclude), window, arrays)["groupdq"]
    expected = flags if given_flags else np.zeros_like(flags)
    if exclude:
        expected = expected.copy()
        expected[0] |= GROUP["DO_NOT_USE"]
    np.testing.assert_array_equal(result, expected[(..., *window.slices)], strict=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_reference_read(bad, run_step, window, arrays, rng):
    """Nothing is added in that pixel, which is flagged."""
    read = rng.integers(0, 1000, (256, 256)).astype(np.float32)
    expected = (arrays["science"] + read).astype(np.float32)
    expected[:, 60, 50] = arrays["science"][:, 60, 50]
    read[60, 50] = bad
    result = run_step(step, exposed(), window, arrays | {"reference_read": read})
    np.testing.assert_array_equal(result["ramp"], expected[(..., *window.slices)])
    y, x = np.mgrid[window.slices]
    flags = np.where((y == 60) & (x == 50), PIXEL["UNRELIABLE_BIAS"], 0)
    np.testing.assert_array_equal(result["pixeldq"], flags)
