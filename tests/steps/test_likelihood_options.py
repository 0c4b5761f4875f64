"""Options and odd pixels of the likelihood fit, each against a plain statement."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chi2, norm

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps.likelihood_params import LikelihoodParams
from roman_dask_l2.steps.ramp_likelihood import fit_likelihood, step

DNU, SAT, JUMP, DROPOUT, AD_FLOOR = (
    GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "JUMP_DET", "DROPOUT", "AD_FLOOR")
)
UNUSABLE = PIXEL["DO_NOT_USE"]
EIGHT = tuple(tuple(range(a, b)) for a, b in ((0, 1), (1, 2), (2, 4), (4, 10), (10, 26), (26, 32),
                                              (32, 34), (34, 35)))  # fmt: skip
ALL = Exposure(256, EIGHT, 3.04, exclude_first=False)
GAIN, NOISE = 1.8, 6.5
TILE = Tile(Window(4, 5, 4, 5), 256)
LARGEST = float(np.finfo(np.float16).max)


def fitted(ramp, flags=None, gain=GAIN, noise=NOISE, exposure=ALL, more=None, **options):
    """The fit of one pixel, by variable."""
    one = np.ones((1, 1))
    groupdq = np.zeros((len(ramp), 1, 1), np.uint8)
    if flags is not None:
        groupdq[:, 0, 0] = flags
    results = fit_likelihood(
        np.asarray(ramp, np.float32).reshape(-1, 1, 1), groupdq, np.zeros((1, 1), np.uint32),
        (gain * one).astype(np.float32), (noise * one).astype(np.float32), tile=TILE,
        exposure=exposure, params=LikelihoodParams(**options), **(more or {}),
    )  # fmt: skip
    values = dict(zip(step.writes, results, strict=True))
    return SimpleNamespace(**{name: value[..., 0, 0] for name, value in values.items()})


def noisy(rate, exposure=ALL, seed=1):
    """A ramp with a little scatter, DN."""
    scatter = np.random.default_rng(seed).normal(0, 2, exposure.n_resultants)
    return rate * exposure.tbar + scatter


def with_jump(ramp, first, size=300.0):
    """The ramp raised by `size` DN from the resultant `first` on."""
    return ramp + size * (np.arange(len(ramp)) >= first)


def covariances(exposure):
    """Poisson (per unit of electrons per second and squared gain) and read part of the covariance
    of the differences, from the covariance of the reads themselves."""
    reads = [f for group in exposure.read_pattern for f in group]
    mean = np.array([[(f in g) / len(g) for f in reads] for g in exposure.read_pattern])
    times = np.array(reads) * exposure.frame_time
    t = mean @ times
    difference = np.diff(mean, axis=0) / np.diff(t)[:, None]
    light = difference @ np.minimum.outer(times, times) @ difference.T
    return light, difference @ difference.T


def dense(ramp, used, rate, gain=GAIN, noise=NOISE, exposure=ALL):
    """Rate, error, Poisson variance, chi-square and weights with the covariance of `rate`, DN/s."""
    light, read = covariances(exposure)
    photons = rate / gain * light
    at = np.ix_(used, used)
    v = (photons + noise**2 * read)[at]
    d = (np.diff(ramp.astype(np.float32)) / np.diff(exposure.tbar))[used]
    inverse = np.linalg.inv(v)
    w = inverse.sum(axis=0) / inverse.sum()
    r = d - w @ d
    return w @ d, inverse.sum() ** -0.5, w @ photons[at] @ w, r @ inverse @ r, w


def assumed(found, gain=GAIN, noise=NOISE, **_):
    """The rate whose covariance the last fit has, DN/s, with that of the dark current."""
    return float(found.noise_ratio) * gain * noise**2


def agrees(found, ramp, used, dark=0.0, **how):
    """The fit is the dense one on the differences `used`, weighted for about its own rate."""
    rate, err, poisson, chi, _ = dense(ramp, used, assumed(found, **how), **how)
    assert found.rate == pytest.approx(rate, rel=1e-6)
    assert found.err == pytest.approx(err, rel=1e-6)
    assert found.var_poisson == pytest.approx(poisson, rel=1e-6)
    assert found.chisq == pytest.approx(chi / max(len(used) - 1, 1), rel=1e-5, abs=1e-9)
    assert found.unused.tolist() == [int(i not in used) for i in range(len(ramp) - 1)] + [0]
    assert assumed(found, **how) == pytest.approx(max(found.rate + dark, 0), rel=2e-2, abs=1e-3)


# -- which differences ---------------------------------------------------------------------------


def test_every_difference_of_a_ramp_without_flags():
    ramp = noisy(3.0)
    found = fitted(ramp)
    agrees(found, ramp, list(range(7)))
    assert found.dq == 0
    assert found.endslice == -1


def test_the_first_resultant_is_left_out_by_its_flag():
    ramp = with_jump(noisy(3.0), 1)  # that anything is wrong with it would be seen
    agrees(fitted(ramp, [DNU, *[0] * 7], exposure=Exposure(256, EIGHT, 3.04)), ramp,
           list(range(1, 7)))  # fmt: skip
    kept = fitted(ramp, most_dropped=0)
    assert kept.rate > 3.5
    assert not kept.unused.any()


@pytest.mark.parametrize("flag", [DNU, SAT, JUMP, DROPOUT, AD_FLOOR])
def test_any_flag_takes_out_both_neighbours(flag):
    ramp = noisy(3.0)
    flags = np.zeros(8, np.uint8)
    flags[3] = flag
    agrees(fitted(ramp, flags), ramp, [0, 1, 4, 5, 6])


def test_isolated_resultants_give_no_rate():
    ramp = noisy(3.0)
    flags = [0, DNU, 0, DNU, 0, DNU, 0, DNU]
    found = fitted(ramp, flags)
    assert np.isnan([found.rate, found.err, found.var_poisson]).all()
    assert found.unused.tolist() == [1] * 7 + [0]
    assert found.dq & UNUSABLE
    assert fitted(ramp, flags, flag_nan=False).dq & UNUSABLE == 0


def test_one_difference():
    ramp = noisy(3.0)
    found = fitted(ramp, [0, 0, *[SAT] * 6])
    agrees(found, ramp, [0])
    assert found.chisq == 0
    assert found.endslice == 1
    assert found.dq == PIXEL["SATURATED"]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(odd):
    """They take out their differences; or, as the observatory has it, the pixel."""
    ramp = noisy(3.0)
    spoiled = ramp.copy()
    spoiled[4] = odd
    found = fitted(spoiled)
    used = [0, 1, 2, 5, 6]
    rate, err, *_ = dense(ramp, used, assumed(found))
    assert found.rate == pytest.approx(rate, rel=1e-6)
    assert found.err == pytest.approx(err, rel=1e-6)
    assert found.dq == 0
    lost = fitted(spoiled, start_rate="all")
    assert np.isnan(lost.rate)
    assert lost.dq == UNUSABLE
    assert fitted(spoiled, start_rate="all", flag_nan=False).dq == 0


def test_start_rate_of_flagged_differences():
    """A rate that saturated resultants spoil hides a jump."""
    ramp = with_jump(noisy(3.0), 2, 60.0)
    ramp[4:] += 4000.0 * np.arange(1, 5)
    flags = [0, 0, 0, 0, *[SAT] * 4]
    assert fitted(ramp, flags).dq & PIXEL["JUMP_DET"]
    assert fitted(ramp, flags, start_rate="all").dq & PIXEL["JUMP_DET"] == 0


# -- jumps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("which", "flagged"), [("after", 6), ("before", 5)])
def test_the_resultant_that_is_flagged(which, flagged):
    ramp = noisy(3.0)
    found = fitted(with_jump(ramp, 6), flag_resultant=which)
    assert np.flatnonzero(found.groupdq).tolist() == [flagged]
    assert found.groupdq[flagged] == JUMP
    assert found.dq == PIXEL["JUMP_DET"]
    agrees(found, ramp, [0, 1, 2, 3, 4, 6])


def test_a_jump_within_a_resultant_takes_two_differences():
    ramp = noisy(3.0)
    hit = with_jump(ramp, 5)
    hit[4] += 150.0
    found = fitted(hit)
    assert np.flatnonzero(found.groupdq).tolist() == [4, 5]
    agrees(found, ramp, [0, 1, 2, 5, 6])
    assert not fitted(hit, most_dropped=1).unused[3:5].all()


def test_most_dropped():
    """Never more, and the fit is that of what is left."""
    ramp = noisy(3.0)
    hit = with_jump(with_jump(ramp, 1, 900.0), 6, 250.0)
    free = fitted(hit)
    assert {1, 6} <= set(np.flatnonzero(free.groupdq).tolist())
    for most in range(7):
        found = fitted(hit, most_dropped=most)
        used = np.flatnonzero(found.unused[:-1] == 0).tolist()
        assert 7 - len(used) == np.count_nonzero(found.groupdq) <= most
        rate, *_ = dense(hit, used, assumed(found))
        assert found.rate == pytest.approx(rate, rel=1e-6)
    assert found.unused.tolist() == free.unused.tolist()
    one = fitted(with_jump(ramp, 6), most_dropped=1)
    assert np.flatnonzero(one.groupdq).tolist() == [6]


@pytest.mark.parametrize("sigma", [0.5, 3.0, 4.5, 10.0, 37.0])
def test_thresholds_have_the_same_probability(sigma):
    one, two, _ = LikelihoodParams(rejection_threshold=sigma).limits
    p = 2 * norm.logsf(sigma) + 2 * np.log(2) - norm.logsf(sigma) - np.log(2)
    assert chi2.logsf(one, 1) == pytest.approx(p, rel=1e-9)
    assert chi2.logsf(two, 2) == pytest.approx(p, rel=1e-9)


def test_threshold_beyond_the_range_of_numbers():
    """Where the probability underflows, the limit still grows as it should."""
    limits = [LikelihoodParams(rejection_threshold=t).limits for t in (37.0, 38.0, 39.0, 200.0)]
    for t, (one, two, _) in zip((37.0, 38.0, 39.0, 200.0), limits, strict=True):
        assert one == t * t
        assert two == pytest.approx(-2 * (norm.logsf(t) + np.log(2)), rel=1e-5)


def test_rejection_threshold():
    """A jump is found at a threshold just below its significance, and not just above it."""
    ramp = with_jump(3.0 * ALL.tbar, 6, 60.0)
    first = np.median(np.diff(ramp) / np.diff(ALL.tbar))
    chi = dense(ramp, list(range(7)), first)[3]
    sigma = np.sqrt(chi - dense(ramp, [0, 1, 2, 3, 4, 6], first)[3])
    assert sigma > 4
    for factor, n in ((0.99, 1), (1.01, 0)):
        found = fitted(ramp, rejection_threshold=factor * sigma)
        assert np.count_nonzero(found.groupdq) == n


def test_two_differences_of_which_one_is_a_jump():
    """Charge is only added: the larger is taken out, and the pixel cannot be trusted."""
    ramp = with_jump(noisy(3.0), 2)
    flags = [0, 0, 0, *[SAT] * 5]
    found = fitted(ramp, flags)
    assert found.groupdq[:3].tolist() == [0, 0, JUMP]
    assert found.rate == pytest.approx((ramp[1] - ramp[0]) / 3.04, rel=1e-5)
    assert found.dq == PIXEL["JUMP_DET"] | PIXEL["SATURATED"] | UNUSABLE
    kept = fitted(ramp, flags, flag_ambiguous=False)
    assert kept.dq == PIXEL["JUMP_DET"] | PIXEL["SATURATED"]
    assert kept.rate == found.rate
    three = fitted(with_jump(noisy(3.0), 2), [*[0] * 4, *[SAT] * 4])
    assert three.dq == PIXEL["JUMP_DET"] | PIXEL["SATURATED"]  # two are left: usable


# -- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [0.0, -1.8, np.nan, np.inf])
def test_gain_without_sense(gain):
    ramp = noisy(3.0)
    found, one = fitted(ramp, gain=gain), fitted(ramp, gain=1.0)
    assert found.dq == PIXEL["NO_GAIN_VALUE"]
    assert (found.rate, found.err, found.noise_ratio) == (one.rate, one.err, one.noise_ratio)


@pytest.mark.parametrize("gain", [0.0, np.nan, np.inf])
def test_gain_without_sense_as_the_observatory_has_it(gain):
    found = fitted(noisy(3.0), gain=gain, check_gain=False, flag_nan=False)
    assert np.isnan([found.rate, found.err]).all()
    assert found.dq == 0


@pytest.mark.parametrize(("gain", "noise", "rate"), [(GAIN, 1.5e7, 3.0), (1e-3, NOISE, 1e5)])
def test_errors_beyond_half_precision(gain, noise, rate):
    ramp = rate * ALL.tbar
    free = fitted(ramp, gain=gain, noise=noise, clip_errors=False)
    assert max(free.err, free.var_poisson) > LARGEST
    assert free.dq == 0
    found = fitted(ramp, gain=gain, noise=noise)
    assert found.dq == PIXEL["UNRELIABLE_ERROR"]
    assert found.err == min(free.err, LARGEST)
    assert found.var_poisson == min(free.var_poisson, LARGEST)
    assert np.isfinite(np.float16([found.err, found.var_poisson])).all()
    with np.errstate(over="ignore"):
        assert not np.isfinite(np.float16([free.err, free.var_poisson])).all()


def test_read_noise_of_a_difference():
    ramp = with_jump(noisy(3.0), 6, 40.0)
    read = fitted(ramp, noise=NOISE)
    both = fitted(ramp, noise=NOISE * np.sqrt(2), read_noise_of="difference")
    assert both.rate == pytest.approx(read.rate, rel=1e-6)
    assert both.err == pytest.approx(read.err, rel=1e-6)
    assert both.chisq == pytest.approx(read.chisq, rel=1e-5)
    assert both.groupdq.tolist() == read.groupdq.tolist()


@pytest.mark.parametrize("noise", [np.nan, 0.0, -6.5])
@pytest.mark.parametrize("of", ["read", "difference"])
def test_read_noise_without_sense(noise, of):
    """The option's value, which is that of one read, and a flag."""
    ramp = noisy(3.0)
    found, right = (
        fitted(ramp, noise=noise, read_noise_of=of, sigma_read=4.0),
        fitted(ramp, noise=4),
    )
    assert found.dq == PIXEL["UNRELIABLE_ERROR"]
    assert (found.rate, found.err) == (right.rate, right.err)


