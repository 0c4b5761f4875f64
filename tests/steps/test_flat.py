"""Flat field: against the formula in float64, with each of its flags."""

from __future__ import annotations

import numpy as np
import pytest

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.steps.flat import FlatParams, step

NO_FLAT, NO_GAIN, DNU = (PIXEL[f] for f in ("NO_FLAT_FIELD", "NO_GAIN_VALUE", "DO_NOT_USE"))


@pytest.fixture(scope="module")
def made(ipc_kernel):
    rng = np.random.default_rng(31)
    shape = (256, 256)
    flat = rng.normal(1, 0.05, shape)
    gain = rng.uniform(1.5, 2, shape)
    for values in ([0.1, 0.0999, 0.0, -1.0, 10.0, 10.001, 99.0],):
        where = rng.random(shape) < 0.02
        flat[where] = rng.choice(values, where.sum())
    where = rng.random(shape) < 0.02
    gain[where] = rng.choice([0.1, 0.1001, 0.0, -2.0], where.sum())
    flat[:4], gain[:4] = -1, -1  # nobody asks the border
    area = np.ones(shape)
    area[4:252, 4:252] = rng.uniform(0.9, 1.1, (248, 248))
    return {
        "rate": rng.normal(1, 5, shape).astype(np.float32),
        "var_poisson": rng.exponential(0.01, shape).astype(np.float32),
        "var_rnoise": rng.exponential(0.01, shape).astype(np.float32),
        "dumo": rng.normal(0, 0.1, shape).astype(np.float32),
        "dq": rng.choice(np.array([0, 1, 1 << 31], np.uint32), shape),
        "flat": flat.astype(np.float32),
        "gain": gain.astype(np.float32),
        "area": area,
        "ipc": ipc_kernel(rng),
    }


@pytest.fixture
def arrays(made):
    return {name: value.copy() for name, value in made.items()}


def restated(a, deconvolved, order):
    active = np.zeros((256, 256), bool)
    active[4:252, 4:252] = True
    dq = a["dq"].copy()
    dq[active & ((a["flat"] < np.float32(0.1)) | (a["flat"] > 10))] |= NO_FLAT
    dq[active & (a["gain"] <= np.float32(0.1))] |= NO_GAIN
    f = np.where(active, np.clip(a["flat"].astype(float), 0.1, 10), 1.0)
    if order:
        f = deconvolved(f, np.clip(a["gain"].astype(float), 0.1, None), a["ipc"], order)
    f = f / a["area"]
    out = {name: a[name] / f for name in ("rate", "dumo")}
    out |= {name: a[name] / f**2 for name in ("var_poisson", "var_rnoise")}
    return out | {"err": np.sqrt(out["var_poisson"] + out["var_rnoise"]), "dq": dq}


@pytest.mark.parametrize("order", [0, 2])
def test_formula(order, arrays, exposure, run_step, window, deconvolved):
    expected = restated(arrays, deconvolved, order)
    if not order:
        del arrays["ipc"]
    result = run_step(step, exposure, window, arrays, FlatParams(order=order))
    np.testing.assert_array_equal(result["dq"], expected.pop("dq")[window.slices], strict=True)
    for name, value in expected.items():
        assert result[name].dtype == np.float32
        # neighbours of a flat of 10 lose digits to IPC
        np.testing.assert_allclose(result[name], value[window.slices], rtol=2e-4, err_msg=name)
    assert order == 0 or "ipc" in step.references_for(FlatParams())


def test_half_precision(arrays, exposure, run_step, window):
    exact = run_step(step, exposure, window, arrays)
    result = run_step(step, exposure, window, arrays, FlatParams(half_precision_errors=True))
    for name in exact:
        expected = exact[name]
        if name in ("err", "var_poisson"):
            expected = np.clip(expected, None, 65504).astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(result[name], expected, name)


def test_large_errors_stay_finite_in_half_precision(arrays, exposure, run_step, window):
    arrays["var_poisson"][:] = 1e9
    result = run_step(step, exposure, window, arrays, FlatParams(half_precision_errors=True))
    assert result["var_poisson"].max() <= 65504


def test_references():
    assert step.references_for(FlatParams())["area"] == "wcs.area"
    assert step.references_for(FlatParams(area_shift=4))["area"] == "wcs.area+4"
    assert "ipc" not in step.references_for(FlatParams(order=0))
    assert step.reference_halo(FlatParams()) == 2
    assert step.halo(FlatParams()) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "flag"), [("flat", NO_FLAT), ("gain", NO_GAIN), ("ipc", 0)])
def test_bad_reference_values(name, flag, bad, arrays, exposure, run_step, window):
    """One pixel is flagged; IPC carries what stands in for it two pixels and no further."""
    before = run_step(step, exposure, window, arrays)
    arrays[name][..., 60, 50] = bad
    arrays[name][..., 1, 100] = bad
    after = run_step(step, exposure, window, arrays)
    y, x = np.mgrid[window.slices]
    here = (y == 60) & (x == 50)
    far = np.maximum(abs(y - 60), abs(x - 50)) > 2
    assert (after["dq"][here] & flag == flag).all()
    np.testing.assert_array_equal(after["dq"][~here], before["dq"][~here])
    for field in ("rate", "err", "var_poisson", "var_rnoise", "dumo"):
        assert np.isfinite(after[field]).all()
        np.testing.assert_array_equal(after[field][far], before[field][far])


def test_a_rate_that_is_not_finite_is_not_to_be_used(arrays, exposure, run_step, window):
    arrays["rate"][60, 50] = np.nan
    arrays["dq"][:] = 0
    dq = run_step(step, exposure, window, arrays)["dq"]
    y, x = np.mgrid[window.slices]
    np.testing.assert_array_equal(dq & DNU > 0, (y == 60) & (x == 50))
