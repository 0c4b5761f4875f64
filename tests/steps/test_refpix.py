"""Reference pixels: against the formulas on the whole frame, and what they must not see."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from roman_dask_l2.steps.refpix import (
    RefpixParams,
    above_dark,
    coefficients,
    row_weight,
    step,
    strips,
)

PINK = {"common": 0.8, "own": 1.1, "own_pink": 0.3}
OFFSET = 1000.0


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def exposure(exposure):
    return dataclasses.replace(
        exposure, read_pattern=exposure.read_pattern[:3], encoding_offset=OFFSET
    )


@pytest.fixture(scope="module")
def made():
    """A ramp with banding, channel lines and signal; amp33 as sent, less its reference read."""
    n, r = 256, 3
    rng = np.random.default_rng(8)
    dark = rng.normal(5900, 40, (r, n, n))
    rows = rng.normal(0, 3, (r, n, 1))
    lines = rng.normal(0, 20, (r, 1, 2)) + rng.normal(0, 0.05, (r, 1, 2)) * np.arange(n)[:, None]
    ramp = dark + rows + np.repeat(lines, 128, axis=2) + rng.normal(0, 5, (r, n, n))
    ramp[:, 4:-4, 4:-4] += rng.uniform(0, 2e4, (n - 8, n - 8))
    median = rng.normal(5500, 30, (n, 128))
    reference = rng.integers(4400, 4600, (n, 128))
    amp33 = np.rint(median - reference + OFFSET + rows + rng.normal(0, 4, (r, n, 128)))
    assert amp33.min() >= 0
    return {
        "ramp": ramp.astype(np.float32),
        "dark": dark.astype(np.float32),
        "amp33": amp33.astype(np.uint16),
        "reference_amp33": reference.astype(np.float32),
        "median": median.astype(np.float32),
        "std": rng.uniform(3, 5, (n, 128)).astype(np.float32),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


def measured(arrays, exposure, params=None, with_amp33=True, **pink):
    params = params or RefpixParams()
    partials = []
    for window in strips(exposure, params):
        cut = (..., *window.slices)
        partials.append(above_dark(arrays["ramp"][cut], arrays["dark"][cut]))
    names = ("amp33", "reference_amp33", "median", "std")
    whole = {name: arrays[name] for name in names} | PINK | pink
    if not with_amp33:
        whole |= dict.fromkeys([n for n in whole if n not in names[:2]])
    return coefficients(partials, **whole, exposure=exposure)


def restated(arrays, with_amp33=True):
    """algorithms.md, word for word: `I = [S - dark | A]`, rows, then channels, then the dark."""
    ramp, dark = arrays["ramp"].astype(float), arrays["dark"].astype(float)
    a = arrays["amp33"].astype(float) + arrays["reference_amp33"] - OFFSET - arrays["median"]
    n = ramp.shape[-1]
    m, c, ru = PINK["own"], PINK["common"], PINK["own_pink"]
    white = np.median(arrays["std"]) ** 2 / (128 * np.log(4096))
    weight = m * c**2 / (m**2 * c**2 + ru**2 + white)
    out = np.empty_like(ramp)
    for j in range(len(ramp)):
        image = np.hstack([ramp[j] - dark[j], a[j] - np.median(a[j])])
        if with_amp33:
            r = np.median(image[:, n:], axis=1)
            image -= weight * (r - np.median(r))[:, None]
        for x in range(0, n, 128):
            channel = image[:, x : x + 128]
            ends = np.median(channel[:4]), np.median(channel[-4:])
            line = np.polynomial.Polynomial.fit([1.5, n - 2.5], ends, 1)
            channel -= line(np.arange(n))[:, None]
        out[j] = image[:, :n] + dark[j]
    return out


@pytest.mark.parametrize("with_amp33", [True, False])
@pytest.mark.parametrize("through_dark", [False, True])
def test_formula(with_amp33, through_dark, arrays, exposure, run_step, window):
    found = measured(arrays, exposure, with_amp33=with_amp33)
    assert found["rows"].any() == with_amp33
    inputs = {k: arrays[k] for k in (("ramp", "dark") if through_dark else ("ramp",))}
    params = RefpixParams(through_dark=through_dark)
    result = run_step(step, exposure, window, inputs, params, found)["ramp"]
    assert result.dtype == np.float32
    expected = restated(arrays, with_amp33)[(..., *window.slices)]
    np.testing.assert_allclose(result, expected, rtol=0, atol=4e-3)  # four roundings of float32


def test_rounding_through_the_dark(arrays, exposure, run_step, window):
    """romanimpreprocess's order of roundings, to the bit."""
    found = measured(arrays, exposure)
    inputs = {k: arrays[k] for k in ("ramp", "dark")}
    result = run_step(step, exposure, window, inputs, RefpixParams(through_dark=True), found)
    s = arrays["ramp"] - arrays["dark"]
    s = (s - found["rows"][:, :, None]).astype(np.float32)
    channel, y = np.arange(256) // 128, np.arange(256)[:, None]
    slope, low = (found[name][:, None, channel] for name in ("slope", "low"))
    line = slope * y + low - 1.5 * slope
    s = (s - line).astype(np.float32) + arrays["dark"]
    np.testing.assert_array_equal(result["ramp"], s[(..., *window.slices)], strict=True)