@pytest.mark.parametrize("flags", [[0] * 8, [0, 0, 0, DNU, 0, 0, 0, 0], [0, 0, 0, *[SAT] * 5]])
def test_chi_square_divided_or_not(flags):
    ramp = noisy(3.0, seed=3)
    reduced, total = fitted(ramp, flags), fitted(ramp, flags, chisq="sum")
    used = 7 - int(reduced.unused.sum())
    assert total.chisq == pytest.approx(reduced.chisq * (used - 1), rel=1e-6)
    kept = np.flatnonzero(reduced.unused[:-1] == 0).tolist()
    assert total.chisq == pytest.approx(dense(ramp, kept, assumed(total))[3], rel=1e-5)


@pytest.mark.parametrize("exclude", [False, True])
def test_uniform_slope(exclude):
    """Of the differences of the fit, or of all of them, jumps and flags and all."""
    exposure = Exposure(256, EIGHT, 3.04, exclude_first=exclude)
    ramp = with_jump(noisy(5.0), 6)
    flags = [DNU if exclude else 0, *[0] * 7]
    used = [1, 2, 3, 4, 6] if exclude else [0, 1, 2, 3, 4, 6]
    found = fitted(ramp, flags, exposure=exposure)
    assert found.dumo == pytest.approx(dense(ramp, used, 0.0)[0] - found.rate, rel=1e-3)
    found = fitted(ramp, flags, exposure=exposure, dumo="all")
    every = dense(ramp, list(range(7)), 0.0)[0]
    assert found.dumo == pytest.approx(every - found.rate, rel=1e-4)
    # The slope of the mean over all reads is the least-squares slope of the resultants.
    n, t = ALL.n_reads, ALL.tbar
    k = n * (n.sum() * t - (n * t).sum()) / (n.sum() * (n * t * t).sum() - (n * t).sum() ** 2)
    assert every == pytest.approx(k @ ramp, rel=1e-5)


