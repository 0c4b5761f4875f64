"""Linearity: against numpy.polynomial.legendre, inside and outside the range of the fit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import legendre

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.linearity import LinearityParams, step

NO_LIN, REFERENCE = PIXEL["NO_LIN_CORR"], PIXEL["REFERENCE_PIXEL"]
SAT = GROUP["SATURATED"]


@pytest.fixture(scope="module")
def made():
    rng = np.random.default_rng(17)
    n = 256
    smin = rng.normal(5000, 100, (n, n))
    smax = rng.normal(60000, 100, (n, n))
    z = np.sort(rng.uniform(-0.99, 0.99, (6, n, n)), axis=0)
    outside = rng.random(z.shape) < 0.05  # any resultant, the first as well
    z[outside] = np.sign(z[outside]) * rng.uniform(1.01, 1.6, outside.sum())
    scale = np.array([25000, 27000, 900, 200, -80])[:, None, None]
    return {
        "ramp": (smin + (z + 1) / 2 * (smax - smin)).astype(np.float32),
        "groupdq": rng.choice(np.array([0, 0, 1, SAT, SAT | 4], np.uint8), z.shape),
        "pixeldq": rng.choice(np.array([0, 1, NO_LIN, REFERENCE], np.uint32), (n, n)),
        "coef": (scale * rng.normal(1, 0.05, (5, n, n))).astype(np.float32),
        "Smin": smin.astype(np.float32),
        "Smax": smax.astype(np.float32),
        "Sref": rng.normal(5900, 50, (n, n)).astype(np.float32),
        "linearity_dq": rng.choice(
            np.array([0] * 7 + [NO_LIN, REFERENCE, PIXEL["NONLINEAR"]], np.uint32), (n, n)
        ),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


def series(z, coef):
    """sum_L coef_L P_L(z), continued along the tangent beyond -1 and 1; float64."""
    inside = np.clip(z, -1, 1)
    value = legendre.legval(inside, coef, tensor=False)
    slope = legendre.legval(inside, legendre.legder(coef), tensor=False)
    return value + slope * (z - inside)


def restated(a, first_is_reset):
    a = {k: v.astype(float) if v.dtype.kind == "f" else v for k, v in a.items()}
    flags, out = a["linearity_dq"].copy(), np.empty_like(a["ramp"])
    for j, s in enumerate(a["ramp"]):
        z = -1 + 2 * (s - a["Smin"]) / (a["Smax"] - a["Smin"])
        if j == 0 and first_is_reset:
            z = np.clip(z, -1, 1)
        skip = flags & (NO_LIN | REFERENCE) != 0
        out[j] = np.where(skip, s - a["Sref"], series(z, a["coef"]))
        flags[(abs(z) > 1) & (a["groupdq"][j] & SAT == 0)] |= NO_LIN
    return out, a["pixeldq"] | flags


@pytest.mark.parametrize("first", [(0,), (0, 1), (1,)])
def test_formula(first, arrays, exposure, run_step, window):
    pattern = (first, *((i,) for i in range(2, 7)))
    exposure = dataclasses.replace(exposure, read_pattern=pattern)
    ramp, flags = restated(arrays, first == (0,))
    result = run_step(step, exposure, window, arrays)
    assert result["ramp"].dtype == np.float32
    # z in float32 is good to 1e-7 of the full range
    np.testing.assert_allclose(result["ramp"], ramp[(..., *window.slices)], rtol=1e-6, atol=0.05)
    np.testing.assert_array_equal(result["pixeldq"], flags[window.slices], strict=True)


def one_pixel(
    ramp, groupdq=(0, 0, 0, 0), pixeldq=0, linearity_dq=0, first=(0,), check=False, **reference
):
    """A pixel with phi(z) = z^2-like curvature: range 100..300, Sref 150."""
    values = {"coef": [10.0, 20.0, 5.0], "Smin": 100.0, "Smax": 300.0, "Sref": 150.0} | reference
    arrays = {k: np.full((np.size(v), 1, 1) if k == "coef" else (1, 1), 0, np.float32)
              for k, v in values.items()}  # fmt: skip
    for name, value in values.items():
        arrays[name][..., 0, 0] = value
    arrays |= {
        "ramp": np.array(ramp, np.float32).reshape(-1, 1, 1),
        "groupdq": np.array(groupdq, np.uint8).reshape(-1, 1, 1),
        "pixeldq": np.full((1, 1), pixeldq, np.uint32),
        "linearity_dq": np.full((1, 1), linearity_dq, np.uint32),
    }
    context = {
        "tile": Tile(Window(60, 61, 50, 51), 256),
        "exposure": Exposure(256, (first, (4,), (5,), (6,)), 3.0),
        "params": LinearityParams(check_references=check),
    }
    out, dq = step.run(arrays, context)
    return out[:, 0, 0], int(dq[0, 0])


def test_by_hand():
    """phi = 10 + 20 z + 5 (3 z^2 - 1)/2 at z = -1, 0, 1 and beyond: 35 + 35 (z - 1) for z > 1."""
    out, dq = one_pixel([100, 200, 300, 400])
    np.testing.assert_allclose(out, [-5, 7.5, 35, 70])
    assert dq == NO_LIN


def test_the_ends_of_the_range_belong_to_it():
    assert one_pixel([100, 100, 300, 300])[1] == 0


def test_first_resultant_in_reset_is_clipped_not_flagged():
    out, dq = one_pixel([50, 200, 200, 200])
    assert out[0] == -5
    assert dq == 0
    out, dq = one_pixel([500, 200, 200, 200])
    assert out[0] == 35
    assert dq == 0
    # any other first resultant is like the rest: phi' = 5 at z = -1, so -5 - 0.5 * 5
    out, dq = one_pixel([50, 200, 200, 200], first=(0, 1))
    assert out[0] == -7.5
    assert dq == NO_LIN
    assert out[1] == 50  # S - Sref from then on


def test_after_a_resultant_out_of_range_there_is_no_correction():
    out, dq = one_pixel([200, 400, 200, 250])
    np.testing.assert_allclose(out, [7.5, 70, 50, 100])
    assert dq == NO_LIN


def test_saturated_resultants_are_not_flagged():
    out, dq = one_pixel([200, 250, 400, 400], groupdq=(0, 0, SAT, SAT))
    np.testing.assert_allclose(out, [7.5, 19.375, 70, 70])
    assert dq == 0


@pytest.mark.parametrize("flag", [NO_LIN, REFERENCE])
def test_flags_of_the_file_mean_no_correction(flag):
    out, dq = one_pixel([200, 250, 260, 270], linearity_dq=flag)
    np.testing.assert_allclose(out, [50, 100, 110, 120])
    assert dq == flag


def test_flags_of_other_steps_do_not():
    out, dq = one_pixel([200, 200, 200, 200], pixeldq=NO_LIN | 1)
    assert (out == 7.5).all()
    assert dq == NO_LIN | 1


@pytest.mark.parametrize("n_coef", [1, 2, 3, 9])
def test_any_order(n_coef):
    rng = np.random.default_rng(n_coef)
    coef = rng.normal(0, 10, n_coef).astype(np.float32)
    s = np.array([120, 130, 290, 350], np.float32)
    out, _ = one_pixel(s, coef=coef)
    expected = [float(series(z, coef.astype(float))) for z in -1 + (s - 100) / 100]
    np.testing.assert_allclose(out, expected, rtol=3e-5, atol=1e-4)


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=8), st.sampled_from([-1, 1]))
def test_continuous_at_the_ends(coef, end):
    inside, outside = 200 + 99.999 * end, 200 + 100.001 * end
    below = one_pixel([200, inside, 200, 200], coef=coef)[0][1]
    above = one_pixel([200, outside, 200, 200], coef=coef)[0][1]
    # the steepest P_7 has slope 28 there
    assert abs(above - below) < 2e-5 * 28 * sum(map(abs, coef)) + 1e-3


@pytest.mark.parametrize("name", ["coef", "Smin", "Smax", "Sref"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_reference_values(name, bad, arrays, exposure, run_step, window):
    before = run_step(step, exposure, window, arrays)
    arrays[name][..., 60, 50] = bad
    after = run_step(step, exposure, window, arrays)
    here = np.zeros((256, 256), bool)
    here[60, 50] = True
    here = here[window.slices]
    assert (after["pixeldq"][here] & NO_LIN == NO_LIN).all()
    assert np.isfinite(after["ramp"]).all()
    np.testing.assert_array_equal(after["pixeldq"][~here], before["pixeldq"][~here])
    np.testing.assert_array_equal(after["ramp"][:, ~here], before["ramp"][:, ~here])


def test_an_empty_range_is_bad():
    out, dq = one_pixel([200, 200, 200, 200], Smin=300.0, Smax=300.0)
    np.testing.assert_allclose(out, 50)
    assert dq == NO_LIN


# -- curves that cannot be right -----------------------------------------------------------------

GOOD = {"coef": [10.0, 100.0, 5.0, 2.0], "Smin": 100.0, "Smax": 300.0, "Sref": 150.0}
SENSELESS = {
    "all coefficients zero": {"coef": [0.0, 0, 0, 0]},
    "no linear term": {"coef": [10.0, 0, 5, 0]},
    "falls": {"coef": [10.0, -100, 5, 2]},
    "falls at its end": {"coef": [10.0, 100, -40, 0]},  # slope 100 - 120 at z = 1
    "falls in the middle": {"coef": [10.0, 100, 0, 80]},  # 100 - 120 at z = 0
    "hardly rises": {"coef": [10.0, 9.9, 0, 0]},
    "rises too steeply": {"coef": [10.0, 1001, 0, 0]},
    "empty range": {"Smin": 300.0},
    "range upside down": {"Smin": 300.0, "Smax": 100.0},
    "hardly a range": {"Smin": 299.5, "coef": [10.0, 0.25, 0, 0]},
    "denormal range": {"Smin": 0.0, "Smax": 1e-40},
    "huge range": {"Smin": -1e30, "Smax": 1e30, "coef": [0.0, 1e30, 0, 0]},
    "huge constant": {"coef": [1e30, 100, 5, 2]},
    "huge empty well": {"Sref": 1e30},
    "empty well not finite": {"Sref": np.nan},
    "coefficient not finite": {"coef": [10.0, 100, np.inf, 2]},
}


@pytest.mark.parametrize("change", SENSELESS.values(), ids=SENSELESS)
def test_a_curve_that_cannot_be_right_is_not_applied(change):
    out, dq = one_pixel([200, 210, 220, 230], check=True, **(GOOD | change))
    sref = 150 if np.isfinite(change.get("Sref", 0)) and change.get("Sref", 0) < 1e29 else 0
    assert dq == NO_LIN
    np.testing.assert_allclose(out, np.array([200, 210, 220, 230]) - sref)


@pytest.mark.parametrize(
    "coef",
    [
        [10.0, 100, 5, 2],
        [10.0, 100, 0, 50],  # more than the bound allows, and rises all the same: 100 - 75 at 0
        [10.0, 100, 30, 5],
        [1e6, 11, 0, 0],
        [0.0, 999, 0, 0],
        [0.0, 100],
    ],
)
def test_a_curve_that_rises_is_applied(coef):
    out, dq = one_pixel([200, 210, 220, 230], check=True, **(GOOD | {"coef": coef}))
    expected = [float(series(z, np.array(coef))) for z in (0, 0.1, 0.2, 0.3)]
    assert dq == 0
    np.testing.assert_allclose(out, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["all coefficients zero", "falls", "hardly rises"])
def test_the_option_takes_any_curve(name):
    assert one_pixel([200, 210, 220, 230], **(GOOD | SENSELESS[name]))[1] == 0


@given(st.lists(st.floats(-30, 30, width=32), min_size=0, max_size=9))
def test_monotonic_or_flagged(more):
    """Against the roots of the derivative."""
    coef = np.array([5.0, 100.0, *more])
    slope = legendre.legder(coef)
    z = np.linspace(-1, 1, 20001)
    least = legendre.legval(z, slope).min()
    rise = legendre.legval(1, coef) - legendre.legval(-1, coef)
    flagged = bool(one_pixel([200, 200, 200, 200], check=True, **(GOOD | {"coef": coef}))[1])
    if least > 1 and 21 < rise < 1999:
        assert not flagged
    if least < -1 or not 19 < rise < 2001:
        assert flagged


def test_reference_pixels_are_not_judged(arrays, exposure, run_step):
    """Nobody uses their curves: an all-zero border says nothing new."""
    window = Window(0, 20, 0, 20)
    before = run_step(step, exposure, window, arrays)["pixeldq"]
    arrays["coef"][:, :4] = 0
    arrays["coef"][:, 10, 10] = 0
    after = run_step(step, exposure, window, arrays)["pixeldq"]
    changed = np.argwhere(after & NO_LIN != before & NO_LIN)
    assert changed.tolist() in ([[10, 10]], [])  # or it had the flag
    assert after[10, 10] & NO_LIN