def test_row_weight():
    """Of a common noise seen alike everything is removed; noise of the output's own lowers that."""
    quiet = np.zeros((4, 128))
    assert row_weight(0.8, 1.0, 0.0, quiet) == pytest.approx(1)
    assert row_weight(0.8, 2.0, 0.0, quiet) == pytest.approx(0.5)
    assert row_weight(0.8, 1.0, 0.8, quiet) == pytest.approx(0.5)
    noisy = np.full((4, 128), np.sqrt(128 * np.log(4096)))
    assert row_weight(1.0, 1.0, 0.0, noisy) == pytest.approx(0.5)


def test_no_noise_at_all_means_no_row_correction(arrays, exposure):
    arrays["std"] = np.zeros_like(arrays["std"])
    found = measured(arrays, exposure, common=0.0, own_pink=0.0)
    assert not found["rows"].any()


def test_banding_and_lines_are_removed_whole(arrays, exposure, run_step, window, rng):
    """With all noise common (weight 1) the result does not change when each channel gets a line
    and each row, the reference output's as well, an offset."""
    arrays["std"] = np.zeros_like(arrays["std"])
    pink = {"common": 1.0, "own": 1.0, "own_pink": 0.0}
    before = run_step(
        step, exposure, window, {"ramp": arrays["ramp"]}, None, measured(arrays, exposure, **pink)
    )["ramp"]
    n = 256
    rows = rng.integers(-30, 31, (3, n, 1))
    # A median of four rows sees a steep line a little off its middle.
    ends = rng.normal(0, 1, (3, 1, 2, 2)) * [300, 10]
    y = np.arange(n)[:, None] / n
    lines = np.repeat(ends[..., 0] + ends[..., 1] * y, 128, axis=2)
    arrays["ramp"] = (arrays["ramp"] + rows + lines).astype(np.float32)
    arrays["amp33"] = (arrays["amp33"].astype(int) + rows).astype(np.uint16)
    after = run_step(
        step, exposure, window, {"ramp": arrays["ramp"]}, None, measured(arrays, exposure, **pink)
    )["ramp"]
    np.testing.assert_allclose(after, before, rtol=0, atol=0.05)


def test_signal_does_not_matter(arrays, exposure):
    """Only border rows and the reference output make the coefficients."""
    before = measured(arrays, exposure)
    arrays["ramp"][:, 4:-4] = 0
    after = measured(arrays, exposure)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)


@pytest.mark.parametrize("name", ["dark", "median", "std"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_reference_values_do_not_spread(name, bad, arrays, exposure, run_step, window):
    params = RefpixParams(through_dark=True)

    def result():
        inputs = {k: arrays[k] for k in ("ramp", "dark")}
        found = measured(arrays, exposure, params)
        return run_step(step, exposure, window, inputs, params, found)["ramp"]

    before = result()
    arrays[name][..., 1, 9] = bad
    if name == "dark":
        arrays[name][..., 100, 200] = bad
    # one value of 512 (channel) or 128 (row) moves a median a little, by noise
    np.testing.assert_allclose(result(), before, rtol=0, atol=1.0)
