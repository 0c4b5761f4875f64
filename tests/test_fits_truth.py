"""Both ramp fits on ramps whose rate is known: what ``make truth`` measures, on fewer pixels.

A limit is five standard deviations from what is expected: for each of these numbers one seed in
1.7 million would fail by chance. Seeds are fixed, so a failure means that the code has changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from programs import ROOT, load
from scipy.stats import norm

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.steps.likelihood_params import LikelihoodParams
from roman_dask_l2.steps.likelihood_tables import difference_tables
from roman_dask_l2.steps.ramp_likelihood import fit_likelihood

FOLDER = "validation/truth"
ramps, frame = load("ramps", FOLDER), load("frame", FOLDER)
FIVE = 5.0


@pytest.fixture(scope="module")
def likelihood():
    """The program, whose own imports are the modules beside it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(ROOT, FOLDER)), *sys.path])
        yield load("likelihood", FOLDER)


@pytest.mark.parametrize("rate", [0.1, 1, 10, 100, 1000])
def test_rate_and_error(rate):
    """No bias within chance, and the scatter that is stated."""
    n = ramps.SHAPE[0] * ramps.SHAPE[1]
    for name, found in ramps.measure_errors(ramps.fits(), rate, n, 7).items():
        assert found.pixels == n
        assert abs(found.bias) < FIVE * found.bias_error, name
        # The scatter has a relative error of 1 / sqrt(2 n); a thousandth is what false jumps and
        # the noise of the stated error itself add.
        assert abs(found.scatter / found.err - 1) < 0.001 + FIVE / np.sqrt(2 * n), name


def test_optimal_weights_pay_at_high_rates():
    """The likelihood fit has the smaller error where the weights are not made for the rate."""
    found = ramps.measure_errors(ramps.fits(), 1000, 1, 3)
    assert 1.03 < found["fixed"].scatter / found["likelihood"].scatter < 1.08


@pytest.mark.parametrize("rate", [0.4, 100])
def test_false_jumps_are_as_rare_as_the_threshold_says(rate):
    """Between the probability of one test and the sum over all tests, which overlap."""
    exposure, sigma = ramps.EXPOSURE, 3.0
    params = LikelihoodParams(rejection_threshold=sigma)
    fit = ramps.fitter(fit_likelihood, params, exposure)
    _, _, dq = fit(ramps.draw(np.random.default_rng(5), exposure, rate, ramps.SHAPE))
    tables = difference_tables(exposure.read_pattern, exposure.frame_time)
    tests = len(tables.pairs) - exposure.start + np.count_nonzero(tables.pairs[exposure.start :])
    p = 2 * norm.sf(sigma)
    part, chance = np.mean(dq & PIXEL["JUMP_DET"] != 0), np.sqrt(tests * p / dq.size)
    assert 2 * p < part < 1.1 * tests * p + FIVE * chance


@pytest.mark.parametrize("rate", [0.4, 10])
def test_pixels_hit_by_a_cosmic_ray(rate):
    """97 % of those hit above 8 sigma have a rate within 4 stated errors of the truth."""
    fits = ramps.fits()
    hits = ramps.measure_hits(fits, rate, 1, 2, (0.0, 8.0, 1e9), ramps.CHARGES)
    _, above = hits["likelihood"]
    assert above.pixels > 100_000
    assert above.flagged > 0.999
    chance = FIVE * np.sqrt(0.03 * 0.97 / above.pixels)
    assert above.within > 0.97 + chance
    assert hits["fixed"][1].within < 0.1
    assert hits["fixed"][1].flagged > 0.999


def test_significance():
    """Half of the hits of the threshold's own significance are found: chance moves as many above it
    as below."""
    edges = (4.45, 4.55)
    (found,) = ramps.measure_hits(ramps.fits(), 10, 1, 4, edges)["likelihood"]
    assert 0.5 < found.flagged < 0.75  # more: a pair of differences may be found instead


def test_a_frame_with_cosmic_rays(tmp_path):
    made = frame.make_frame(tmp_path, 256, 3, cosmic_rays=700)
    found = frame.measure_frame(made)
    fixed, likely = found["fixed"], found["likelihood"]
    hit = frame.PLACES[0]
    n = likely.places[hit].pixels
    assert n > 800
    assert fixed.places[hit].masked > 0.98
    assert likely.places[hit].masked == 0
    assert likely.places[hit].wrong < 0.03 + FIVE * np.sqrt(0.03 * 0.97 / n)
    assert likely.usable >= fixed.usable + n
    assert likely.right > fixed.right + 0.9 * n
    near = likely.places["4 neighbours"]
    assert near.masked == 0
    assert fixed.places["4 neighbours"].masked > 0.8
    others = likely.places["others"].chi_square
    assert abs(near.chi_square / others - 1) < 0.05 + FIVE * np.sqrt(2 / near.pixels)
    assert sum(place.pixels for place in likely.places.values()) > 0.98 * likely.pixels


def test_what_fails_is_said(likelihood):
    good = {"fit": "likelihood", "rate": 10, "bias": 1e-3, "bias_error": 3e-4, "scatter": 1.0,
            "err": 1.0}  # fmt: skip
    hit = {"fit": "likelihood", "rate": 10, "above": {"within": 0.98}}
    assert likelihood.failures({"errors": [good], "hits": [hit]}) == []
    for change in ({"bias": -0.0021}, {"scatter": 1.011}, {"err": 1.011}):
        assert len(likelihood.failures({"errors": [good | change], "hits": []})) == 1
        other = good | change | {"fit": "fixed"}
        assert likelihood.failures({"errors": [other], "hits": []}) == []
    bad = hit | {"above": {"within": 0.969}}
    assert likelihood.failures({"errors": [], "hits": [bad]}) == [
        "cosmic rays at 10 DN/s: 96.90% right"
    ]
