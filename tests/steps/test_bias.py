"""Bias and dark decay: subtractions from active pixels."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.pixel_times import pixel_times
from roman_dask_l2.steps import bias, dark_decay


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(11)
    return {
        "ramp": rng.normal(6000, 100, (6, 256, 256)).astype(np.float32),
        "pixeldq": rng.integers(0, 2**32, (256, 256), np.uint32),
        "bias": rng.normal(0, 5, (6, 256, 256)).astype(np.float32),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


def test_bias_is_subtracted_from_active_pixels(arrays, exposure, run_step, window):
    result = run_step(bias.step, exposure, window, arrays)
    expected = arrays["ramp"].copy()
    expected[:, 4:252, 4:252] -= arrays["bias"][:, 4:252, 4:252]
    np.testing.assert_array_equal(result["ramp"], expected[(..., *window.slices)], strict=True)
    np.testing.assert_array_equal(result["pixeldq"], arrays["pixeldq"][window.slices], strict=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_bias(bad, arrays, exposure, run_step, window):
    arrays["pixeldq"][:] = 0
    arrays["bias"][2, 60, 50] = bad
    arrays["bias"][2, 1, 100] = bad  # on the border nobody asks
    result = run_step(bias.step, exposure, window, arrays)
    expected, flags = arrays["ramp"].copy(), arrays["pixeldq"].copy()
    arrays["bias"][2, 60, 50] = 0
    expected[:, 4:252, 4:252] -= arrays["bias"][:, 4:252, 4:252]
    flags[60, 50] = PIXEL["UNRELIABLE_BIAS"]
    np.testing.assert_array_equal(result["ramp"], expected[(..., *window.slices)])
    np.testing.assert_array_equal(result["pixeldq"], flags[window.slices])


def test_dark_decay(arrays, exposure, run_step, window):
    """Mean over a resultant's reads f of A exp(-t/T), t the pixel's read time at frame f - 1.5."""
    times = pixel_times(exposure.detector_number, 256, exposure.frame_time, Window(0, 256, 0, 256))
    table = {"WFI01": {"amplitude": 40.0, "time_constant": 11.0}, "WFI02": {}}
    inputs = {"ramp": arrays["ramp"], "read_time": times, "table": table}
    result = run_step(dark_decay.step, exposure, window, inputs)["ramp"]
    expected = arrays["ramp"].astype(float)
    for j, reads in enumerate(exposure.read_pattern):
        values = [40.0 * np.exp(-(times + (f - 1.5) * 3.0) / 11.0) for f in reads]
        expected[j, 4:252, 4:252] -= np.mean(values, axis=0)[4:252, 4:252]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected[(..., *window.slices)], rtol=0, atol=1e-3)


def test_they_apply_where_their_files_are(exposure):
    for step, name in ((bias.step, "biascorr.data"), (dark_decay.step, "dark_decay.decay_table")):
        assert step.when(exposure, step.params(), {name}.__contains__)
        assert not step.when(exposure, step.params(), set().__contains__)
