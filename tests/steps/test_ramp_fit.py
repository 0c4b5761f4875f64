"""Ramp fit, jump detection and the folding of flags: against the formulas, pixel by pixel."""

from __future__ import annotations

from math import erfc, log, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.ramp_fit import fit_ramp, step
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import optimal_weights

DNU, SAT, JUMP, DROPOUT = (
    GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT")
)
REFERENCE = PIXEL["REFERENCE_PIXEL"]
EIGHT = tuple(tuple(range(a, b)) for a, b in ((0, 1), (1, 2), (2, 4), (4, 10), (10, 26), (26, 32),
                                              (32, 34), (34, 35)))  # fmt: skip
PATTERNS = {
    "eight": EIGHT,
    "six": ((0,), (1,), (2, 3), (4, 5, 6, 7, 8), (9, 10, 11, 12, 13, 14), (15, 16)),
    "late start": ((3, 4), (7,), (9, 10, 11), (20,)),
    "three": ((0,), (1, 2), (3, 4)),
}
NAMES = ("rate", "err", "var_poisson", "var_rnoise", "groupdq", "dq", "endslice", "chisq", "dumo")


@pytest.fixture(params=PATTERNS.values(), ids=PATTERNS)
def pattern(request):
    return request.param


def times(exposure):
    """N, tbar, tau of algorithms.md, float64 (tbar and tau as stored, in float32)."""
    n = np.array([len(reads) for reads in exposure.read_pattern], float)
    a = np.array([reads[0] for reads in exposure.read_pattern], float)
    tbar = (a + (n - 1) / 2) * exposure.frame_time
    tau = (a + (n - 1) * (2 * n - 1) / (6 * n)) * exposure.frame_time
    return n, tbar.astype(np.float32).astype(float), tau.astype(np.float32).astype(float)


def covariance(exposure, v, sigma2):
    """Covariance of all resultants of a ramp that gains variance `v` a second."""
    n, tbar, tau = times(exposure)
    c = v * np.minimum.outer(tbar, tbar)
    c[np.diag_indices_from(c)] = v * tau + sigma2 / n
    return c


def best_weights(exposure, params, used=None):
    """Generalised least squares by the textbook: row of (A' C^-1 A)^-1 A' C^-1."""
    used = range(exposure.start, exposure.n_resultants) if used is None else used
    u = params.slope / (params.gain * params.sigma_read**2)
    c = covariance(exposure, u, 1.0)[np.ix_(used, used)]
    t = times(exposure)[1][used]
    a = np.stack([np.ones_like(t), t], axis=1)
    k = np.zeros(exposure.n_resultants)
    k[used] = np.linalg.solve(a.T @ np.linalg.solve(c, a), a.T @ np.linalg.inv(c))[1]
    return k


def weights(exposure, params, groupdq):
    """Weights of a pixel with these flags, the resultants whose differences are tested, and whether
    too few are left because some were excluded."""
    r, e = exposure.n_resultants, first_saturated(groupdq)
    before = list(range(exposure.start, e))
    used = [j for j in before if not (params.exclude and groupdq[j] & (DNU | DROPOUT))]
    excluded = used != before
    least = params.truncated_min if e < r else 2
    if len(used) < least:  # the full slope stays; nothing is tested
        return best_weights(exposure, params), [], excluded
    if e == r:
        return best_weights(exposure, params, used), used, False
    t = times(exposure)[1]
    k = np.zeros(r)
    first, last = used[0], used[-1]
    k[last], k[first] = 1 / (t[last] - t[first]), -1 / (t[last] - t[first])
    return k, used, False


def first_saturated(groupdq):
    hit = [j for j, flags in enumerate(groupdq) if flags & SAT]
    return hit[0] if hit else len(groupdq)


