"""Dark current, from the ramp or from the rate."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.steps.dark import DarkRateParams, rate_step, step

UNRELIABLE = PIXEL["UNRELIABLE_DARK"]


@pytest.fixture(scope="module")
def made(ipc_kernel):
    rng = np.random.default_rng(19)
    shape = (256, 256)
    return {
        "ramp": rng.normal(500, 100, (6, *shape)).astype(np.float32),
        "rate": rng.normal(1, 1, shape).astype(np.float32),
        "pixeldq": rng.integers(0, 2**32, shape, np.uint32),
        "dark_slope": rng.exponential(0.5, shape).astype(np.float32),
        "dark_dq": rng.integers(0, 2**32, shape, np.uint32),
        "gain": rng.uniform(1.5, 2, shape).astype(np.float32),
        "ipc": ipc_kernel(rng),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


def flags(arrays, window):
    expected = arrays["pixeldq"].copy()
    expected[4:252, 4:252] |= arrays["dark_dq"][4:252, 4:252]
    return expected[window.slices]


def ramp_inputs(arrays):
    return {k: arrays[k] for k in ("ramp", "pixeldq", "dark_slope", "dark_dq")}


def rate_inputs(arrays, order=2):
    names = ("rate", "dark_slope", "dark_dq") + (("gain", "ipc") if order else ())
    return {k: arrays[k] for k in names} | {"dq": arrays["pixeldq"]}


def test_from_the_ramp(arrays, exposure, run_step, window):
    """S_j - tbar_j * slope on active pixels."""
    result = run_step(step, exposure, window, ramp_inputs(arrays))
    tbar = [np.mean(reads) * 3.0 for reads in exposure.read_pattern]
    expected = arrays["ramp"].astype(float)
    for plane, t in zip(expected, tbar, strict=True):
        plane[4:252, 4:252] -= t * arrays["dark_slope"][4:252, 4:252]
    assert result["ramp"].dtype == np.float32
    np.testing.assert_allclose(
        result["ramp"], expected[(..., *window.slices)], rtol=1e-6, atol=1e-4
    )
    np.testing.assert_array_equal(result["pixeldq"], flags(arrays, window), strict=True)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_from_the_rate(order, arrays, exposure, run_step, window, deconvolved):
    params = DarkRateParams(order=order)
    result = run_step(rate_step, exposure, window, rate_inputs(arrays, order), params)
    slope = deconvolved(arrays["dark_slope"], arrays["gain"], arrays["ipc"], order)
    expected = arrays["rate"].astype(float)
    expected[4:252, 4:252] -= slope[4:252, 4:252]
    assert result["rate"].dtype == np.float32
    np.testing.assert_allclose(result["rate"], expected[window.slices], rtol=0, atol=3e-6)
    np.testing.assert_array_equal(result["dq"], flags(arrays, window), strict=True)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [step, rate_step], ids=lambda s: s.name)
def test_bad_dark_current(which, bad, arrays, exposure, run_step, window):
    """Nothing is subtracted in that pixel; IPC carries the hole two pixels further."""
    inputs = ramp_inputs if which is step else rate_inputs
    arrays["pixeldq"][:] = 0
    before = run_step(which, exposure, window, inputs(arrays))
    arrays["dark_slope"][60, 50] = arrays["dark_slope"][1, 1] = bad
    after = run_step(which, exposure, window, inputs(arrays))
    name, dq = which.writes
    y, x = np.mgrid[window.slices]
    here, reach = (y == 60) & (x == 50), 0 if which is step else 2
    far = np.maximum(abs(y - 60), abs(x - 50)) > reach
    assert (after[dq][here] & UNRELIABLE == UNRELIABLE).all()
    np.testing.assert_array_equal(after[dq][~here], before[dq][~here])
    assert np.isfinite(after[name]).all()
    np.testing.assert_array_equal(after[name][..., far], before[name][..., far])
    if which is step:
        np.testing.assert_array_equal(
            after[name][:, here], arrays["ramp"][:, 60:61, 50][:, : here.sum()]
        )


@pytest.mark.parametrize("name", ["gain", "ipc"])
def test_bad_gain_or_kernel(name, arrays, exposure, run_step, window):
    before = run_step(rate_step, exposure, window, rate_inputs(arrays))["rate"]
    arrays[name][..., 60, 50] = np.nan
    after = run_step(rate_step, exposure, window, rate_inputs(arrays))["rate"]
    y, x = np.mgrid[window.slices]
    far = np.maximum(abs(y - 60), abs(x - 50)) > 2
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(after[far], before[far])


@pytest.mark.parametrize("value", [-1000, -1.5, -1])
def test_below_zero(value, arrays, exposure, run_step, window):
    """By more than its noise can be: nothing is subtracted, the pixel is flagged; the package
    believes it."""
    arrays["dark_slope"][100, 100] = value
    believed = value >= -1
    full = Window(0, 256, 0, 256)
    taken = arrays["dark_slope"].copy()
    taken[100, 100] = value if believed else 0
    made = run_step(step, exposure, full, ramp_inputs(arrays))
    right = run_step(step, exposure, full, ramp_inputs(arrays | {"dark_slope": taken}))
    np.testing.assert_array_equal(made["ramp"], right["ramp"])
    found = made["pixeldq"] ^ right["pixeldq"]
    without = arrays["pixeldq"] | arrays["dark_dq"]
    assert found[100, 100] == (0 if believed else UNRELIABLE & ~without[100, 100])
    assert not np.delete(found, 100, axis=0).any()
    inputs = rate_inputs(arrays, order=0)
    for check in (True, False):
        params = DarkRateParams(order=0, check_references=check)
        rate = run_step(rate_step, exposure, full, inputs, params)["rate"]
        less = value if believed or not check else 0
        assert rate[100, 100] == arrays["rate"][100, 100] - np.float32(less)
