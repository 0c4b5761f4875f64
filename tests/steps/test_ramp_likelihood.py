"""The likelihood fit against dense linear algebra, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.likelihood_params import LikelihoodParams
from roman_dask_l2.steps.likelihood_pixel import difference_weights
from roman_dask_l2.steps.likelihood_tables import difference_tables, sorting_network
from roman_dask_l2.steps.ramp_likelihood import fit_likelihood, step

PATTERNS = {
    "eight": ((0,), (1,), (2, 3), (4, 5, 6, 7), tuple(range(8, 16)), tuple(range(16, 24)),
              tuple(range(26, 32)), (33,)),
    "four": ((1,), (2, 3), (5, 6, 7), (8,)),
    "even": tuple((2 * i, 2 * i + 1) for i in range(9)),
}  # fmt: skip
FRAME_TIME = 3.04
SHAPE = (2, 270)  # a segment of each row and a piece of the next
PARAMS = {
    "ours": LikelihoodParams(),
    "observatory": LikelihoodParams(only_rises=False, start_rate="all", chisq="sum", dumo="all",
                                    other_flags=False, flag_nan=False, flag_ambiguous=False,
                                    check_gain=False, clip_errors=False),
    "other": LikelihoodParams(rejection_threshold=6, most_dropped=2, flag_resultant="before",
                              read_noise_of="difference"),
}  # fmt: skip


def covariance(pattern, rate, gain, sigma):
    """Of the scaled differences, from every pair of reads: they share the earlier one's light."""
    reads = [np.array(frames) * FRAME_TIME for frames in pattern]
    n = len(reads)
    c = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            c[i, j] = rate / gain * np.minimum.outer(reads[i], reads[j]).mean()
        c[i, i] += sigma**2 / len(reads[i])
    delta = np.diff([r.mean() for r in reads])
    to_differences = (np.eye(n, k=1) - np.eye(n))[:-1] / delta[:, np.newaxis]
    return to_differences @ c @ to_differences.T, delta


def least_squares(v, d, used):
    """Rate, chi-square, and weights of the differences."""
    inverse = np.zeros_like(v)
    inverse[np.ix_(used, used)] = np.linalg.inv(v[np.ix_(used, used)])
    weights = inverse.sum(axis=0) / inverse.sum()
    rate = weights[used] @ d[used]
    rest = np.where(used, d - rate, 0)
    return rate, rest @ inverse @ rest, weights


def steps(v, d, used, group):
    """Sizes of steps at the differences of `group`, fitted together with the rate."""
    design = np.column_stack([np.ones(len(d)), np.eye(len(d))[:, group]])[used]
    inverse = np.linalg.inv(v[np.ix_(used, used)])
    return np.linalg.solve(design.T @ inverse @ design, design.T @ inverse @ d[used])[1:]


def expected(ramp, flags, pattern, gain, sigma, params):
    """One pixel: used differences before and after the search, and what the fit gives; None where
    nothing can be fitted. ``tied`` if rounding decides what is dropped."""
    if params.read_noise_of == "difference":
        sigma = sigma / np.sqrt(2)
    read_v, delta = covariance(pattern, 0, gain, sigma)
    d = np.diff(ramp).astype(float) / delta
    good = flags == 0
    used = good[1:] & good[:-1]
    before, tied = used.copy(), False
    if not used.any():
        return before, used, None, tied
    start = np.median(d if params.start_rate == "all" else d[used])
    v, _ = covariance(pattern, max(start, 0), gain, sigma)
    one = params.rejection_threshold**2
    two = chi2.isf(chi2.sf(one, 1), 2)
    dropped = 0
    for turn in range(len(d)):
        rate, chi, _ = least_squares(v, d, used)
        if used.sum() < 2 or (turn and used.sum() <= 3):
            break
        found = []
        for i in np.flatnonzero(used):
            groups = [[i]]
            if used.sum() > 2 and i + 1 < len(d) and used[i + 1] and len(pattern[i + 1]) > 1:
                groups.append([i, i + 1])
            for group in groups:
                rest = used.copy()
                rest[group] = False
                if params.only_rises and used.sum() > 2 and (steps(v, d, used, group) < 0).any():
                    continue
                found.append(
                    (chi - least_squares(v, d, rest)[1] - (one, two)[len(group) - 1], group)
                )
        if params.most_dropped is not None:
            found = [entry for entry in found if dropped + len(entry[1]) <= params.most_dropped]
        if not found:
            break
        found.sort(key=lambda entry: -entry[0])
        best, group = found[0]
        near = [g for value, g in found if abs(value - best) < 1e-6 * max(chi, 1)]
        tied |= len(near) > 1 or abs(best) < 1e-6
        if best <= 0:
            break
        used[group] = False
        dropped += len(group)
    rate, _, _ = least_squares(v, d, used)
    v, _ = covariance(pattern, max(rate, 0), gain, sigma)
    rate, chi, weights = least_squares(v, d, used)
    uniform_over = np.ones_like(used) if params.dumo == "all" else used
    uniform, _, _ = least_squares(read_v, d, uniform_over)
    freedom = max(used.sum() - 1, 1) if params.chisq == "reduced" else 1
    fit = {
        "rate": rate,
        "err": np.sqrt(weights @ v @ weights),
        "var_poisson": weights @ (v - read_v) @ weights,
        "chisq": chi / freedom,
        "dumo": uniform - rate,
        "weights": weights,
    }
    return before, used, fit, tied


