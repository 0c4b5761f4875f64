"""The transient of WFI18: found by rows, subtracted by pixels, or masked."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.pixel_times import pixel_times
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.wfi18_transient import (
    TransientParams,
    _clipped_means,
    _swapped_means,
    bands,
    fit_transient,
    held,
    row_residuals,
    step,
    transient,
)

MASKED = GROUP["DO_NOT_USE"] | GROUP["WFI18_TRANSIENT"]
CORRECT = TransientParams(correct=True)


@pytest.fixture(scope="module")
def exposure():
    pattern = tuple((i,) for i in range(6))
    return Exposure(256, pattern, 0.3, detector="WFI18")


@pytest.fixture(scope="module")
def times():
    return pixel_times(18, 256, 0.3, Window(0, 256, 0, 256))


@pytest.fixture(scope="module")
def made(exposure, times):
    """Straight ramps, noise, bright rows of stars, and the transient in resultant 0."""
    rng = np.random.default_rng(13)
    rate = rng.uniform(0, 3, (256, 256))
    rate[:, rng.integers(4, 252, 20)] += 500
    ramp = 6000 + rate * exposure.tbar[:, None, None] + rng.normal(0, 0.02, (6, 256, 256))
    ramp[0] += 60 * np.exp(-times / 0.03) - 8 * np.exp(-times / 0.15)
    ramp[0, 60, rng.integers(4, 252, 9)] += 1000  # outliers, to be clipped
    return ramp.astype(np.float32)


@pytest.fixture
def ramp(made):
    return made.copy()


def partials(ramp, exposure, params=CORRECT):
    times = pixel_times(18, 256, 0.3, Window(0, 256, 0, 256))
    return [
        row_residuals(
            ramp[(..., *w.slices)], times[w.slices],
            tile=Tile(w, 256), exposure=exposure, params=params,
        )
        for w in bands(exposure, params)
    ]  # fmt: skip


def test_bands_are_the_active_rows(exposure):
    covered = np.zeros((256, 256), int)
    for w in bands(exposure, CORRECT):
        covered[w.slices] += 1
    assert (covered[4:252] == 1).all()
    assert not covered[:4].any()
    assert not covered[252:].any()


def test_row_residuals(ramp, exposure, times):
    """Against a row-by-row clipped mean."""
    t, s = exposure.tbar, ramp[:, 4:252, 4:252].astype(float)
    expected = []
    for y in range(248):
        row = s[:, y]
        first = row[1] + (row[2] - row[1]) / (t[2] - t[1]) * (t[0] - t[1])
        values = (row[0] - first)[row[4] - row[3] <= np.median(row[4] - row[3])]
        for _ in range(5):
            off = np.abs(values - np.median(values))
            values = values[off <= 3 * values.std()]
        expected.append(values.mean())
    found = partials(ramp, exposure)
    result = np.concatenate([means for _, means in found])
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-9)
    result = np.concatenate([t for t, _ in found])
    np.testing.assert_array_equal(result, times[4:252].mean(axis=1), strict=True)


def test_the_transient_is_removed(ramp, exposure, times, run_step, window):
    found = fit_transient(partials(ramp, exposure))
    model = transient(times, *found["fit"])
    truth = 60 * np.exp(-times / 0.03) - 8 * np.exp(-times / 0.15)
    np.testing.assert_allclose(model, truth, rtol=0, atol=0.05)
    inputs = {"ramp": ramp, "groupdq": np.zeros(ramp.shape, np.uint8), "read_time": times}
    result = run_step(step, exposure, window, inputs, CORRECT, found)
    expected = ramp.copy()
    expected[0, 4:252, 4:252] -= model[4:252, 4:252].astype(np.float32)
    np.testing.assert_array_equal(result["ramp"], expected[(..., *window.slices)], strict=True)
    assert not result["groupdq"].any()


@pytest.mark.parametrize("why", ["asked for", "few resultants", "no fit"])
def test_rows_are_masked(why, ramp, exposure, times, run_step, window):
    params = CORRECT
    if why == "asked for":
        params = TransientParams(correct=True, mask_rows=True)
        assert bands(exposure, params) == []
    elif why == "few resultants":
        exposure = dataclasses.replace(exposure, read_pattern=exposure.read_pattern[:4])
        ramp = ramp[:4]
        assert bands(exposure, params) == []
    else:
        ramp[:] = 6000  # no transient at all
    found = fit_transient(partials(ramp, exposure, params))
    assert found["fit"] is None
    flags = np.full(ramp.shape, 8, np.uint8)
    inputs = {"ramp": ramp, "groupdq": flags, "read_time": times}
    result = run_step(step, exposure, window, inputs, params, found)
    np.testing.assert_array_equal(result["ramp"], ramp[(..., *window.slices)])
    assert (result["groupdq"][0] == 8 | MASKED).all()
    assert (result["groupdq"][1:] == 8).all()


def test_only_the_first_thousand_rows():
    for y0, y1, masked in ((900, 1000, 100), (990, 1013, 10), (1000, 1152, 0)):
        window = Window(y0, y1, 5, 9)
        flags = np.zeros((3, *window.shape), np.uint8)
        ramp, result = step.kernel(
            np.zeros(flags.shape, np.float32),
            flags,
            np.zeros(window.shape),
            tile=Tile(window, 1152),
            measured={"fit": None},
        )
        assert (result[0, :masked] == MASKED).all()
        assert not result[0, masked:].any()
        assert not result[1:].any()
        assert not flags.any()


def test_only_on_wfi18_and_if_asked(exposure):
    other = dataclasses.replace(exposure, detector="WFI08")
    for params in (CORRECT, TransientParams(mask_rows=True)):
        assert step.when(exposure, params, bool)
        assert not step.when(other, params, bool)
    assert not step.when(exposure, TransientParams(), bool)


def test_swapped_medians(ramp, exposure, times):
    """The broadcast of romancal 1.1: row by row, column x against the median of row x."""
    swapped = TransientParams(correct=True, swap_medians=True)
    ramp[:, 4:252] += (
        np.arange(248)[None, :, None]
        * np.float32(0.02)
        * exposure.tbar[:, None, None].astype(np.float32)
    )  # medians that differ from row to row
    t, s = exposure.tbar, ramp[:, 4:252, 4:252].astype(float)
    medians = [np.median(s[4, y] - s[3, y]) for y in range(248)]
    rows = []
    for y in range(248):
        row = s[:, y]
        first = row[1] + (row[2] - row[1]) / (t[2] - t[1]) * (t[0] - t[1])
        faint = [row[4, x] - row[3, x] <= medians[x] for x in range(248)]
        values = (row[0] - first)[faint]
        for _ in range(5):
            off = np.abs(values - np.median(values))
            values = values[off <= 3 * values.std()]
        rows.append(values.mean())
    found = partials(ramp, exposure, swapped)
    np.testing.assert_allclose(
        _swapped_means([values for _, values in found]), rows, rtol=0, atol=1e-9
    )
    fit = fit_transient(found, params=swapped)["fit"]
    expected = fit_transient([(times[4:252].mean(axis=1), np.array(rows))])["fit"]
    np.testing.assert_allclose(fit, expected, rtol=1e-5)
    assert fit != fit_transient(partials(ramp, exposure))["fit"]
    parts = sum(a.nbytes for _, part in found for a in part)
    assert parts <= held(exposure, swapped) < 1.2 * parts
    assert held(exposure, CORRECT) == 0


def test_clipped_means_are_those_of_astropy():
    """Bit for bit, also of rows with nothing left or with values that are not finite."""
    from astropy.stats import sigma_clipped_stats

    rng = np.random.default_rng(5)
    values = rng.normal(0, 10, (9, 700))
    values[rng.random(values.shape) < 0.02] = 1000
    values[1, :300], values[2], values[3, 7] = np.nan, np.nan, np.inf
    bright = rng.random(values.shape) < 0.5
    bright[4] = True
    before = values.copy()
    found = _clipped_means(values, bright)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, _, _ = sigma_clipped_stats(values, mask=bright, sigma=3.0, axis=1)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(values, before)