def pixel(s, groupdq, pixeldq, gain, sigma, dark, active, exposure, params):
    """Everything that `fit_ramp` says of one pixel, and how near its jump tests were to deciding
    otherwise."""
    start, r = exposure.start, exposure.n_resultants
    n_reads, t, _ = times(exposure)
    k, used, lacking = weights(exposure, params, groupdq)
    rate = sum(k[j] * (s[j] - s[start]) for j in range(start, r) if k[j] != 0)
    v = max((rate + dark) / min(max(gain, 1e-4), 1e4), 0)
    var_poisson = k @ covariance(exposure, v, 0) @ k
    var_rnoise = sigma**2 * sum(k**2 / n_reads)

    flags, margin = list(map(int, groupdq)), np.inf
    clipped = min(max(rate + dark, params.rate_a), params.rate_b)
    share = log(clipped / params.rate_a) / log(params.rate_b / params.rate_a)
    threshold = params.threshold_a + (params.threshold_b - params.threshold_a) * share
    for at, i in enumerate(
        used[:-1] if len(used) > 2 else []
    ):  # of two the difference is the slope
        for d in (1, 2):
            if at + d >= len(used) or (d == 2 and len(used) == 3):
                continue
            j = used[at + d]
            w = -k.copy()
            w[j] += 1 / (t[j] - t[i])
            w[i] -= 1 / (t[j] - t[i])
            difference = (s[j] - s[i]) / (t[j] - t[i]) - rate
            ratio = difference / sqrt(w @ covariance(exposure, v, sigma**2) @ w)
            margin = min(margin, abs(ratio - threshold))
            if ratio > threshold and active:
                flags[i] |= JUMP

    dq = int(pixeldq)
    if not dq & REFERENCE:
        for f in flags:
            if not f & SAT:
                dq |= f & ~DNU
        if all(f & DNU for f in flags) or (start + 1 < r and flags[start + 1] & SAT):
            dq |= DNU
        if lacking:
            dq |= DNU
        if any(f & SAT for f in flags):
            dq |= SAT
    ends = [j for j in range(r - 1) if flags[j + 1] & SAT and not flags[j] & SAT]
    errors = (sqrt(var_rnoise + var_poisson), var_poisson, var_rnoise)
    return (rate, *errors, flags, dq, ends[-1] if ends else -1), margin


def random_case(exposure, window, seed=0, sky=3.0):
    """Ramps, faint and bright, with jumps up and down; saturation from each resultant on, and
    flags that come and go."""
    rng = np.random.default_rng(seed)
    shape, r, t = window.shape, exposure.n_resultants, times(exposure)[1]
    rate = sky * 10 ** rng.uniform(-2, 3, shape)
    rate[rng.random(shape) < 0.1] = -5
    sigma = rng.uniform(5, 8, shape)
    ramp = rate * t[:, None, None] + rng.normal(0, 1, (r, *shape)) * sigma
    at = rng.integers(1, r, shape)
    jump = np.where(rng.random(shape) < 0.4, rng.normal(0, 300, shape), 0)
    ramp += np.where(np.arange(r)[:, None, None] >= at, jump, 0)
    groupdq = rng.choice(np.array([0, 0, 0, 0, 8, 64], np.uint8), (r, *shape))
    groupdq[0] |= np.uint8(DNU * exposure.exclude_first)
    groupdq[:, rng.random(shape) < 0.05] |= DNU
    e = rng.integers(0, r + 3, shape)
    full = np.arange(r)[:, None, None] >= e
    groupdq[full] |= SAT
    ramp[full & (rng.random(full.shape) < 0.5)] = 60000
    groupdq[rng.random(groupdq.shape) < 0.02] |= SAT  # here and gone again
    return {
        "ramp": ramp.astype(np.float32),
        "groupdq": groupdq,
        "pixeldq": rng.choice(np.array([0, 0, 0, 1, 2, 4, 1 << 10, REFERENCE], np.uint32), shape),
        "gain": rng.choice([1.8, 0.5, 1e-6, -1.0, 1e6], shape, p=[0.8, 0.08, 0.04, 0.04, 0.04]),
        "read_noise": sigma.astype(np.float32),
        "dark_slope": rng.choice([0, 0.01, 10], shape).astype(np.float32),
        "ipc": np.stack([rng.choice([0, 0.01, 0.93, 0.95], (3, *shape))] * 3).astype(np.float32),
    }


