"""The observatory's small steps: dark rate, flat, photometry, statistics, a saturated frame."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.step import Tile
from roman_dask_l2.steps import all_saturated, photom, statistics
from roman_dask_l2.steps.dark_rate_observatory import DarkRateObservatoryParams
from roman_dask_l2.steps.dark_rate_observatory import step as dark_step
from roman_dask_l2.steps.flat_observatory import FlatObservatoryParams
from roman_dask_l2.steps.flat_observatory import step as flat_step

DNU, SAT, NO_FLAT = (PIXEL[f] for f in ("DO_NOT_USE", "SATURATED", "NO_FLAT_FIELD"))
BAD_DARK, BAD_FLAT = PIXEL["UNRELIABLE_DARK"], PIXEL["UNRELIABLE_FLAT"]
SHAPE = (256, 256)
AS_ROMANCAL = FlatObservatoryParams(
    check_references=False, half_precision_errors=True, flag_nan=False
)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(77)
    a = {n: rng.exponential(0.1, SHAPE) for n in ("err", "var_poisson", "var_rnoise")}
    a |= {n: rng.normal(1, 3, SHAPE) for n in ("rate", "dumo")}
    flat = rng.normal(1, 0.1, SHAPE)
    odd = rng.random(SHAPE) < 0.05
    flat[odd] = rng.choice([np.nan, 0, -0.5, np.inf, 1e30, 0.01], odd.sum())
    a |= {"flat": flat, "flat_err": rng.uniform(0, 0.1, SHAPE)}
    a["flat_err"][60:64, 50] = np.nan
    a = {n: v.astype(np.float32) for n, v in a.items()}
    a["dq"] = rng.choice(np.array([0, DNU, 1 << 31], np.uint32), SHAPE)
    a["flat_dq"] = rng.choice(np.array([0] * 20 + [NO_FLAT, 1 << 11], np.uint32), SHAPE)
    return a


def active():
    y, x = np.mgrid[:256, :256]
    return (y >= 4) & (y < 252) & (x >= 4) & (x < 252)


def divided(a, compatible, with_var):
    """Section by section in plain NumPy, on the whole frame."""
    f, on = a["flat"], active()
    none = np.isnan(f) | (f == 0) | ((a["flat_dq"] & NO_FLAT) != 0)
    if not compatible:
        none |= (f < 0) | np.isinf(f) | (f > 1e20)
    dq = a["dq"] | np.where(on, a["flat_dq"] | np.where(none, NO_FLAT, 0), 0).astype(np.uint32)
    f = np.where(none | ~on, 1, f).astype(np.float32)
    power = {"rate": 1, "err": 1, "dumo": 1, "var_poisson": 2, "var_rnoise": 2}
    out = {n: (a[n] / (f if p == 1 else f * f)).astype(np.float32) for n, p in power.items()}

    def half(name):
        if compatible:
            values = np.clip(out[name], -65504, 65504)
            out[name] = np.where(on, values.astype(np.float16), out[name].astype(np.float16))
            out[name] = out[name].astype(np.float32)

    half("err")
    half("var_poisson")
    if with_var:
        sigma = a["flat_err"] if compatible else np.nan_to_num(a["flat_err"])
        var = out["rate"] ** 2 / (f * f) * sigma**2
        out["err"] = np.where(on, np.sqrt(out["err"] ** 2 + var), out["err"]).astype(np.float32)
        half("err")
        if not compatible:
            dq[on & np.isnan(a["flat_err"])] |= BAD_FLAT
    if not compatible:
        dq[on & ~(np.isfinite(out["rate"]) & np.isfinite(out["err"]))] |= DNU
    return out | {"dq": dq}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("with_var", [False, True])
@pytest.mark.parametrize("compatible", [False, True])
def test_flat(compatible, with_var, arrays, exposure, run_step, window):
    params = AS_ROMANCAL if compatible else FlatObservatoryParams()
    params = params.model_copy(update={"include_var_flat": with_var})
    expected = divided(arrays, compatible, with_var)
    if not with_var:
        del arrays["flat_err"]
    result = run_step(flat_step, exposure, window, arrays, params)
    for name, value in expected.items():
        got, want = result[name], value[window.slices]
        np.testing.assert_array_equal(got, want, err_msg=name, strict=True)


def test_flat_makes_uniform_light_uniform(arrays, exposure, run_step, window):
    arrays["flat"] = np.random.default_rng(1).uniform(0.8, 1.2, SHAPE).astype(np.float32)
    arrays["flat_dq"][:] = 0
    arrays["rate"] = np.where(active(), arrays["flat"] * np.float32(7), 7).astype(np.float32)
    del arrays["flat_err"]
    result = run_step(flat_step, exposure, window, arrays)["rate"]
    np.testing.assert_allclose(result, 7, rtol=3e-7)


@pytest.mark.parametrize("check", [True, False])
def test_dark_rate(check, arrays, exposure, run_step, window):
    rng = np.random.default_rng(2)
    slope = rng.normal(0.01, 0.01, SHAPE).astype(np.float32)
    bad = rng.random(SHAPE) < 0.1
    impossible = np.float32([np.nan, np.inf, -np.inf, 2**24, -(2**24), -1000, -1.5])
    slope[bad] = rng.choice(impossible, bad.sum())
    slope[~bad & (rng.random(SHAPE) < 0.01)] = -1  # its noise
    flags = rng.choice(np.array([0, 1 << 11], np.uint32), SHAPE)
    inputs = {"rate": arrays["rate"], "dq": arrays["dq"], "dark_slope": slope, "dark_dq": flags}
    params = DarkRateObservatoryParams(check_references=check)
    result = run_step(dark_step, exposure, window, inputs, params)
    taken = np.where(bad, 0, slope) if check else slope
    rate = np.where(active(), arrays["rate"] - taken, arrays["rate"])
    dq = arrays["dq"] | np.where(active(), flags, 0).astype(np.uint32)
    if check:
        dq[active() & bad] |= BAD_DARK | DNU
    np.testing.assert_array_equal(result["rate"], rate[window.slices], strict=True)
    np.testing.assert_array_equal(result["dq"], dq[window.slices], strict=True)


def test_photom(exposure, caplog):
    table = {"F158": {"photmjsr": 0.5, "uncertainty": None, "pixelareasr": 3e-13}, "F062": None}
    found = photom.look_up([], table, exposure=exposure)
    assert found == {
        "conversion_megajanskys": 0.5,
        "conversion_megajanskys_uncertainty": None,
        "pixel_area": 3e-13,
    }
    assert not caplog.records
    for element in ("F062", "F213"):
        other = dataclasses.replace(exposure, optical_element=element)
        with caplog.at_level(logging.WARNING):
            found = photom.look_up([], table, exposure=other)
        assert set(found.values()) == {None}
        assert element in caplog.records[-1].message


@pytest.mark.parametrize("odd", [False, True])
def test_statistics(odd, arrays, exposure):
    rate, err, dq = (arrays[n] for n in ("rate", "err", "dq"))
    rate[50, ::7], err[60, ::3], err[70] = np.nan, 0, np.nan
    if odd:
        dq[:] = DNU
        dq[100, 100:103] = 0
    parts = [
        statistics.good_values(
            rate[w.slices], err[w.slices], dq[w.slices], tile=Tile(w, exposure.side)
        )
        for w in statistics.bands(exposure, statistics.step.params())
    ]
    found = statistics.summarise(parts, exposure=exposure)
    good = active() & np.isfinite(rate) & (err > 0) & ((dq & DNU) == 0)
    middle = np.median(rate[good])
    assert found["image_median"] == middle
    assert found["image_rms"] == 1.4826 * np.median(np.abs(rate[good] - middle))
    assert found["good_pixel_fraction"] == good.sum() / 248**2
    assert found["zodiacal_light"] == -1


def test_statistics_without_a_good_pixel(exposure):
    found = statistics.summarise([np.empty(0, np.float32)], exposure=exposure)
    assert (found["image_median"], found["image_rms"]) == (None, None)
    assert found["good_pixel_fraction"] == 0


@pytest.mark.parametrize("why", ["resultants", "known", "one is missing", "mixed"])
def test_saturated_frame(why, arrays, exposure, run_step, window):
    groupdq = np.full((6, *SHAPE), SAT | 64, np.uint8)
    pixeldq = np.full(SHAPE, 1 << 11, np.uint32)
    if why == "known":
        groupdq[2:] = 0
        pixeldq |= np.uint32(SAT)
    elif why == "one is missing":
        groupdq[4, 0, 3] = 0
    elif why == "mixed":  # neither holds for the whole frame
        groupdq[0, :128] = 0
        pixeldq[:128] |= np.uint32(SAT)
    both = {"groupdq": groupdq, "pixeldq": pixeldq}
    whole = Window(0, 256, 0, 256)
    noted = run_step(all_saturated.record_step, exposure, whole, both)
    flags = pixeldq | groupdq[0] | SAT
    np.testing.assert_array_equal(noted["blank_dq"], flags)
    parts = [
        all_saturated.bits_in_common(noted["blank"][w.slices])
        for w in statistics.bands(exposure, all_saturated.step.params())
    ]
    measured = all_saturated.combine(parts)
    assert measured["all"] == (why in ("resultants", "known"))
    names = all_saturated.step.reads
    inputs = {n: arrays[n] for n in names if n in arrays} | {"blank_dq": noted["blank_dq"]}
    result = run_step(all_saturated.step, exposure, window, inputs, None, measured)
    for name in ("rate", "err", "var_poisson", "var_rnoise", "dq"):
        same = arrays[name] if name != "dq" else arrays["dq"]
        blank = flags if name == "dq" else np.zeros(SHAPE, np.float32)
        expected = blank if measured["all"] else same
        np.testing.assert_array_equal(result[name], expected[window.slices], name)
