"""Steps that only measure, and a frame that saturates, through the engine in each of its modes."""

from __future__ import annotations

from dataclasses import replace

import dask
import numpy as np
import pytest

from roman_dask_l2.core.detector import Grid
from roman_dask_l2.core.step import BoundStep
from roman_dask_l2.engine.graph import build
from roman_dask_l2.engine.plan import applicable
from roman_dask_l2.io.arrays import Constant
from roman_dask_l2.steps.registry import find_step

RECIPE: dict[str, dict] = {
    "photom": {},
    "dq_init": {"guide_window_growth": 0},
    "saturation": {"first": 0, "grow": 0, "backup": 0, "check_references": False},
    "saturated_pixels": {},
    "dark_decay": {"border": True, "double": True},
    "wfi18_transient": {"correct": True, "swap_medians": True},
    "ramp_fit_likelihood": {},
    "dark_rate_observatory": {},
    "flat_observatory": {},
    "all_saturated": {},
    "statistics": {},
}
RESULTS = ("rate", "err", "var_poisson", "var_rnoise", "dq")
TABLE = {"F158": {"photmjsr": 0.6, "uncertainty": 0.01, "pixelareasr": 2.9e-13}}


class Low:
    """A threshold that every pixel reaches in its first resultant."""

    def read(self, window=None):
        side = 256
        shape = (side, side) if window is None else window.shape
        return np.full(shape, -1e9, np.float32)  # the simulation has pixels that read 0


@pytest.fixture(scope="module")
def prepared(simulated, pipeline):
    _, inputs = pipeline(simulated(dark_decay=True), "l1_to_l2")
    sources = {**inputs.sources, "photom.phot_table": Constant(TABLE)}
    inputs = replace(inputs, sources=sources, exposure=replace(inputs.exposure, detector="WFI18"))
    decay = Constant({"WFI18": {"amplitude": 1.0, "time_constant": 10.0}})
    return replace(inputs, sources={**sources, "dark_decay.decay_table": decay})


def run(inputs, tile, per_step=False, scheduler="synchronous"):
    steps = [BoundStep(s, s.params(**o)) for n, o in RECIPE.items() for s in [find_step(n, "")]]
    steps = applicable(steps, inputs)
    assert len(steps) == len(RECIPE)
    lazy = build(steps, inputs, Grid(256, tile), RESULTS, per_step)
    with dask.config.set(scheduler=scheduler):
        return dask.compute(lazy.arrays, lazy.measured)


def same(a, b):
    assert a[1] == b[1]
    for name in RESULTS:
        np.testing.assert_array_equal(a[0][name], b[0][name], name, strict=True)


@pytest.fixture(scope="module")
def whole(prepared):
    return run(prepared, (256, 256))


def test_what_is_measured(whole):
    arrays, measured = whole
    assert measured["photom"]["conversion_megajanskys"] == 0.6
    assert measured["wfi18_transient"].keys() == {"fit"}
    assert measured["all_saturated"] == {"all": False}
    act = np.s_[4:252, 4:252]
    rate, err, dq = (arrays[n][act] for n in ("rate", "err", "dq"))
    good = np.isfinite(rate) & (err > 0) & ((dq & 1) == 0)
    assert 0.5 < good.mean() < 1
    assert measured["statistics"]["good_pixel_fraction"] == good.mean()
    assert measured["statistics"]["image_median"] == np.median(rate[good])


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
@pytest.mark.parametrize("tile", [(64, 256), (100, 77)], ids=str)
def test_same_bits(tile, per_step, prepared, whole):
    same(run(prepared, tile, per_step), whole)


def test_same_bits_in_threads(prepared, whole):
    same(run(prepared, (64, 256), scheduler="threads"), whole)


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
def test_a_frame_that_saturates_is_blank(per_step, prepared):
    inputs = replace(prepared, sources={**prepared.sources, "saturation.data": Low()})
    clear = inputs.sources["saturation.dq"]

    class Clear:
        def read(self, window=None):
            return np.zeros_like(clear.read(window))

    inputs = replace(inputs, sources={**inputs.sources, "saturation.dq": Clear()})
    arrays, measured = run(inputs, (100, 77), per_step)
    assert measured["all_saturated"] == {"all": True}
    for name in RESULTS[:-1]:
        assert not arrays[name].any()
    assert ((arrays["dq"] & 2) != 0).all()
    assert measured["statistics"]["good_pixel_fraction"] == 0
