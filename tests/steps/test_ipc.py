"""Inter-pixel capacitance: against plain NumPy, and as the inverse of a convolution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.ipc import IpcParams, deconvolve, step

WHOLE = Window(0, 256, 0, 256)
BAD = PIXEL["OTHER_BAD_PIXEL"]


@pytest.fixture
def rng():
    return np.random.default_rng(23)


@pytest.fixture(scope="module")
def made(ipc_kernel):
    rng = np.random.default_rng(29)
    shape = (256, 256)
    return {
        "ramp": rng.exponential(1000, (2, *shape)).astype(np.float32),
        "pixeldq": rng.integers(0, 2**30, shape, np.uint32),
        "gain": rng.uniform(1.5, 2, shape).astype(np.float32),
        "ipc": ipc_kernel(rng),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


@pytest.mark.parametrize("order", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_formula(order, dtype, arrays, exposure, run_step, window, deconvolved):
    arrays["gain"] = arrays["gain"].astype(dtype)
    result = run_step(step, exposure, window, arrays, IpcParams(order=order))
    expected = deconvolved(arrays["ramp"], arrays["gain"], arrays["ipc"], order)
    expected = expected[(..., *window.slices)]
    assert result["ramp"].dtype == np.float32
    # the gain's precision is that of the arithmetic
    rtol = 3e-7 if dtype == "float32" else 6.1e-8
    np.testing.assert_allclose(result["ramp"], expected, rtol=rtol, atol=4000 * rtol)
    np.testing.assert_array_equal(result["pixeldq"], arrays["pixeldq"][window.slices], strict=True)


def forward(charge, kernel):
    """Charge of (y, x) goes to (y + dy, x + dx) by the share K[1 + dy, 1 + dx, y, x]."""
    n = len(charge)
    out = np.zeros((n + 2, n + 2))
    for dy, dx in np.ndindex(3, 3):
        out[dy : dy + n, dx : dx + n] += kernel[dy, dx] * charge
    return out[1:-1, 1:-1]


def test_inverts_the_convolution_to_second_order(arrays, rng):
    """What is left of an error shrinks by the share that leaves a pixel, order by order."""
    gain = arrays["gain"].astype(float)
    kernel = arrays["ipc"].astype(float)[:, :, 4:-4, 4:-4]
    truth = rng.exponential(1000, (248, 248))
    blurred = np.zeros((256, 256), np.float32)
    blurred[4:-4, 4:-4] = forward(truth * gain[4:-4, 4:-4], kernel) / gain[4:-4, 4:-4]
    moved = 2 * (1 - kernel[1, 1]).max()  # norm of 1 - K: what leaves, and arrives elsewhere
    size = truth.max() * gain.max() / gain.min()
    errors = []
    for order in range(4):
        found = deconvolve(blurred, gain, arrays["ipc"], Tile(WHOLE, 256), order)
        errors.append(np.abs(found[4:-4, 4:-4] - truth).max())
        assert errors[-1] <= size * moved ** (order + 1) + 1e-2
    assert errors[2] < 0.03 * errors[0]
    assert errors[0] > 100 > 10 > errors[2]


@given(st.integers(4, 251), st.integers(4, 251), st.integers(0, 3), st.integers(0, 99))
def test_delta(y, x, order, seed):
    """A single charge reaches `order` pixels and no further; what does not leave is kept."""
    share = np.random.default_rng(seed).uniform(0, 0.02, (3, 3))
    share[1, 1] += 1 - share.sum()
    window = Window(max(y - 6, 0), min(y + 6, 256), max(x - 6, 0), min(x + 6, 256))
    kernel = np.broadcast_to(share[:, :, None, None], (3, 3, *window.shape)).astype(np.float32)
    signal = np.zeros(window.shape, np.float32)
    signal[y - window.y0, x - window.x0] = 1000
    tile = Tile(window, 256)
    out = deconvolve(signal, np.ones(window.shape), np.ascontiguousarray(kernel), tile, order)
    ys, xs = np.nonzero(out)
    assert np.maximum(abs(ys + window.y0 - y), abs(xs + window.x0 - x)).max() <= order
    if 4 + order <= min(y, x) and max(y, x) <= 251 - order:
        assert out.sum() == pytest.approx(1000, rel=1e-5)
    assert out[y - window.y0, x - window.x0] >= 1000


def test_nothing_enters_from_the_border(arrays, exposure, run_step, window):
    before = run_step(step, exposure, window, arrays)["ramp"]
    border = np.ones((256, 256), bool)
    border[4:-4, 4:-4] = False
    arrays["ramp"][:, border] = 1e9
    arrays["gain"][border] = 1e9
    arrays["ipc"][:, :, border] = 1e9
    after = run_step(step, exposure, window, arrays)["ramp"]
    active = ~border[window.slices]
    np.testing.assert_array_equal(after[:, active], before[:, active])
    assert (after[:, ~active] == 1e9).all()  # and the border is left alone


@pytest.mark.parametrize("name", ["gain", "ipc"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_reference_values(name, bad, arrays, exposure, run_step, window):
    before = run_step(step, exposure, window, arrays)
    place = (60, 50) if name == "gain" else (0, 1, 60, 50)
    arrays[name][place] = bad
    after = run_step(step, exposure, window, arrays)
    y, x = np.mgrid[window.slices]
    here = (y == 60) & (x == 50)
    far = np.maximum(abs(y - 60), abs(x - 50)) > 2
    assert np.isfinite(after["ramp"]).all()
    np.testing.assert_array_equal(after["ramp"][:, far], before["ramp"][:, far])
    flag = BAD if name == "ipc" else 0  # a bad gain is flagged with the flat
    expected = before["pixeldq"] | np.where(here, np.uint32(flag), np.uint32(0))
    np.testing.assert_array_equal(after["pixeldq"], expected)


@pytest.mark.parametrize("gain", [0.0, -1.8])
def test_a_gain_that_cannot_be_stays_in_its_pixel(gain, arrays, exposure, run_step, window):
    before = run_step(step, exposure, window, arrays)["ramp"]
    arrays["gain"][60, 50] = gain
    after = run_step(step, exposure, window, arrays)["ramp"]
    y, x = np.mgrid[window.slices]
    far = np.maximum(abs(y - 60), abs(x - 50)) > 2
    np.testing.assert_array_equal(after[:, far], before[:, far])
    assert np.isfinite(after[:, (y != 60) | (x != 50)]).all()


def test_needs_its_file(exposure):
    assert step.when(exposure, IpcParams(), {"ipc4d.data"}.__contains__)
    assert not step.when(exposure, IpcParams(), set().__contains__)
    assert step.halo(IpcParams(order=3)) == 3