@pytest.mark.parametrize("hit", [False, True])
def test_uniform_slope_where_nothing_is_flagged(hit):
    """Pixels fitted in rows and one by one say the same."""
    exposure = Exposure(256, EIGHT, 3.04)
    ramp = noisy(5.0)
    found = fitted(ramp, [DNU, *[0] * 7], exposure=exposure, rejection_threshold=0.3 if hit else 9)
    used = np.flatnonzero(found.unused[:-1] == 0).tolist()
    assert (len(used) < 6) == hit
    assert found.dumo == pytest.approx(dense(ramp, used, 0.0)[0] - found.rate, abs=1e-4)


@pytest.mark.parametrize("hit", [False, True])
def test_shot_noise_of_the_dark_current(hit):
    """The current is gone from the ramp, its noise is not."""
    clean = noisy(1.0)
    ramp = with_jump(clean, 6) if hit else clean
    found = fitted(ramp, more={"dark_slope": np.full((1, 1), 20.0, np.float32)})
    agrees(found, clean, [0, 1, 2, 3, 4, 6] if hit else list(range(7)), dark=20.0)
    assert found.var_poisson > 10 * fitted(ramp).var_poisson
    assert found.noise_ratio == pytest.approx((found.rate + 20) / (GAIN * NOISE**2), rel=1e-2)
    assert step.references_for(LikelihoodParams(dark_noise=True))["dark_slope"] == "dark.dark_slope"
    assert "dark_slope" not in step.references_for(LikelihoodParams())


