"""Fits without the resultants that must not be used: errors, quality, and what may stand there."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from roman_dask_l2.core.bits import pack, unpack
from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.interpolation import interpolate_excluded
from roman_dask_l2.steps.ramp_fit import fit_ramp, step
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_subsets import EXCLUDING, subset_weights

DNU, SAT, JUMP, DROPOUT = (
    GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT")
)
FLAGS = {"DO_NOT_USE": DNU, "DROPOUT": DROPOUT}
RUBBISH = [np.nan, np.inf, -1e30, 65535.0, 0.0]
EIGHT = tuple(tuple(range(a, b)) for a, b in ((0, 1), (1, 2), (2, 4), (4, 10), (10, 26), (26, 32),
                                              (32, 34), (34, 35)))  # fmt: skip
EXPOSURE, WINDOW = Exposure(256, EIGHT, 3.04), Window(10, 230, 20, 220)
ODD = Window(33, 44, 57, 70)


def covariance(exposure, v, sigma2):
    """Covariance of all resultants of a ramp that gains variance `v` a second."""
    c = v * np.minimum.outer(exposure.tbar, exposure.tbar)
    c[np.diag_indices_from(c)] = v * exposure.tau + sigma2 / exposure.n_reads
    return c


def weights(exposure, params, flags):
    """K of a pixel with these flags, the resultants in use, and whether they are too few."""
    r = exposure.n_resultants
    e = next((j for j, f in enumerate(flags) if f & SAT), r)
    used = [j for j in range(exposure.start, e) if not flags[j] & (DNU | DROPOUT)]
    lacking = len(used) < 2
    fit = list(range(exposure.start, r)) if lacking else used
    t, k = exposure.tbar[fit], np.zeros(r)
    if e < r and not lacking:
        k[fit[-1]], k[fit[0]] = 1 / (t[-1] - t[0]), -1 / (t[-1] - t[0])
        return k, used, False
    u = params.slope / (params.gain * params.sigma_read**2)
    w = np.linalg.inv(covariance(exposure, u, 1.0)[np.ix_(fit, fit)])
    a = np.stack([np.ones_like(t), t], axis=1)
    k[fit] = np.linalg.solve(a.T @ w @ a, a.T @ w)[1]
    return k, used, lacking


def gaussian_ramps(rate, gain, sigma, shape, seed=3):
    """Straight ramps with Gaussian noise of the covariance that read and photon noise have."""
    rng = np.random.default_rng(seed)
    factor = np.linalg.cholesky(covariance(EXPOSURE, rate / gain, sigma**2))
    noise = factor @ rng.standard_normal((8, shape[0] * shape[1]))
    ramp = rate * EXPOSURE.tbar[:, None, None] + noise.reshape(8, *shape)
    return {
        "ramp": ramp.astype(np.float32),
        "groupdq": np.zeros((8, *shape), np.uint8),
        "pixeldq": np.zeros(shape, np.uint32),
        "gain": np.full(shape, gain),
        "read_noise": np.full(shape, sigma, np.float32),
    }


def fitted(case, window, params=None):
    tile = Tile(window, EXPOSURE.side)
    results = fit_ramp(**case, tile=tile, exposure=EXPOSURE, params=params or RampFitParams())
    return dict(zip(step.writes, results, strict=True))


def patterns(shape, seed=5):
    """Random sets of excluded resultants, from none to all, and random ends."""
    rng = np.random.default_rng(seed)
    out = rng.random((8, *shape)) < rng.choice([0.0, 0.15, 0.5, 0.9], shape)
    ends = np.where(rng.random(shape) < 0.4, rng.integers(0, 9, shape), 8)
    return out, ends


def flagged_case(window, rate=5.0, seed=3, flag=DNU):
    case = gaussian_ramps(rate, 1.8, 6.5, window.shape, seed)
    out, ends = patterns(window.shape, seed)
    case["groupdq"][out] = flag
    case["groupdq"][0] |= DNU
    case["groupdq"][np.arange(8)[:, None, None] >= ends] |= SAT
    return case, out, ends


@pytest.mark.parametrize("flag", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("rubbish", RUBBISH)
def test_what_is_excluded_may_hold_anything(flag, rubbish):
    case, out, ends = flagged_case(WINDOW, flag=flag)
    clean = fitted(case, WINDOW)
    before = np.arange(8)[:, None, None] < ends
    ramp = case["ramp"].copy()
    ramp[out & before & (np.arange(8) > 0)[:, None, None]] = rubbish
    spoilt = fitted(case | {"ramp": ramp}, WINDOW)
    bad = clean["dq"] & PIXEL["DO_NOT_USE"] != 0
    used = ((~out[1:]) & before[1:]).sum(axis=0)
    no_slope = (used < 2) & ((out[1:] & before[1:]).any(axis=0) | (ends <= 2))
    np.testing.assert_array_equal(bad, no_slope)
    for name, values in clean.items():
        np.testing.assert_array_equal(spoilt[name][..., ~bad], values[..., ~bad], err_msg=name)
    np.testing.assert_array_equal(spoilt["dq"], clean["dq"])


def test_quality_is_that_of_least_squares():
    params = RampFitParams(slope=3.0)
    case, _, _ = flagged_case(ODD)
    case["read_noise"] *= np.random.default_rng(1).uniform(0.8, 1.2, ODD.shape).astype(np.float32)
    result = fitted(case, ODD, params)
    t = EXPOSURE.tbar
    c = covariance(EXPOSURE, params.slope / (params.gain * params.sigma_read**2), 1.0)
    looked = 0
    for y, x in np.ndindex(ODD.shape):
        flags, s = case["groupdq"][:, y, x], case["ramp"][:, y, x].astype(float)
        k, used, lacking = weights(EXPOSURE, params, flags)
        if lacking or not used:
            continue
        rate = k[used] @ s[used]
        even = np.polyfit(t[used], s[used], 1)[0]
        np.testing.assert_allclose(result["dumo"][y, x], even - rate, atol=3e-4)
        w = np.linalg.inv(c[np.ix_(used, used)])
        rest = s[used] - rate * t[used]
        rest -= w.sum(axis=0) @ rest / w.sum()
        chi = rest @ w @ rest / case["read_noise"][y, x] ** 2
        expected = chi / (len(used) - 2) if len(used) > 2 else 0
        np.testing.assert_allclose(result["chisq"][y, x], expected, rtol=2e-3, atol=1e-4)
        looked += 1
    assert looked > 80


@pytest.mark.parametrize("ends", [8, 6])
@pytest.mark.parametrize("left_out", [(1,), (4,), (7,), (1, 2, 5), (2, 4, 5)], ids=str)
def test_errors_are_those_of_noisy_ramps(left_out, ends):
    """Pulls have mean 0 and variance 1, chi-square of optimal fits has mean 1."""
    case = gaussian_ramps(5.0, 1.8, 6.5, WINDOW.shape)
    case["groupdq"][list(left_out)] = DNU
    case["groupdq"][ends:] = SAT
    case["ramp"][list(left_out)] += 3000
    params = RampFitParams(slope=5.0, gain=1.8, sigma_read=6.5)
    result = fitted(case, WINDOW, params)
    used = [j for j in range(1, ends) if j not in left_out]
    assert not (result["dq"] & PIXEL["DO_NOT_USE"]).any()
    pull = (result["rate"] - 5.0) / result["err"]
    assert abs(pull.mean()) < 5 / sqrt(pull.size)
    assert pull.std() == pytest.approx(1, abs=0.02)
    if ends == 8:
        chi = result["chisq"]
        spread = 5 * sqrt(2 / (len(used) - 2) / pull.size)
        assert chi.mean() == pytest.approx(1, abs=spread)
    false = np.count_nonzero(result["groupdq"] & JUMP)
    assert false < 1e-5 * pull.size * 8


def test_a_jump_over_an_excluded_resultant_is_found():
    case = gaussian_ramps(1.0, 1.8, 6.5, ODD.shape)
    case["groupdq"][4] = DNU
    case["ramp"][4] = 30000  # alone, two jumps
    case["ramp"][5:] += 400
    flags = fitted(case, ODD)["groupdq"]
    assert (flags[3] & JUMP).all()
    assert not (flags[4:] & JUMP).any()


def test_other_pixels_keep_their_bits():
    case, out, ends = flagged_case(WINDOW)
    with_flags = fitted(case, WINDOW)
    untouched = ~(out[1:] & (np.arange(1, 8)[:, None, None] < ends)).any(axis=0)
    assert 0.2 < untouched.mean() < 0.8
    as_package = fitted(case, WINDOW, RampFitParams(exclude=False))
    for name, values in as_package.items():
        np.testing.assert_array_equal(with_flags[name][..., untouched], values[..., untouched])
    assert not np.array_equal(with_flags["rate"], as_package["rate"])


def test_reference_pixels_get_no_flag():
    case = gaussian_ramps(1.0, 1.8, 6.5, ODD.shape)
    case["groupdq"][1:7] = DNU
    case["pixeldq"][::2] = PIXEL["REFERENCE_PIXEL"]
    dq = fitted(case, ODD)["dq"]
    assert (dq[::2] == PIXEL["REFERENCE_PIXEL"]).all()
    assert (dq[1::2] == PIXEL["DO_NOT_USE"]).all()


def test_weights_of_any_subset():
    """Also of as many resultants as the first byte of the bits does not hold."""
    rng = np.random.default_rng(8)
    frames = np.cumsum(rng.integers(1, 4, 21))
    pattern = tuple(tuple(range(a, b)) for a, b in zip(frames, frames[1:], strict=False))
    exposure, params = Exposure(256, pattern, 3.0), RampFitParams()
    used = rng.random((60, 20)) < 0.6
    ends = rng.integers(2, 24, 60).clip(max=20)
    bits = pack(np.where(used, 0, DNU).astype(np.uint8).T[:, :, None], DNU)[..., 0]
    assert bits.shape == (3, 60)
    np.testing.assert_array_equal(unpack(bits, 20).T, ~used)
    full = weights(exposure, params, np.zeros(20, int))[0]
    u = params.slope / (params.gain * params.sigma_read**2)
    found = subset_weights(used, ends, full, u=u, truncated_min=2, exposure=exposure)
    for row in range(60):
        flags = np.where(used[row], 0, DNU) | np.where(np.arange(20) >= ends[row], SAT, 0)
        expected = weights(exposure, params, flags)[0]
        np.testing.assert_allclose(found[row], expected, rtol=1e-9, atol=1e-12)


# -- what stands in the place of excluded resultants ----------------------------------------------


def test_interpolation_on_straight_lines():
    case, out, _ = flagged_case(ODD)
    t = EXPOSURE.tbar
    straight = (100 + np.arange(13) * t[:, None, None] * np.ones((8, *ODD.shape))).astype("f4")
    flags = np.where(out, DNU, 0).astype(np.uint8)
    flags[0] = 0
    ramp = np.where(flags & EXCLUDING, 65535, straight).astype(np.float32)
    good = 8 - 1 - out[1:].sum(axis=0)
    active = (slice(2, 11), slice(0, 11))
    inside = np.zeros(ODD.shape, bool)
    inside[active] = True
    expected = np.where(inside & (good >= 2), straight, ramp)
    one = inside & (good == 1)
    value = np.where(out[1:], 0, straight[1:]).sum(axis=0)
    expected = np.where(one & out, value, expected)
    expected[0] = ramp[0]
    assert one.any()
    interpolate_excluded(ramp, flags, EXPOSURE, active)
    np.testing.assert_allclose(ramp, expected, rtol=1e-5)
