"""The Dask graph: same bits for any tiling and scheduler, lazy, small, and named."""

from __future__ import annotations

import mmap
import os
import pickle
from dataclasses import replace

import cloudpickle
import dask
import numpy as np
import pytest
from dask.utils import key_split
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.config.recipe import RESULTS, load_recipe
from roman_dask_l2.core.detector import Grid, Window
from roman_dask_l2.core.step import VARIABLES, Tile
from roman_dask_l2.engine import kernels, plan
from roman_dask_l2.engine.graph import build
from roman_dask_l2.engine.kernels import run_steps
from roman_dask_l2.engine.plan import applicable, feeding, make_segments, summed_halo
from roman_dask_l2.io.arrays import FileArray
from roman_dask_l2.io.references import Inputs

RECIPES = ["l1_to_l2", "romanimpreprocess_1.0"]
TILES = [(64, 256), (192, 192), (100, 77), (256, 256)]


def everything(steps):
    """All variables that these steps make."""
    return tuple(v for v in VARIABLES if any(v in bound.step.writes for bound in steps))


def computed(lazy, scheduler="synchronous"):
    with dask.config.set(scheduler=scheduler):
        arrays, measured = dask.compute(lazy.arrays, lazy.measured)
    return arrays, measured


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):  # arrays, then what was measured
        assert a.keys() == b.keys()
    for name, value in expected[0].items():
        np.testing.assert_array_equal(found[0][name], value, name, strict=True)
    for step, values in expected[1].items():
        assert found[1][step].keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_array_equal(found[1][step][name], value, f"{step}: {name}")


@pytest.fixture(scope="module", params=RECIPES)
def whole(request, simulated, pipeline):
    """One exposure with everything, and its result as one tile in one task."""
    steps, inputs = pipeline(simulated(dark_decay=True), request.param)
    lazy = build(steps, inputs, Grid(256, (256, 256)), everything(steps))
    return steps, inputs, computed(lazy)


def test_whole_frame_is_the_kernels_in_turn(whole):
    steps, inputs, (arrays, measured) = whole
    tile = Tile(Window(0, 256, 0, 256), 256)
    have = run_steps(steps, {}, tile, inputs, measured)
    for name in everything(steps):
        np.testing.assert_array_equal(arrays[name], have[name].astype(VARIABLES[name].dtype), name)
        assert arrays[name].dtype == VARIABLES[name].dtype


def test_measured_without_dask(whole):
    """What the steps up to the ramp fit measure is the same when it is looked for at once."""
    steps, inputs, (_, measured) = whole
    names = [bound.name for bound in steps]
    found = kernels.measure(steps[: names.index("ramp_fit") + 1], inputs)
    assert "refpix" in found
    for name, values in found.items():
        assert values.keys() == measured[name].keys()
        for key, value in values.items():
            np.testing.assert_array_equal(value, measured[name][key], f"{name}: {key}")


def test_the_exposure_has_everything(whole):
    """What the comparisons are worth."""
    steps, _, (arrays, measured) = whole
    assert {b.name for b in steps} >= {"bias", "dark_decay", "saturation", "ipc", "flat", "sky"}
    from roman_dask_l2.core.dq import PIXEL

    expected = "SATURATED JUMP_DET DROPOUT GW_AFFECTED_DATA AD_FLOOR DEAD HOT NO_FLAT_FIELD"
    for flag in f"{expected} NO_GAIN_VALUE NO_LIN_CORR NO_SAT_CHECK REFERENCE_PIXEL".split():
        assert (arrays["dq"] & PIXEL[flag]).any(), flag
    assert len(np.unique(arrays["endslice"])) > 4
    assert 0.05 < arrays["mask"].mean() < 0.5
    assert measured["refpix"]["rows"].any()
    assert measured["sky"]["coefs"].size == 6
    assert measured["medsky"]["medsky"] > 0