def fit(case, window, exposure, params=None):
    params = params or RampFitParams()
    tile = Tile(window, exposure.side)
    results = fit_ramp(**case, tile=tile, exposure=exposure, params=params)
    return dict(zip(NAMES, results, strict=True))


def test_names():
    assert step.writes == NAMES


@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize(
    ("truncated_min", "more_noise", "leave_out"),
    [(2, True, True), (3, False, False), (3, True, True), (2, False, False)],
)
def test_every_pixel(exclude, truncated_min, more_noise, leave_out, pattern):
    """On a window that straddles the border: reference pixels are fitted but not searched."""
    if len(pattern) == 3 and not exclude:
        pattern = pattern[1:]  # two used resultants: the least there can be
    exposure = Exposure(256, pattern, 3.0, exclude_first=exclude)
    params = RampFitParams(truncated_min=truncated_min, quality=False, exclude=leave_out)
    window = Window(0, 27, 229, 256)
    case = random_case(exposure, window)
    dark, share = case["dark_slope"], case["ipc"][1, 1]
    if not more_noise:
        dark, share = 0 * case.pop("dark_slope"), 0 * case.pop("ipc")[1, 1]
    result = fit(case, window, exposure, params)
    unsure, jumps = 0, 0
    for y, x in np.ndindex(window.shape):
        y_full, x_full = y + window.y0, x + window.x0
        active = 4 <= y_full < 252 and 4 <= x_full < 252
        values = [case[n][..., y, x] for n in ("ramp", "groupdq", "pixeldq", "gain", "read_noise")]
        values = [values[0].astype(float), *values[1:], dark[y, x]]
        if active and share[y, x] > 0.1:
            values[4] = values[4] / share[y, x]  # what the IPC correction does to it
        expected, margin = pixel(*values, active, exposure, params)
        found = [result[name][..., y, x] for name in NAMES[:7]]
        np.testing.assert_allclose(found[0], expected[0], rtol=2e-5, atol=1e-4)
        np.testing.assert_allclose(found[1:4], expected[1:4], rtol=3e-4, atol=1e-6)
        if margin < 1e-3:  # float32 may decide otherwise
            unsure += 1
            continue
        assert found[4].tolist() == expected[4]
        assert found[5] == expected[5]
        assert found[6] == expected[6]
        jumps += sum(f & JUMP > 0 for f in expected[4])
    assert unsure < 5
    assert (jumps > 10) == (len(pattern) - exclude > 2)


@pytest.mark.parametrize("half", [False, True])
def test_error_and_precision(half, exposure):
    window = Window(50, 81, 60, 99)
    case = random_case(exposure, window)
    result = fit(case, window, exposure, RampFitParams(half_precision_errors=half))
    assert all(result[n].dtype == np.float32 for n in NAMES[:4] + NAMES[7:])
    exact = fit(case, window, exposure)
    if not half:
        sums = result["var_rnoise"] + result["var_poisson"]
        np.testing.assert_allclose(result["err"] ** 2, sums, rtol=1e-6)
        return
    for name in ("err", "var_poisson"):
        expected = np.clip(exact[name], None, 65504).astype(np.float16)
        np.testing.assert_array_equal(result[name], expected.astype(np.float32))
    left = result["err"] ** 2 - result["var_poisson"]
    np.testing.assert_allclose(result["var_rnoise"], np.clip(left, 0, None), rtol=1e-6)


