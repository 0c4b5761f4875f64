"""The numbers by which exposures are compared."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
from scipy.stats import chi2

from roman_dask_l2.errors import InputError
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.quality import (
    count_halves,
    degrees_of_freedom,
    expected_chi_square,
    expected_median,
    measure,
    reduced_chi_square,
)
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import quality_tables


def test_numbers_of_an_image(simulated, tmp_path):
    out = calibrate(simulated(seed=11).config).out
    found = measure(out)
    with asdf.open(out, memmap=False) as file:
        roman, mask = file["roman"], np.asarray(file["mask"])
        dq, chisq = np.asarray(roman["dq"]), np.asarray(roman["chisq"]).astype(float)
        info = file["processinfo"]
        spanned = float(info["meta"]["tbar"][-1] - info["meta"]["tbar"][1])
        medsky = info["medsky"]
    assert found["detector"] == "WFI01"
    assert found["optical_element"] == "F158"
    assert found["sky"] == medsky
    assert found["masked"] == mask.mean()
    assert found["jumps"] == pytest.approx((dq & 4 != 0).mean() / spanned)
    used = np.sort(chisq[~mask & (chisq > 0)])
    middle = used[(len(used) + 1) // 2 - 1]  # of an even number the lower one
    assert found["chi_square"] == pytest.approx(middle / expected_median(5))
    assert 0.9 < found["chi_square"] < 1.4


@pytest.mark.parametrize("degrees", [1, 5, 12])
def test_chi_square_of_normal_noise(degrees):
    """1 for residuals as they should be; 4 standard deviations of the median of 10^5 draws."""
    draws = np.random.default_rng(degrees).chisquare(degrees, 100_000) / degrees
    values = draws.astype(np.float16)
    found = reduced_chi_square(count_halves(values, np.ones(len(values), bool)), degrees)
    middle = chi2.median(degrees)
    sigma = 0.5 / chi2.pdf(middle, degrees) / np.sqrt(len(draws)) / middle
    assert abs(found - 1) < 4 * sigma + 1e-3
    assert expected_median(degrees) == pytest.approx(middle / degrees)


@pytest.mark.parametrize("rate", [0.0, 0.4, 10.0])
def test_expected_chi_square(exposure, rate):
    """Against ramps drawn read by read; the median of 40000 of them scatters by 0.6 %."""
    gain, sigma, n = 1.8, 6.5, 40_000
    rng = np.random.default_rng(int(10 * rate))
    frames = [f for reads in exposure.read_pattern for f in reads]
    light = rng.poisson(rate * gain * exposure.frame_time, (frames[-1] + 1, n)).cumsum(0) / gain
    ramps = np.array([light[list(r)].mean(axis=0) for r in exposure.read_pattern])
    ramps += rng.normal(0, sigma / np.sqrt(exposure.n_reads)[:, None], ramps.shape)
    whiten = quality_tables(exposure, RampFitParams())[0][exposure.n_resultants]
    values = (((whiten @ (ramps - ramps[exposure.start])) / sigma) ** 2).sum(axis=0)
    found = float(np.median(values)) / expected_median(degrees_of_freedom(exposure))
    due = expected_chi_square(exposure, RampFitParams(), rate, gain, sigma)
    assert found == pytest.approx(due, rel=0.03)


def test_chi_square_of_nothing():
    values = np.array([0, np.nan, np.inf, -1, 3], np.float16)
    counts = count_halves(values, np.array([True, True, True, True, False]))
    assert counts.sum() == 0
    assert reduced_chi_square(counts, 5) is None
    assert reduced_chi_square(count_halves(values, np.ones(5, bool)), 0) is None


def test_no_image(simulated, tmp_path):
    with pytest.raises(InputError, match="no roman.dq, expected an L2 file of roman-dask-l2"):
        measure(simulated(seed=11).truth)
    asdf.AsdfFile({"roman": {"dq": np.zeros((2, 2), np.uint32), "data": np.zeros((2, 2))},
                   "mask": np.zeros((2, 2), bool)}).write_to(tmp_path / "other.asdf")  # fmt: skip
    with pytest.raises(InputError, match="other.asdf: processinfo has no"):
        measure(tmp_path / "other.asdf")
