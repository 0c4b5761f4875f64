"""Saturation: against one call of stcal on the whole frame."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from stcal.saturation.saturation import flag_saturated_pixels

from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.steps.saturation import SaturationParams, halo, step

DNU, SAT, FLOOR = (GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "AD_FLOOR"))
NO_CHECK = PIXEL["NO_SAT_CHECK"]


def expected_flags(exposure, arrays, backup=1, grow=1):
    """stcal once on the whole frame, without the first resultant; then the onset moved back."""
    a = {name: value.copy() for name, value in arrays.items()}
    flags = {"DO_NOT_USE": DNU, "SATURATED": SAT, "AD_FLOOR": FLOOR, "NO_SAT_CHECK": NO_CHECK}
    groupdq, pixeldq, _ = flag_saturated_pixels(
        a["ramp"][None, 1:],
        a["groupdq"][None, 1:],
        a["pixeldq"],
        a["threshold"],
        a["threshold_dq"],
        65535,
        flags,
        n_pix_grow_sat=grow,
        read_pattern=[list(reads) for reads in exposure.read_pattern[1:]],
    )
    out = np.concatenate([a["groupdq"][:1], groupdq[0]])
    for _ in range(backup):
        for i in range(1, len(out) - 1):
            if len(exposure.read_pattern[i]) > 1:
                out[i] |= out[i + 1] & SAT
    return out, pixeldq


@pytest.fixture(scope="module")
def made_quiet(exposure):
    """Nothing near a limit, but flags of all kinds from the L1 file."""
    n, rng = exposure.side, np.random.default_rng(5)
    slope = rng.uniform(0, 500, (n, n))
    ramp = 6000 + slope * exposure.tbar[:, None, None] + rng.normal(0, 5, (6, n, n))
    return {
        "ramp": ramp.astype(np.float32),
        "groupdq": rng.choice(np.array([0, 0, 0, DNU, 8, FLOOR, 128], np.uint8), (6, n, n)),
        "pixeldq": rng.choice(np.array([0, 0, 1 << 31, 1 << 10], np.uint32), (n, n)),
        "threshold": rng.normal(55000, 300, (n, n)).astype(np.float32),
        "threshold_dq": np.zeros((n, n), np.uint32),
    }


@pytest.fixture(scope="module")
def made_busy(made_quiet, exposure):
    """Saturation at every resultant and on every edge, zeros, thresholds that are not there."""
    n, rng = exposure.side, np.random.default_rng(6)
    quiet = {name: value.copy() for name, value in made_quiet.items()}
    ramp = quiet["ramp"]
    rate = np.where(rng.random((n, n)) < 0.03, 10 ** rng.uniform(2.5, 5, (n, n)), 0)
    for edge in (np.s_[0, ::9], np.s_[-1, ::9], np.s_[::9, 0], np.s_[::9, -1]):
        rate[edge] = 10 ** rng.uniform(3, 4.5, rate[edge].shape)
    rate[[0, 0, -1, -1], [0, -1, 0, -1]] = 3e4
    ramp += (rate * exposure.tbar[:, None, None]).astype(np.float32)
    np.clip(ramp, None, 65535, out=ramp)
    ramp[rng.random(ramp.shape) < 0.002] = 0
    ramp[rng.random(ramp.shape) < 0.002] = -3
    # thresholds met exactly
    quiet["threshold"][50:60, 50] = ramp[3, 50:60, 50]
    quiet["groupdq"][rng.random(ramp.shape) < 0.002] |= SAT
    quiet["threshold"][rng.random((n, n)) < 0.02] = 65536  # as if there were none, but checked
    quiet["threshold"][rng.random((n, n)) < 0.02] = np.nan
    quiet["threshold_dq"][rng.random((n, n)) < 0.02] = NO_CHECK
    quiet["threshold_dq"][rng.random((n, n)) < 0.02] |= PIXEL["OTHER_BAD_PIXEL"]
    return quiet


@pytest.fixture
def quiet(made_quiet):
    return {name: value.copy() for name, value in made_quiet.items()}


@pytest.fixture
def busy(made_busy):
    return {name: value.copy() for name, value in made_busy.items()}


@pytest.mark.parametrize("backup", [0, 1, 2])
def test_equals_stcal_on_the_whole_frame(backup, busy, exposure, run_step, window):
    groupdq, pixeldq = expected_flags(exposure, busy, backup)
    result = run_step(step, exposure, window, busy, SaturationParams(backup=backup))
    cut = window.slices
    np.testing.assert_array_equal(result["groupdq"], groupdq[(..., *cut)], strict=True)
    np.testing.assert_array_equal(result["pixeldq"], pixeldq[cut], strict=True)


@pytest.mark.parametrize("grow", [0, 1, 2])
def test_growth_and_its_halo(grow, busy, exposure, run_step, window):
    params = SaturationParams(grow=grow)
    assert halo(params) == 2 * grow
    groupdq, _ = expected_flags(exposure, busy, grow=grow)
    result = run_step(step, exposure, window, busy, params)["groupdq"]
    np.testing.assert_array_equal(result, groupdq[(..., *window.slices)])


def test_the_case_has_everything(busy, exposure):
    """What the comparisons above are worth: every flag is set somewhere, the backward pass too."""
    groupdq, pixeldq = expected_flags(exposure, busy)
    new = groupdq & ~busy["groupdq"]
    as_found = expected_flags(exposure, busy, backup=0)[0] & SAT != 0
    assert set(np.unique(as_found.argmax(0)[as_found.any(0)])) >= {1, 2, 3, 4, 5}
    assert ((new & FLOOR) != 0).any()
    assert (((new & DNU) != 0) & ((new & FLOOR) == 0))[1:].any()  # seen in the next resultant
    assert (groupdq != expected_flags(exposure, busy, backup=0)[0]).any()
    assert (groupdq != expected_flags(exposure, busy, backup=2)[0]).any()
    assert (pixeldq & NO_CHECK).any()
    assert not (groupdq[1:] & ~busy["groupdq"][1:] & SAT)[:, np.isnan(busy["threshold"])].all()


def test_first_resultant_is_left_alone(quiet, exposure, run_step, window):
    quiet["ramp"][0] = 65535
    result = run_step(step, exposure, window, quiet)["groupdq"]
    np.testing.assert_array_equal(result, quiet["groupdq"][(..., *window.slices)])


@pytest.mark.parametrize("value", [np.nan, 10.0])
def test_no_threshold(value, quiet, exposure, run_step, window):
    """Not even the converter's limit saturates a pixel without a threshold."""
    quiet["ramp"][:, 60, 50] = 65535
    quiet["threshold"][60, 50] = value
    if value == 10:
        quiet["threshold_dq"][60, 50] = NO_CHECK
    result = run_step(step, exposure, window, quiet)
    assert not (result["groupdq"] & SAT).any()
    expected = quiet["pixeldq"].copy()
    expected[60, 50] |= NO_CHECK
    np.testing.assert_array_equal(result["pixeldq"], expected[window.slices])