def test_a_fit_of_two_resultants_has_no_jumps():
    """Their one difference is the slope: what rounding leaves of it must not look like a jump."""
    exposure, window = Exposure(256, EIGHT, 3.16247), Window(50, 90, 50, 90)
    case = random_case(exposure, window, sky=100.0)
    case["groupdq"][:], case["groupdq"][3:] = 0, SAT
    assert not (fit(case, window, exposure)["groupdq"] & JUMP).any()


# -- the weights ---------------------------------------------------------------------------------


@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), min_size=3, max_size=9),
    st.floats(1e-8, 10),
    st.booleans(),
)
def test_weights_are_unbiased(first, pieces, u, exclude):
    """They sum to 0, and to 1 with the times: any straight ramp gives its slope."""
    pattern, frame = [], first
    for length, gap in pieces:
        pattern.append(tuple(range(frame, frame + length)))
        frame += length + gap
    exposure = Exposure(256, tuple(pattern), 3.04, exclude_first=exclude)
    k = optimal_weights(exposure, u)
    assert k.dtype == np.float32
    assert k[: exposure.start].tolist() == [0] * exposure.start
    size = np.abs(k).sum()
    assert abs(k.sum(dtype=float)) < 1e-5 * size
    t = times(exposure)[1]
    assert k.astype(float) @ t == pytest.approx(1, abs=1e-5 * size * t.max())


def test_weights_are_those_of_least_squares(pattern):
    exposure = Exposure(256, pattern, 3.04)
    params = RampFitParams(slope=2.0, gain=1.5, sigma_read=9.0)
    expected = best_weights(exposure, params)
    found = optimal_weights(exposure, 2.0 / (1.5 * 9.0**2))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-9)
    if len(pattern) > 3:
        # without Poisson noise: ordinary weighted least squares; with nothing else: the end points
        t, n = times(exposure)[1][1:], times(exposure)[0][1:]
        plain = np.polynomial.polynomial.polyfit(t, np.eye(len(t)), 1, w=np.sqrt(n))[1]
        np.testing.assert_allclose(optimal_weights(exposure, 1e-12)[1:], plain, rtol=1e-5)


@given(st.floats(-5, 5), st.floats(-1e3, 1e3), st.integers(0, 99))
def test_linear_in_the_ramp(factor, offset, seed):
    exposure, window = Exposure(256, EIGHT, 3.04), Window(90, 96, 100, 107)
    case = random_case(exposure, window)
    case["groupdq"][:] = 0
    other = random_case(exposure, window, seed)["ramp"]
    one = fit(case, window, exposure)["rate"]
    two = fit(case | {"ramp": other}, window, exposure)["rate"]
    mixed = (factor * case["ramp"] + other + offset).astype(np.float32)
    rate = fit(case | {"ramp": mixed}, window, exposure)["rate"]
    np.testing.assert_allclose(rate, factor * one + two, rtol=1e-4, atol=1e-2)


@given(st.integers(0, 8), st.floats(-10, 1e3), st.floats(-1e3, 6e3), st.booleans())
def test_straight_ramps_give_their_slope(e, slope, offset, exclude):
    """Whenever they saturate, if two used resultants come before, whatever comes after."""
    exposure, window = Exposure(256, EIGHT, 3.04, exclude_first=exclude), Window(90, 91, 100, 101)
    case = random_case(exposure, window)
    case["ramp"][:, 0, 0] = offset + slope * times(exposure)[1]
    case["groupdq"][:], case["gain"][:] = 0, 1.8
    case["groupdq"][e:] = SAT
    if e - exposure.start >= 2:
        case["ramp"][e:] = np.nan
    rate = fit(case, window, exposure)["rate"][0, 0]
    assert rate == pytest.approx(slope, rel=1e-5, abs=2e-3)


# -- statistics ----------------------------------------------------------------------------------