def test_read_noise_that_the_correction_of_capacitance_amplifies():
    ramp = noisy(1.0)
    kernel = np.zeros((3, 3, 1, 1), np.float32)
    kernel[1, 1] = 0.9
    found = fitted(ramp, more={"ipc": kernel})
    agrees(found, ramp, list(range(7)), noise=NOISE / 0.9)
    assert step.references_for(LikelihoodParams(ipc_noise=True))["ipc"] == "ipc4d.data"
    assert "ipc" not in step.references_for(LikelihoodParams())


def test_a_negative_rate_has_no_photons():
    ramp = noisy(-2.0)
    found = fitted(ramp)
    assert found.var_poisson == 0
    assert found.noise_ratio == 0
    agrees(found, ramp, list(range(7)))


def test_errors_in_half_precision():
    found = fitted(noisy(3.0), half_precision_errors=True)
    free = fitted(noisy(3.0))
    assert found.err == np.float16(free.err) != free.err
    assert found.var_poisson == np.float16(free.var_poisson)
    assert found.var_rnoise == pytest.approx(found.err**2 - found.var_poisson, rel=1e-6)


# -- flags and patterns --------------------------------------------------------------------------


def test_other_flags():
    flags = [0, AD_FLOOR, 0, 0, 0, DROPOUT, SAT | DROPOUT, SAT]
    found = fitted(noisy(3.0), flags)
    assert found.dq == PIXEL["AD_FLOOR"] | PIXEL["DROPOUT"] | PIXEL["SATURATED"]
    assert fitted(noisy(3.0), flags, other_flags=False).dq == PIXEL["SATURATED"]