def without_sky(steps, inputs, expected):
    """The same without the last step, the sky, whose 64 cells take seconds to build as layers."""
    assert steps[-1].name == "sky"
    arrays, measured = ({k: v for k, v in e.items() if k not in ("data", "sky")} for e in expected)
    return steps[:-1], inputs, (arrays, measured)


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
@pytest.mark.parametrize("tile", TILES, ids=str)
def test_same_bits_for_any_tiles(whole, tile, per_step):
    steps, inputs, expected = without_sky(*whole) if per_step else whole
    assert_same(computed(build(steps, inputs, Grid(256, tile), expected[0], per_step)), expected)


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
def test_same_bits_in_threads(whole, per_step):
    steps, inputs, expected = without_sky(*whole) if per_step else whole
    lazy = build(steps, inputs, Grid(256, (100, 77)), expected[0], per_step)
    assert_same(computed(lazy, "threads"), expected)


def test_only_what_is_asked_for(whole):
    steps, inputs, expected = whole
    lazy = build(steps, inputs, Grid(256, (100, 77)), ["dq", "data"])
    arrays, measured = computed(lazy)
    assert_same((arrays, measured), ({n: expected[0][n] for n in ("dq", "data")}, expected[1]))


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
def test_side_640_with_tiles_of_192(simulated, pipeline, per_step):
    simulation = simulated(side=640, wfi18_transient=True, detector="WFI18", reference_read=1000)
    steps, inputs = pipeline(simulation, correct_wfi18_transient=True)
    assert "wfi18_transient" in [b.name for b in steps]
    expected = computed(build(steps, inputs, Grid(640, (640, 640)), everything(steps)))
    assert expected[1]["wfi18_transient"]["fit"] is not None
    lazy = build(steps, inputs, Grid(640, (192, 192)), everything(steps), per_step)
    assert_same(computed(lazy, "threads"), expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_inputs_of_every_format(simulated, pipeline, recipe):
    """Without amp33 and bias; float64, big-endian, Quantity and compressed arrays."""
    formats = {"gain": "float64", "flat": "big-endian", "dark": "quantity", "ipc4d": "zlib"}
    options = {"amp33": False, "biascorr": False, "conditions": ("hot", "flat", "saturation")}
    # The other recipe takes other planes of a dark cube with one too many, as its model does.
    extra_plane = recipe == "l1_to_l2"
    simulation = simulated(array_format=formats, extra_plane=extra_plane, **options)
    steps, inputs = pipeline(simulation, recipe)
    expected = computed(build(steps, inputs, Grid(256, (256, 256)), RESULTS))
    lazy = build(steps, inputs, Grid(256, (100, 77)), RESULTS)
    assert_same(computed(lazy, "threads"), expected)
    plain = pipeline(simulated(**options), recipe)
    same = computed(build(*plain, Grid(256, (256, 256)), RESULTS))[0]
    for name, value in same.items():  # the precision of the gain is that of the arithmetic
        np.testing.assert_allclose(
            expected[0][name].astype(float), value.astype(float), rtol=1e-3, atol=1e-3, err_msg=name
        )


# -- the halo ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "result"),
    [
        (["dq_init", "saturation"], "groupdq"),
        (["dq_init", "ipc"], "ramp"),
        (["dq_init", "ramp_fit", "flat"], "rate"),
        (["dq_init", "ramp_fit", "dark_rate"], "rate"),
        (["dq_init", "ramp_fit", "mask"], "mask"),
    ],
    ids=lambda v: v if isinstance(v, str) else "+".join(v),
)
def test_one_pixel_less_of_halo_is_too_little(names, result, simulated, pipeline, monkeypatch):
    known = {b.name: b for r in RECIPES for b in pipeline(simulated(dark_decay=True), r)[0]}
    inputs = pipeline(simulated(dark_decay=True))[1]
    steps = [known[name] for name in names]
    expected = computed(build(steps, inputs, Grid(256, (256, 256)), [result]))[0][result]

    def tiled():
        # Narrow tiles, so that every kind of pixel lies beside some border.
        return computed(build(steps, inputs, Grid(256, (9, 256)), [result]))[0][result]

    np.testing.assert_array_equal(tiled(), expected)
    monkeypatch.setattr(plan, "summed_halo", lambda *args: max(summed_halo(*args) - 1, 0))
    assert (tiled() != expected).any()