def gaussian_ramps(exposure, rate, gain, sigma, shape=(220, 200), seed=3):
    """Straight ramps with Gaussian noise of the covariance that read and photon noise have."""
    rng = np.random.default_rng(seed)
    factor = np.linalg.cholesky(covariance(exposure, rate / gain, sigma**2))
    r = exposure.n_resultants
    noise = factor @ rng.standard_normal((r, shape[0] * shape[1]))
    ramp = rate * times(exposure)[1][:, None, None] + noise.reshape(r, *shape)
    return {
        "ramp": ramp.astype(np.float32),
        "groupdq": np.zeros((r, *shape), np.uint8),
        "pixeldq": np.zeros(shape, np.uint32),
        "gain": np.full(shape, gain),
        "read_noise": np.full(shape, sigma, np.float32),
    }


def test_slope_errors_and_chisq_of_noisy_ramps():
    exposure, window = Exposure(256, EIGHT, 3.04), Window(10, 230, 20, 220)
    case = gaussian_ramps(exposure, rate=5.0, gain=1.8, sigma=6.5)
    result = fit(case, window, exposure, RampFitParams(slope=5.0, gain=1.8, sigma_read=6.5))
    pull = (result["rate"] - 5.0) / result["err"]
    n = pull.size
    assert abs(pull.mean()) < 5 / sqrt(n)
    assert pull.std() == pytest.approx(1, abs=0.02)
    dof = 7 - 2
    assert result["chisq"].mean() == pytest.approx(1, abs=5 * sqrt(2 / dof / n))
    assert result["chisq"].var() == pytest.approx(2 / dof, rel=0.1)
    assert abs(result["dumo"].mean()) < 5 * result["dumo"].std() / sqrt(n)


@pytest.mark.parametrize("threshold", [2.0, 3.0])
def test_false_alarms(threshold):
    """Three used resultants: two differences, each by itself Gaussian, tested once."""
    exposure = Exposure(256, ((0,), (1, 2), (4, 5, 6), (9, 10)), 3.04)
    window = Window(5, 225, 5, 205)
    # bright, so that the Poisson variance taken from the rate is that of the truth
    case = gaussian_ramps(exposure, rate=2000.0, gain=1.8, sigma=6.5)
    params = RampFitParams(threshold_a=threshold, threshold_b=threshold)
    flags = fit(case, window, exposure, params)["groupdq"] & JUMP > 0
    n = flags[0].size
    expected = n * 0.5 * erfc(threshold / sqrt(2))
    assert not flags[[0, 3]].any()
    for count in flags[1:3].sum(axis=(1, 2)):
        assert abs(count - expected) < 5 * sqrt(expected) + 0.03 * expected


def test_false_alarms_and_jumps_of_a_long_ramp():
    exposure, window = Exposure(256, EIGHT, 3.04), Window(5, 225, 5, 205)
    case = gaussian_ramps(exposure, rate=20.0, gain=1.8, sigma=6.5)
    params = RampFitParams(threshold_a=3.0, threshold_b=3.0)
    flags = fit(case, window, exposure, params)["groupdq"] & JUMP > 0
    each = flags[0].size * 0.5 * erfc(3 / sqrt(2))
    assert not flags[[0, 7]].any()
    for i, count in enumerate(flags[1:7].sum(axis=(1, 2)), 1):
        tests = 1 if i == 6 else 2
        assert 0.7 * each < count < 1.25 * tests * each
    # and a jump is found where it is, in every pixel
    case["ramp"][4:] += 400
    flags = fit(case, window, exposure)["groupdq"] & JUMP > 0
    assert flags[3].all()


# -- quality -------------------------------------------------------------------------------------