def simulate(pattern, shape, seed=1):
    """Ramps with light from 0.1 to 1000 DN/s, jumps and all kinds of flags."""
    rng = np.random.default_rng(seed)
    rate = 10 ** rng.uniform(-1, 3, shape)
    gain = rng.uniform(1, 2, shape).astype(np.float32)
    sigma = rng.uniform(5, 9, shape).astype(np.float32)
    n_frames = pattern[-1][-1] + 1
    light = rng.poisson(rate * gain * FRAME_TIME, (n_frames, *shape)) / gain
    hit = rng.random(light.shape) < 0.01
    light[hit] += 10 ** rng.uniform(1, 4, hit.sum())
    reads = light.cumsum(axis=0) + rng.normal(0, 1, light.shape) * sigma
    ramp = np.array([reads[list(frames)].mean(axis=0) for frames in pattern], np.float32)
    groupdq = np.zeros(ramp.shape, np.uint8)
    groupdq[rng.random(ramp.shape) < 0.01] |= GROUP["DO_NOT_USE"]
    full = np.where(rng.random(shape) < 0.1, rng.integers(0, len(pattern), shape), len(pattern))
    groupdq[np.arange(len(pattern))[:, np.newaxis, np.newaxis] >= full] |= GROUP["SATURATED"]
    return ramp, groupdq, gain, sigma


def fit(ramp, groupdq, gain, sigma, pattern, params, exclude_first=True, corner=(4, 4)):
    y, x = corner
    window = Window(y, y + ramp.shape[1], x, x + ramp.shape[2])
    exposure = Exposure(4096, pattern, FRAME_TIME, exclude_first=exclude_first)
    results = fit_likelihood(
        ramp,
        groupdq,
        np.zeros(ramp.shape[1:], np.uint32),
        gain,
        sigma,
        tile=Tile(window, 4096),
        exposure=exposure,
        params=params,
    )
    return dict(zip(step.writes, results, strict=True))


@pytest.mark.parametrize("exclude_first", [True, False])
@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_formulas(pattern, params, exclude_first):
    """Rates, errors, chi-square, dropped differences and flags are those of dense matrices."""
    ramp, groupdq, gain, sigma = simulate(pattern, SHAPE)
    if exclude_first:
        groupdq[0] |= GROUP["DO_NOT_USE"]
    got = fit(ramp, groupdq, gain, sigma, pattern, params, exclude_first)
    n, tied, jumps = len(pattern) - 1, 0, 0
    shift = int(params.flag_resultant == "after")
    for y, x in np.ndindex(*SHAPE):
        here = (slice(None), y, x)
        before, used, want, rounding = expected(
            ramp[here], groupdq[here], pattern, float(gain[y, x]), float(sigma[y, x]), params
        )
        if rounding:
            tied += 1
            continue
        np.testing.assert_array_equal(got["unused"][here][:n] == 0, used)
        flags = groupdq[here].copy()
        dropped = np.flatnonzero(before & ~used)
        flags[dropped + shift] |= GROUP["JUMP_DET"]
        jumps += len(dropped)
        np.testing.assert_array_equal(got["groupdq"][here], flags)
        dq = pixel_flags(flags, params, before, used, want)
        assert got["dq"][y, x] == dq
        if want is None:
            assert np.isnan([got[name][y, x] for name in ("rate", "err", "var_poisson")]).all()
            continue
        size = {"rate": want["err"], "dumo": want["err"], "var_poisson": want["err"] ** 2}
        for name in ("rate", "err", "var_poisson", "chisq", "dumo"):
            scale = max(abs(want[name]), size.get(name, 1e-6))
            assert abs(got[name][y, x] - want[name]) < 3e-6 * scale, name
        total = got["var_poisson"][y, x] + got["var_rnoise"][y, x]
        assert total == pytest.approx(got["err"][y, x] ** 2, rel=1e-5)
    if n > 3:  # of two differences it is decided by rounding which is the jump
        assert jumps > 20
        assert tied < 0.1 * SHAPE[0] * SHAPE[1]