@pytest.mark.parametrize("value", [0.0, -5.0, np.inf, -np.inf, 1e38])
def test_threshold_that_is_none(value, quiet, exposure, run_step, window):
    """As if it were missing; without the check as stcal takes it, and on the border too."""
    quiet["ramp"][3:, 60, 50] = 65535
    for place in ((60, 50), (2, 90)):
        quiet["threshold"][place] = value
    result = run_step(step, exposure, window, quiet)
    saturated, no_check = (
        np.argwhere(result[name] & flag) for name, flag in (("groupdq", SAT), ("pixeldq", NO_CHECK))
    )
    inside = window.y0 <= 60 < window.y1 and window.x0 <= 50 < window.x1
    assert len(no_check) == inside
    assert {tuple(at[1:] + (window.y0, window.x0)) for at in saturated} <= {
        (y, x) for y in range(4) for x in range(89, 92)
    }
    unchecked = SaturationParams(check_references=False)
    groupdq, pixeldq = expected_flags(exposure, quiet)
    result = run_step(step, exposure, window, quiet, unchecked)
    np.testing.assert_array_equal(result["groupdq"], groupdq[(..., *window.slices)])
    np.testing.assert_array_equal(result["pixeldq"], pixeldq[window.slices])


def test_quiet_tiles(quiet, exposure, run_step, window):
    """Nothing is near: the shortcut says what stcal says."""
    result = run_step(step, exposure, window, quiet)
    groupdq, pixeldq = expected_flags(exposure, quiet)
    np.testing.assert_array_equal(result["groupdq"], groupdq[(..., *window.slices)])
    np.testing.assert_array_equal(result["pixeldq"], pixeldq[window.slices])