@pytest.mark.parametrize("e", [8, 7, 4, 3, 2, 0])
@pytest.mark.parametrize("truncated_min", [2, 3])
def test_chisq_and_dumo(e, truncated_min):
    """Residuals against the slope used and the best intercept, by the covariance assumed."""
    exposure, window = Exposure(256, EIGHT, 3.04), Window(90, 101, 100, 111)
    params = RampFitParams(truncated_min=truncated_min)
    case = random_case(exposure, window)
    case["groupdq"][:] = 0
    case["groupdq"][e:] = SAT
    del case["ipc"]
    result = fit(case, window, exposure, params)
    start = exposure.start
    n = e - start if e - start >= truncated_min else 8 - start
    s = case["ramp"].astype(float)[start : start + n].reshape(n, -1)
    t = times(exposure)[1][start : start + n]
    uniform = np.polynomial.polynomial.polyfit(t, s, 1)[1]
    rate = result["rate"].ravel().astype(float)
    np.testing.assert_allclose(result["dumo"].ravel(), uniform - rate, rtol=1e-3, atol=2e-3)
    if n < 3:
        assert not result["chisq"].any()
        return
    u = params.slope / (params.gain * params.sigma_read**2)
    w = np.linalg.inv(covariance(exposure, u, 1.0)[start : start + n, start : start + n])
    residual = s - t[:, None] * rate
    residual -= (w.sum(axis=0) @ residual) / w.sum()
    chisq = np.einsum("ip,ij,jp->p", residual, w, residual) / (n - 2)
    expected = chisq / case["read_noise"].ravel() ** 2
    np.testing.assert_allclose(result["chisq"].ravel(), expected, rtol=2e-3, atol=1e-3)


def test_quality_can_be_left_out(exposure):
    window = Window(90, 101, 100, 111)
    result = fit(random_case(exposure, window), window, exposure, RampFitParams(quality=False))
    assert not result["chisq"].any()
    assert not result["dumo"].any()


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_read_noise(bad, exposure):
    """The nominal value stands in; the pixel is flagged."""
    window = Window(50, 81, 60, 99)
    case = random_case(exposure, window)
    before = fit(case, window, exposure)
    case["read_noise"][3, 4] = bad
    after = fit(case, window, exposure)
    assert after["dq"][3, 4] & PIXEL["UNRELIABLE_ERROR"]
    here = np.zeros(window.shape, bool)
    here[3, 4] = True
    for name in NAMES:
        assert np.isfinite(after[name]).all()
        np.testing.assert_array_equal(after[name][..., ~here], before[name][..., ~here])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("name", ["gain", "dark_slope", "ipc"])
def test_other_bad_reference_values(bad, name, exposure):
    """Flagged by other steps; here it must not spread or make anything not finite."""
    window = Window(50, 81, 60, 99)
    case = random_case(exposure, window)
    before = fit(case, window, exposure)
    case[name][..., 3, 4] = bad
    after = fit(case, window, exposure)
    here = np.zeros(window.shape, bool)
    here[3, 4] = True
    for result in NAMES:
        assert np.isfinite(after[result]).all()
        np.testing.assert_array_equal(after[result][..., ~here], before[result][..., ~here])


def test_reference_pixels_keep_their_flags(exposure):
    window = Window(50, 81, 60, 99)
    case = random_case(exposure, window)
    case["pixeldq"] |= np.uint32(REFERENCE)
    np.testing.assert_array_equal(fit(case, window, exposure)["dq"], case["pixeldq"])


def test_same_bits_in_any_window(run_step, window):
    exposure = Exposure(256, EIGHT, 3.04)
    case = random_case(exposure, Window(0, 256, 0, 256))
    whole = run_step(step, exposure, Window(0, 256, 0, 256), case)
    part = run_step(step, exposure, window, case)
    for name in NAMES:
        np.testing.assert_array_equal(part[name], whole[name][(..., *window.slices)], strict=True)


def test_references_are_read_where_their_noise_counts():
    assert set(step.references_for(RampFitParams())) == {"gain", "read_noise", "read_dq"}
    noisy = step.references_for(RampFitParams(dark_noise=True, ipc_noise=True))
    assert noisy["dark_slope"] == "dark.dark_slope"
    assert noisy["ipc"] == "ipc4d.data"