def pixel_flags(flags, params, before, used, want):
    """The two-dimensional flags of a pixel whose resultants have `flags`."""
    dnu, sat, jump = (GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET"))
    kept = flags[flags & sat == 0] if params.other_flags else flags
    dq = int(np.bitwise_or.reduce(flags)) & sat | int(np.bitwise_or.reduce(kept, initial=0)) & jump
    if np.count_nonzero(flags & (dnu | sat) == 0) < 2:
        dq |= PIXEL["DO_NOT_USE"]
    if params.flag_nan and want is None:
        dq |= PIXEL["DO_NOT_USE"]
    if params.flag_ambiguous and used.sum() < min(2, before.sum()):
        dq |= PIXEL["DO_NOT_USE"]
    return dq


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_weights_follow_from_what_is_kept(pattern):
    """``unused`` and ``noise_ratio`` give the weights of the fit, so noise can go the same way."""
    ramp, groupdq, gain, sigma = simulate(pattern, SHAPE, 2)
    groupdq[0] |= GROUP["DO_NOT_USE"]
    got = fit(ramp, groupdq, gain, sigma, pattern, LikelihoodParams())
    n = len(pattern) - 1
    used = np.ascontiguousarray((got["unused"][:n] == 0).reshape(n, -1).T)
    weights = np.empty(used.shape)
    tables = difference_tables(pattern, FRAME_TIME)
    difference_weights(used, got["noise_ratio"].reshape(-1), tables, weights)
    fitted = used.any(axis=1)
    np.testing.assert_allclose(weights[fitted].sum(axis=1), 1, rtol=1e-12)
    assert (weights[~used] == 0).all()
    d = np.diff(ramp, axis=0).reshape(n, -1).T * tables.per_time
    rate = (weights * d).sum(axis=1)[fitted]
    error = got["err"].reshape(-1)[fitted]
    assert (np.abs(rate - got["rate"].reshape(-1)[fitted]) < 1e-6 * np.maximum(error, rate)).all()


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(1, SHAPE[1] - 1), row=st.integers(0, SHAPE[0] - 1))
def test_bits_do_not_depend_on_tiles(cut, row):
    pattern = PATTERNS["eight"]
    ramp, groupdq, gain, sigma = simulate(pattern, SHAPE, 3)
    groupdq[0] |= GROUP["DO_NOT_USE"]
    whole = fit(ramp, groupdq, gain, sigma, pattern, LikelihoodParams())
    for rows in (slice(0, row), slice(row, None)):
        for columns in (slice(0, cut), slice(cut, None)):
            piece = (..., rows, columns)
            if ramp[piece].size == 0:
                continue
            parts = (np.ascontiguousarray(a[piece]) for a in (ramp, groupdq, gain, sigma))
            corner = (4 + (rows.start or 0), 4 + (columns.start or 0))
            part = fit(*parts, pattern, LikelihoodParams(), corner=corner)
            for name, values in part.items():
                np.testing.assert_array_equal(values, whole[name][piece], err_msg=name)


@settings(max_examples=30, deadline=None)
@given(offset=st.integers(-1000, 1000), slope=st.integers(0, 50))
def test_light_and_pedestal_add(offset, slope):
    """A pedestal changes nothing; without noise the rate is the slope, whatever the weights."""
    pattern = PATTERNS["eight"]
    mean = np.array([np.mean(frames) for frames in pattern]) * FRAME_TIME
    ramp = np.broadcast_to(
        (offset + slope * mean)[:, np.newaxis, np.newaxis], (len(mean), 2, 3)
    ).astype(np.float32)
    gain, sigma = np.full((2, 3), 1.5, np.float32), np.full((2, 3), 6, np.float32)
    got = fit(ramp, np.zeros(ramp.shape, np.uint8), gain, sigma, pattern, LikelihoodParams(),
              exclude_first=False)  # fmt: skip
    np.testing.assert_allclose(got["rate"], slope, rtol=1e-5, atol=1e-4)
    assert not got["dq"].any()


def test_network_sorts():
    """Zeros and ones suffice: a network that sorts them sorts all (Knuth, TAOCP 3, 5.3.4)."""
    rng = np.random.default_rng(4)
    for n in range(1, 60):
        if n <= 12:
            values = (np.arange(2**n)[:, np.newaxis] >> np.arange(n)) & 1
        else:
            values = (rng.random((4000, n)) < rng.random((4000, 1))).astype(int)
        for i, j in sorting_network(n):
            pair = values[:, [i, j]]
            values[:, i], values[:, j] = pair.min(axis=1), pair.max(axis=1)
        assert (np.diff(values, axis=1) >= 0).all(), n


def test_thresholds():
    one, two, _ = LikelihoodParams().limits
    assert one == 20.25
    assert two == pytest.approx(chi2.isf(chi2.sf(20.25, 1), 2), rel=1e-12)
    assert two == pytest.approx(23.798545, abs=1e-6)
    assert LikelihoodParams(rejection_threshold=37.9).limits[1] == pytest.approx(
        LikelihoodParams(rejection_threshold=38.1).limits[1], rel=0.02
    )


def test_fewest_resultants():
    exposure = Exposure(256, ((0,), (1,), (2,)), FRAME_TIME)
    assert "3 resultants, expected at least 4" in step.check(exposure, LikelihoodParams())
    assert step.check(Exposure(256, PATTERNS["four"], FRAME_TIME), LikelihoodParams()) == ""