def test_flags_of_the_read_noise_file():
    more = {"read_dq": np.full((1, 1), PIXEL["HOT"], np.uint32)}
    assert fitted(noisy(3.0), more=more).dq == PIXEL["HOT"]
    assert step.references_for(LikelihoodParams())["read_dq"] == "read.dq"
    assert "read_dq" not in step.references_for(LikelihoodParams(reference_dq=False))


@pytest.mark.parametrize("n", [55, 56])
def test_many_resultants(n):
    """Of one, two and three reads, with gaps between them; with jumps and saturation."""
    starts = np.cumsum([0, *(1 + j % 3 + (j % 5 == 0) for j in range(n - 1))])
    pattern = tuple(tuple(range(s, s + 1 + j % 3)) for j, s in enumerate(starts.tolist()))
    exposure = Exposure(256, pattern, 3.04, exclude_first=False)
    ramp = noisy(3.0, exposure)
    agrees(fitted(ramp, exposure=exposure), ramp, list(range(n - 1)), exposure=exposure)
    flags = np.where(np.arange(n) >= 40, SAT, 0)
    found = fitted(with_jump(with_jump(ramp, 12), 30), flags, exposure=exposure)
    used = np.flatnonzero(found.unused[:-1] == 0).tolist()
    assert not {11, 29} & set(used)
    assert 35 <= len(used) <= 37  # the search may take a neighbour along
    dropped = [i + 1 for i in range(39) if i not in used]
    assert np.flatnonzero(found.groupdq & JUMP).tolist() == dropped
    agrees(found, ramp, used, exposure=exposure)
    assert found.endslice == 39


@pytest.mark.parametrize("n", [3, 4])
def test_fewest_resultants(n):
    exposure = Exposure(256, EIGHT[:n], 3.04)
    why = step.check(exposure, LikelihoodParams())
    assert why == ("" if n > 3 else
                   "3 resultants, expected at least 4 for the likelihood fit")  # fmt: skip
