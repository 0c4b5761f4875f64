"""Curves in reports that say what should be there must agree with what is there."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.noise.read_noise import pink_series
from roman_dask_l2.report import expected, layers, replay
from roman_dask_l2.report import facts as reports
from roman_dask_l2.report.image_scan import ERRORS, RATES, open_image, scan_image


@pytest.fixture(scope="module")
def facts(exposure_with_noise):
    return reports.gather(open_image(exposure_with_noise.l2), exposure_with_noise.noise)


def test_ramps_are_those_that_were_fitted(facts):
    """Bands of all ramps, computed again: the flags are those of the file."""
    assert facts.jumps.differ == 0
    assert facts.jumps.pixels == 8 * 32 * 504
    assert [ramp.kind for ramp in facts.ramps] == list(replay.KINDS)
    normal, ray, full, hot = facts.ramps
    assert (normal.flags[1:] == 0).all()
    assert ray.flags.any()
    assert full.end < len(full.flags)
    assert hot.rate > 2 * normal.rate


def test_error_curve(facts):
    """The median error at the background's rate is the expected one, with and without the
    reference files, within 3 %."""
    medsky = facts.l2.info["medsky"]
    row = int((np.log10(medsky) - RATES[0]) / np.diff(RATES)[0])
    counts = facts.seen.errors[row]
    middle = 10 ** ERRORS[np.searchsorted(np.cumsum(counts), counts.sum() / 2)]
    for known in (facts.replay, None):
        curves, _ = expected.errors(facts.l2, facts.seen, known)
        due = np.interp(medsky, *curves[0])
        # A bin is 5 % wide.
        assert abs(middle * 10 ** (np.diff(ERRORS)[0] / 2) / due - 1) < 0.05
        assert len(curves) == 1 + facts.l2.exposure.n_resultants - 1 - 2


def test_layers(facts):
    """Power spectra lie on their curves. A frequency has about 2 * 504 channel rows, so 3.2 % of
    scatter, all together 0.4 %; 1/f noise is correlated from row to row, and scatters more."""
    for one in facts.looked:
        _, power = one.spectrum()
        due = layers.expect(one, facts.l2, facts.seen, facts.replay)
        ratio = power / due.spectra["expected"]
        assert abs(ratio.mean() - 1) < (0.02 if one.layer.ramp else 0.012), one.layer.label
        assert abs(ratio[0] - 1) < 0.2, one.layer.label
        density = one.counts / one.counts.sum() / np.diff(layers.BINS * one.scale)
        middle = slice(40, 80)
        assert abs(density[middle].mean() / due.density[middle].mean() - 1) < 0.02
        if one.layer.ramp is None:  # by the median gain
            alone = layers.expect(one, facts.l2, facts.seen, None)
            assert abs(alone.sigma / due.sigma - 1) < 0.01
    # Read noise is not white: the curve that takes it for white is far off at low frequencies.
    _, power = facts.looked[0].spectrum()
    white = layers.expect(facts.looked[0], facts.l2, facts.seen, facts.replay)
    assert power[0] > 1.5 * white.spectra["expected, white"][0]


def test_pink_spectrum():
    """Against drawn series of the noise model itself."""
    side = 256
    expected = layers.pink_spectrum(side)
    rng = np.random.default_rng(1)
    total = np.zeros(64)
    for _ in range(40):
        series = pink_series(rng.standard_normal(256 * side, np.float32)).reshape(-1, 128)
        total += (np.abs(np.fft.rfft(series, axis=1)[:, 1:]) ** 2).mean(axis=0) * 2 / 128
    # 40 * 256 segments: 1 % a frequency; 5 of these are a false alarm in 3e4 runs.
    np.testing.assert_allclose(total / 40, expected, rtol=0.05)
    assert expected[0] > 128  # leakage adds to 1/f


def test_ipc_gain():
    """Of a kernel that shares nothing it is 1; of another one the filtered white noise has it."""
    alone = np.zeros((3, 3))
    alone[1, 1] = 1
    np.testing.assert_allclose(layers.ipc_gain(alone, 2), 1)
    kernel = np.array([[0.002, 0.015, 0.002], [0.016, 0.93, 0.016], [0.002, 0.015, 0.002]])
    white = np.random.default_rng(2).standard_normal((2048, 1024))
    transfer = np.fft.fft2(np.pad(kernel, ((0, 2045), (0, 1021))))
    transfer *= np.exp(2j * np.pi * (np.fft.fftfreq(2048)[:, None] + np.fft.fftfreq(1024)))
    series = 1 + (1 - transfer) + (1 - transfer) ** 2
    out = np.fft.ifft2(np.fft.fft2(white) * series).real.reshape(-1, 128)
    power = (np.abs(np.fft.rfft(out, axis=1)[:, 1:]) ** 2).mean(axis=0) / 128
    np.testing.assert_allclose(power, layers.ipc_gain(kernel, 2), rtol=0.05)  # 0.8 % each


def test_jump_intervals():
    """A jump flags the resultant before it, and the one before that; two are told apart."""
    steps = np.array([0.0, 1, 2, 300, -2, 40, 1])
    flags = np.zeros(8, bool)
    assert replay.jump_intervals(flags, steps) == []
    flags[[2, 3]] = True
    assert replay.jump_intervals(flags, steps) == [3]
    flags[5] = True
    assert replay.jump_intervals(flags, steps) == [3, 5]
    flags[:] = False
    flags[4] = True  # by the difference to the next but one alone
    assert replay.jump_intervals(flags, steps) == [5]
    flags[:] = False
    flags[6] = True
    assert replay.jump_intervals(flags, steps) == [6]


def test_excess(exposure):
    """Of a straight ramp nothing, and a jump is where it is, however long the intervals."""
    straight = np.outer(exposure.tbar, [0.5, 100.0])
    np.testing.assert_allclose(replay.excess(straight, exposure), 0, atol=1e-9)
    for i in range(1, exposure.n_resultants - 1):
        jump = 80.0 * (np.arange(exposure.n_resultants) > i)[:, None]
        charge = replay.excess(straight + jump, exposure)
        assert (np.argmax(charge, axis=0) == i).all()
        np.testing.assert_allclose(charge[i], 80, rtol=1e-6)


def test_scan_of_sides(simulated):
    """Cells cover the whole image, whatever its side."""
    from roman_dask_l2.products.level2 import calibrate

    made = scan_image(open_image(calibrate(simulated(seed=11).config).out))
    assert made.k == 1
    assert made.edges[0] == 0
    assert made.edges[-1] == 248
    assert np.isfinite(made.residual).mean() > 0.9
    assert sum(made.flags.values()) < 248**2
    assert made.masked > 0