@pytest.mark.parametrize("what", ["at the threshold", "zero", "below zero", "flagged before"])
def test_one_pixel_is_enough(what, quiet, exposure, run_step, window):
    y, x = (window.y0 + window.y1) // 2, (window.x0 + window.x1) // 2
    if what == "flagged before":
        quiet["groupdq"][2, y, x] = SAT
    else:
        values = {"at the threshold": quiet["threshold"][y, x], "zero": 0, "below zero": -1}
        quiet["ramp"][2, y, x] = values[what]
    result = run_step(step, exposure, window, quiet)["groupdq"]
    expected = expected_flags(exposure, quiet)[0]
    if what != "flagged before" or np.prod(window.shape) > 1:
        assert (expected != quiet["groupdq"])[(..., *window.slices)].any()
    np.testing.assert_array_equal(result, expected[(..., *window.slices)])


def as_observatory(exposure, a):
    """The observatory's rules in plain NumPy, from resultant 0 on, without growth and backup."""
    s, groupdq = a["ramp"], a["groupdq"].copy()
    unchecked = np.isnan(a["threshold"]) | ((a["threshold_dq"] & NO_CHECK) != 0)
    limit = np.where(unchecked, 65536, a["threshold"]).astype(np.float32)
    pattern = exposure.read_pattern
    ever = np.zeros(limit.shape, bool)
    for j in range(len(s)):
        ever |= s[j] >= limit
        groupdq[j][ever] |= SAT
        groupdq[j][s[j] <= 0] |= FLOOR | DNU
    for j in range(len(s) - 2, -1, -1):
        if not np.mean(pattern[j]):
            continue
        q = np.mean(pattern[j]) / pattern[j][-1]
        if q == 1:
            continue
        part = np.where(unchecked, 65536, limit * q)
        free = (groupdq[j] & (DNU | SAT)) == 0
        groupdq[j][(s[j] >= part) & free & ((groupdq[j + 1] & SAT) != 0)] |= DNU
    if len(s) > 2 and np.mean(pattern[0]):
        below = s[0] / np.mean(pattern[0]) * pattern[2][-1] < limit
        steep = s[1] - s[0] > (limit - s[0]) / len(pattern[1])
        onset = ((groupdq[2] & SAT) != 0) & ((groupdq[1] & SAT) == 0)
        groupdq[1][below & steep & onset] |= DNU
    return groupdq, a["pixeldq"] | a["threshold_dq"] | np.where(unchecked, NO_CHECK, 0)


@pytest.mark.parametrize("start", [0, 1])
def test_the_observatory_looks_at_the_first_resultant(start, busy, exposure, run_step, window):
    """Against the rules themselves, not stcal; where reads count from 0 there is no early test."""
    pattern = ((0,), (1,), (2, 3, 4), (5, 6, 7), (8, 9), (10, 11, 12, 13))
    pattern = tuple(tuple(read + start for read in reads) for reads in pattern)
    exposure = dataclasses.replace(exposure, read_pattern=pattern)
    rng = np.random.default_rng(11)
    where = rng.random(busy["threshold"].shape) < 0.02
    busy["ramp"][0][where] = rng.choice(np.array([65535, 0, -2], np.float32), where.sum())
    steep = rng.random(where.shape) < 0.02
    busy["ramp"][:, steep] = np.array([500, 50000, 65535, 65535, 65535, 65535])[:, None]
    groupdq, pixeldq = as_observatory(exposure, busy)
    params = SaturationParams(first=0, grow=0, backup=0)
    result = run_step(step, exposure, window, busy, params)
    cut = window.slices
    np.testing.assert_array_equal(result["groupdq"], groupdq[(..., *cut)])
    np.testing.assert_array_equal(result["pixeldq"], pixeldq[cut])
    new = groupdq[0] & ~busy["groupdq"][0]
    assert (new & SAT).any()
    assert (new & FLOOR).any()


@pytest.mark.parametrize("what", ["at the threshold", "zero", "flagged before"])
def test_a_first_resultant_alone_is_enough(what, quiet, exposure, run_step, window):
    y, x = (window.y0 + window.y1) // 2, (window.x0 + window.x1) // 2
    if what == "flagged before":
        quiet["groupdq"][0, y, x] = SAT
    else:
        values = {"at the threshold": quiet["threshold"][y, x], "zero": 0}
        quiet["ramp"][0, y, x] = values[what]
    params = SaturationParams(first=0, grow=0, backup=0)
    result = run_step(step, exposure, window, quiet, params)["groupdq"]
    expected = as_observatory(exposure, quiet)[0]
    np.testing.assert_array_equal(result, expected[(..., *window.slices)])
    if what != "flagged before":
        assert (expected != quiet["groupdq"]).any()