def test_summed_halo():
    steps = load_recipe("l1_to_l2").steps
    index = {b.name: i for i, b in enumerate(steps)}

    def halo(last, leave):
        return summed_halo(steps[: index[last] + 1], leave)

    assert halo("dq_init", ["ramp"]) == 0
    assert halo("saturation", ["groupdq"]) == 2
    # ipc (2) reads what linearity made of groupdq, which saturation (2) grew
    assert halo("ipc", ["ramp"]) == 4
    assert halo("flat", ["rate"]) == 4
    assert halo("mask", ["mask"]) == 6
    assert summed_halo(steps[index["mask"] : index["mask"] + 1], ["mask"]) == 2
    flat = steps[index["flat"]]
    assert summed_halo([flat], ["rate"]) == 2  # of its references alone


# -- laziness and size ---------------------------------------------------------------------------


class Untouchable:
    def read(self, window=None):
        raise AssertionError("a pixel was read")


@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("recipe", RECIPES)
def test_building_reads_no_pixels(recipe, per_step, simulated, pipeline, monkeypatch):
    simulation = simulated(dark_decay=True)

    def forbidden(*args, **kwargs):
        raise AssertionError("a pixel was read")

    for owner, name in ((FileArray, "read"), (os, "preadv"), (mmap, "mmap")):
        monkeypatch.setattr(owner, name, forbidden)
    steps, inputs = pipeline(simulation, recipe)
    untouchable = Inputs(inputs.exposure, dict.fromkeys(inputs.sources, Untouchable()), {})
    tile = (100, 256)
    lazy = build(steps, untouchable, Grid(256, tile), everything(steps), per_step)
    for name, array in lazy.arrays.items():
        assert array.dtype == VARIABLES[name].dtype
        lead = VARIABLES[name].lead(inputs.exposure.n_resultants)
        assert array.shape == (*lead, 256, 256)
        assert array.chunks[-2:] == Grid(256, tile).chunks
    with pytest.raises(AssertionError, match="a pixel was read"):
        computed(lazy)


@pytest.mark.parametrize("per_step", [False, True])
def test_no_array_in_the_graph(whole, per_step):
    """A frame of one variable has 256 kB here; the whole graph must be smaller than some tiles."""
    steps, inputs, _ = whole
    lazy = build(steps, inputs, Grid(256, (64, 256)), ["data", "dq"], per_step)
    collections = [*lazy.arrays.values(), *lazy.measured.values()]
    graphs = [dict(c.__dask_graph__()) for c in collections]
    tasks = {k: v for g in graphs for k, v in g.items()}
    assert len(pickle.dumps(inputs)) < 300_000
    largest = max(len(cloudpickle.dumps(task)) for task in tasks.values())
    assert largest < 300_000  # the inputs: descriptions of files, a coarse spline of the WCS
    others = (len(cloudpickle.dumps(t)) for k, t in tasks.items() if "inputs-" not in str(k))
    assert max(others) < 30_000


@pytest.mark.parametrize("recipe", RECIPES)
def test_task_names_say_the_step(recipe, simulated, pipeline):
    steps, inputs = pipeline(simulated(dark_decay=True), recipe)

    def names(per_step):
        lazy = build(steps, inputs, Grid(256, (128, 256)), ["data", "dq", "mask"], per_step)
        collections = [*lazy.arrays.values(), *lazy.measured.values()]
        return {key_split(k) for c in collections for k in c.__dask_graph__()}

    found = names(per_step=True)
    assert {b.name for b in steps if b.step.writes} <= found
    assert {"refpix-measure", "refpix-combine", "sky-measure", "medsky-combine"} <= found
    assert any("-to-" in name and name.startswith("dq_init") for name in names(per_step=False))


# -- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_segments(recipe):
    steps = load_recipe(recipe).steps
    fused = make_segments(steps, RESULTS)
    single = make_segments(steps, RESULTS, per_step=True)
    assert [b for s in fused for b in s.steps] == [b for s in single for b in s.steps]
    assert [len(s.steps) for s in single] == [1] * len(steps)
    assert len(fused) < 6
    assert fused[0].enter == ()
    made = set()
    for segment in fused:
        assert set(segment.enter) <= made
        made |= set(segment.leave)
    assert set(RESULTS) <= made
    # the ramp passes between segments only where the caller wants it
    assert not any("groupdq" in s.leave for s in make_segments(steps, ["data"]))


def test_feeding():
    steps = load_recipe("l1_to_l2").steps
    names = [b.name for b in feeding(steps[:7], ["ramp"])]
    assert names[0] == "dq_init"
    assert "sky" not in names
    assert [b.name for b in feeding(steps[:2], ["pixeldq"])] == ["dq_init", "saturation"]
    assert [b.name for b in feeding(steps[:2], ["ramp"])] == ["dq_init"]


def test_steps_that_do_not_apply_are_left_out(simulated, pipeline):
    plain = simulated(amp33=False, biascorr=False)
    steps, inputs = pipeline(plain)
    names = {b.name for b in steps}
    assert not names & {"bias", "dark_decay", "wfi18_transient"}
    assert names == {b.name for b in applicable(load_recipe("l1_to_l2").steps, inputs)}
    less = {k: v for k, v in inputs.sources.items() if not k.startswith("ipc4d")}
    left = applicable(load_recipe("l1_to_l2").steps, replace(inputs, sources=less))
    assert names - {b.name for b in left} == {"ipc"}


@given(st.integers(2, 9), st.integers(20, 1200), st.integers(20, 1200), st.integers(0, 5))
def test_tiles_partition_the_detector(channels, ny, nx, halo):
    side = 128 * channels
    grid = Grid(side, (ny, nx))
    rows, columns = grid.shape
    for axis, count in enumerate(grid.shape):
        windows = [grid.window(i, 0) if axis == 0 else grid.window(0, i) for i in range(count)]
        edges = [(w.y0, w.y1) if axis == 0 else (w.x0, w.x1) for w in windows]
        assert edges[0][0] == 0
        assert edges[-1][1] == side
        assert all(a[1] == b[0] for a, b in zip(edges[:-1], edges[1:], strict=True))
        assert tuple(b - a for a, b in edges) == grid.chunks[axis]
    for w in (grid.window(0, 0), grid.window(rows - 1, columns - 1)):
        outer = w.grown(halo, side)
        whole = np.arange(outer.shape[0])[:, None] * 10_000 + np.arange(outer.shape[1])
        cut = whole[w.within(outer)]
        assert cut.shape == w.shape
        assert cut[0, 0] == (w.y0 - outer.y0) * 10_000 + w.x0 - outer.x0
        inner = w.active(side)
        assert inner.shape[0] >= 0
        assert inner.shape[1] >= 0
        if np.prod(inner.shape):
            assert 4 <= inner.y0 < inner.y1 <= side - 4
            assert 4 <= inner.x0 < inner.x1 <= side - 4


# -- bad reference values through everything -----------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
def test_nan_references_flag_their_pixels_and_stay_near(recipe, simulated, pipeline):
    """The same exposure with and without NaN in single pixels of each reference array."""
    import asdf

    options = {"read_pattern": [[0], [1], [2, 3], [4, 5], [6]]}
    plain, bad = (simulated(conditions=c, **options) for c in ("plain", "nan_reference"))
    names = ("rate", "err", "var_poisson", "dq", "endslice", "chisq", "groupdq")
    before, after = (
        computed(build(*pipeline(s, recipe), Grid(256, (100, 77)), names))[0] for s in (plain, bad)
    )
    with asdf.open(bad.truth) as file:
        places = np.array(file["truth"]["conditions"]["nan_reference"])
    assert len(places) >= 12
    near = np.zeros((256, 256), bool)
    for y, x in places:
        near[y - 2 : y + 3, x - 2 : x + 3] = True
    for name in names:
        assert np.isfinite(after[name]).all(), name
        np.testing.assert_array_equal(after[name][..., ~near], before[name][..., ~near], name)
    same = [tuple(p) for p in places if after["dq"][tuple(p)] == before["dq"][tuple(p)]]
    # only the dark cube needs no flag: it is not used on active pixels, or added back
    assert len(same) <= 1
