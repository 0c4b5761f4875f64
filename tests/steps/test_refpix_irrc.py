"""The improved reference correction: against its formulas, and in every way to run it."""

from __future__ import annotations

import dataclasses
import tracemalloc

import dask
import numpy as np
import pytest

from roman_dask_l2.core.detector import Grid, Window
from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import BoundStep, NoParams, Reduction, Spill, Step, Tile
from roman_dask_l2.engine import graph, kernels
from roman_dask_l2.engine.schedulers import running
from roman_dask_l2.errors import InputError
from roman_dask_l2.io.arrays import Constant
from roman_dask_l2.io.references import Inputs
from roman_dask_l2.io.spill import temp_store
from roman_dask_l2.steps import irrc_spectra, refpix_irrc
from roman_dask_l2.steps.irrc_params import IrrcParams

BAD = PIXEL["BAD_REF_PIXEL"]
RESULTANTS = 4
OFFSET = 700.0
COMPATIBLE = IrrcParams(
    zero_active=True, skip_zeros=True, two_samples_more=True, replace_amp33=True
)


@dataclasses.dataclass(frozen=True, eq=False)
class Array:
    """A source of an array in memory."""

    values: np.ndarray

    def read(self, window=None):
        return self.values.copy() if window is None else self.values[(..., *window.slices)].copy()


def load_ramp(data, flags):
    return data.astype(np.float32), flags.astype(np.uint32)


LOAD = Step(
    name="load",
    kernel=load_ramp,
    writes=("ramp", "pixeldq"),
    references={"data": "l1.data", "flags": "mask.dq"},
)


def made(n, seed=3):
    """Inputs of a small frame: integers with 1/f-like waves, bad border pixels, equal samples."""
    rng = np.random.default_rng(seed)
    size = n * 140 // 2 + 1
    lines = 60 * rng.normal(size=(RESULTANTS, n, 1)) + np.linspace(0, 50, n)[:, None]
    data = rng.integers(4000, 4100, (RESULTANTS, n, n)) + np.rint(lines)
    data[:, 4:-4, 4:-4] += rng.integers(0, 9000, (n - 8, n - 8))
    data[:, ::7, ::5] = data[0, ::7, ::5]  # equal to their mean
    amp33 = rng.integers(5000, 5050, (RESULTANTS, n, 128)) + np.rint(lines)
    amp33[:, ::3, ::4] = amp33[0, ::3, ::4]
    flags = np.zeros((n, n), np.uint32)
    for y, x in ((1, 5), (n - 2, 130), (60, 2), (61, n - 3), (77, 90), (2, n - 1)):
        flags[y, x] = BAD | 1
    flags[0:4, 200] = 4  # another flag changes nothing
    weights = {
        f"refpix.{name}": Array(
            rng.normal(size=(n // 128, size)) + 1j * rng.normal(size=(n // 128, size))
        )
        for name in ("gamma", "zeta", "alpha")
    }
    sources = weights | {
        "l1.data": Array(data.astype(np.uint16)),
        "mask.dq": Array(flags),
        "l1.amp33": Array((amp33 - 300 + OFFSET).astype(np.uint16)),
        "l1.reference_amp33": Array(np.full((n, 128), 300, np.float32)),
    }
    reads = tuple((i,) for i in range(1, RESULTANTS + 1))
    exposure = Exposure(n, reads, 3.0, encoding_offset=OFFSET)
    return Inputs(exposure, sources, {})


def steps(params):
    return [BoundStep(LOAD, NoParams()), BoundStep(refpix_irrc.step, params)]


def plain(inputs, params):
    """The correction as its formulas read, on the whole frame in memory.

    Returns the ramp and the reference output, both corrected.
    """
    n = inputs.exposure.side
    count, length = n // 128, n * 140
    read = {name: source.read() for name, source in inputs.sources.items()}
    bad = (read["mask.dq"] & BAD) != 0
    bad[4:-4, 4:-4] &= params.zero_active
    data = np.where(bad, 0, read["l1.data"]).astype(np.float32)
    amp33 = read["l1.amp33"].astype(np.float32) + read["l1.reference_amp33"] - np.float32(OFFSET)
    # Channels in the order of reading, the reference output last.
    cube = np.concatenate([data, amp33], axis=2)
    mean = cube.mean(0, dtype=float).astype(np.float32)
    if not params.remove_offset:
        mean[:] = 0
    cube = (cube - mean).reshape(RESULTANTS, n, count + 1, 128)
    missing = np.concatenate([bad, np.zeros((n, 128), bool)], 1).reshape(n, count + 1, 128)
    cube, missing = np.moveaxis(cube, 2, 1).copy(), np.moveaxis(missing, 1, 0).copy()
    cube[:, 1:count:2], missing[1:count:2] = (
        cube[:, 1:count:2, :, ::-1],
        missing[1:count:2, :, ::-1],
    )
    t = np.arange(n)[:, None] * 140 + np.arange(128) - (length - 1) / 2
    ends = np.r_[0:4, n - 4 : n]
    out, stored = np.empty_like(data), np.empty((RESULTANTS, n, 128), np.uint16)
    for j in range(RESULTANTS):
        used = ~missing & ((cube[j] != 0) | (not params.skip_zeros))
        for c in range(count + 1):
            if params.remove_trends:
                some = used[c][ends]
                m, b = np.polyfit(t[ends][some], cube[j, c][ends][some].astype(float), 1)
                line = float(np.float32(m)) * t + float(np.float32(b))
                cube[j, c] = np.where(used[c], (cube[j, c] - line).astype(np.float32), cube[j, c])
        padded = np.zeros((count + 1, n, 140), np.float32)
        padded[..., :128] = cube[j]
        output, gap = padded[-1], np.ones((n, 140), bool)
        gap[:, :128] = (output[:, :128] == 0) & params.skip_zeros
        if params.cosine_interpolate:
            w = np.sin(np.pi * np.arange(1, 33) / 32)
            where = np.flatnonzero(gap)
            near = where[:, None] + np.arange(1, 33) - 16
            ok = (near >= 0) & (near < length)
            near = near.clip(0, length - 1)
            w = w * (ok & ~gap.ravel()[near])
            w[:, 31] = 0  # sin(pi), but for rounding
            values = (w * output.ravel()[near]).sum(1) / np.where(w.any(1), w.sum(1), 1)
            output.ravel()[where] = values
        if params.fft_interpolate:
            low = (1 + np.cos(2 * np.pi * np.arange(length // 2 + 1) / length)) / 2
            for _ in range(3):
                smooth = np.fft.irfft(np.fft.rfft(output.ravel().astype(float)) * low, length)
                output[:, 128:] = smooth.reshape(n, 140)[:, 128:]
        first, last = np.zeros((n, 140)), np.zeros((n, 140))
        first[:, :4] = padded[0][:, :4]
        side = slice(0, 4) if count % 2 == 0 else slice(124, 128)
        last[:, side] = padded[count - 1][:, side]
        left, right, common = (
            np.fft.rfft(series.ravel()) / length for series in (first * 35, last * 35, output)
        )
        for c in range(count):
            spectrum = read["refpix.gamma"][c] * left + read["refpix.zeta"][c] * right
            spectrum += read["refpix.alpha"][c] * common
            scale = length + 2 * params.two_samples_more
            fix = np.fft.irfft(spectrum * scale, length).reshape(n, 140)[:, :128]
            values = padded[c, :, :128] - fix.astype(np.float32)
            values = values[:, ::-1] if c % 2 else values
            out[j, :, 128 * c : 128 * c + 128] = values + mean[:, 128 * c : 128 * c + 128]
        stored[j] = np.abs(output[:, :128] + mean[:, n:])
    return out, stored


@pytest.fixture(scope="module", params=[256, 384], ids=["even", "odd"])
def inputs(request):
    return made(request.param)


def whole(inputs, params):
    """The ramp as one tile, without Dask, and what was measured."""
    n, bound = inputs.exposure.side, steps(params)
    measured = kernels.measure(bound, inputs)
    tile = Tile(Window(0, n, 0, n), n)
    return kernels.run_steps(bound, {}, tile, inputs, measured)["ramp"], measured["refpix_irrc"]


def computed(lazy, scheduler="synchronous"):
    with dask.config.set(scheduler=scheduler):
        return dask.compute(lazy.arrays["ramp"])[0]


@pytest.mark.parametrize(
    "params",
    [
        IrrcParams(replace_amp33=True),
        COMPATIBLE,
        COMPATIBLE.model_copy(update={"remove_offset": False}),
        IrrcParams(remove_trends=False, replace_amp33=True),
        IrrcParams(cosine_interpolate=False, replace_amp33=True),
        COMPATIBLE.model_copy(update={"fft_interpolate": False}),
    ],
    ids=["default", "compatible", "no offset", "no trends", "no cosine", "no smoothing"],
)
def test_the_formulas(inputs, params):
    expected, stored = plain(inputs, params)
    ramp, measured = whole(inputs, params)
    difference = np.abs(ramp - expected)
    change = np.abs(expected - inputs.sources["l1.data"].read())
    assert ramp.dtype == np.float32
    assert np.median(change) > 1, "what is compared is not small"
    # Transforms in single precision: a few parts in a million of the correction.
    assert difference.max() < 3e-6 * change.max()
    off = measured["amp33"].astype(int) - stored
    assert np.abs(off).max() <= 1  # truncated
    assert np.mean(off != 0) < 1e-3


def test_each_option_changes_the_ramp(inputs):
    default, _ = whole(inputs, IrrcParams())
    switched = {
        "zero_bad": False,
        "remove_offset": False,
        "remove_trends": False,
        "cosine_interpolate": False,
        "fft_interpolate": False,
        "zero_active": True,
        "skip_zeros": True,
        "two_samples_more": True,
    }
    for name, value in switched.items():
        ramp, _ = whole(inputs, IrrcParams(**{name: value}))
        assert not np.array_equal(ramp, default), name
    same, measured = whole(inputs, IrrcParams(replace_amp33=True))
    np.testing.assert_array_equal(same, default)
    assert "amp33" in measured
    assert set(switched) | {"replace_amp33", "shift_options"} == set(IrrcParams.model_fields)


@pytest.mark.parametrize("per_step", [False, True], ids=["fused", "per step"])
@pytest.mark.parametrize("tile", [(64, 256), (100, 77), (384, 384)], ids=str)
@pytest.mark.parametrize("stored", [False, True], ids=["memory", "store"])
def test_same_bits_for_any_tiles(inputs, tile, per_step, stored, tmp_path):
    n = inputs.exposure.side
    grid = Grid(n, (min(tile[0], n), min(tile[1], n)))
    expected, _ = whole(inputs, COMPATIBLE)
    bound = steps(COMPATIBLE)
    if not stored:
        lazy = graph.build(bound, inputs, grid, ["ramp"], per_step)
        assert lazy.spilled == []
        np.testing.assert_array_equal(computed(lazy), expected)
        return
    with temp_store(tmp_path, 0) as store:
        lazy = graph.build(bound, inputs, grid, ["ramp"], per_step, scratch=store)
        (target,) = lazy.spilled
        np.testing.assert_array_equal(computed(lazy, "threads"), expected)
        assert target.read().any()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_same_bits_on_a_cluster(tmp_path):
    inputs = made(256)
    expected, _ = whole(inputs, COMPATIBLE)
    with (
        temp_store(tmp_path, 0) as store,
        running("local-cluster", workers=2, threads=1) as client,
    ):
        grid = Grid(256, (100, 256))
        lazy = graph.build(steps(COMPATIBLE), inputs, grid, ["ramp"], scratch=store)
        np.testing.assert_array_equal(client.compute(lazy.arrays["ramp"]).result(), expected)
    assert list(tmp_path.iterdir()) == []


def test_spectra_are_not_handed_to_tiles(inputs):
    _, measured = whole(inputs, COMPATIBLE)
    assert set(measured) == {"slope", "level", "amp33", "correction"}


def test_bad_pixels_are_lost_and_seen_by_none(inputs):
    """The value of a bad pixel is nowhere in the result."""
    for params in (IrrcParams(zero_active=True), IrrcParams()):
        expected, _ = whole(inputs, params)
        data, flags = (inputs.sources[name].read() for name in ("l1.data", "mask.dq"))
        lost = flags & BAD != 0
        lost[4:-4, 4:-4] &= params.zero_active
        data[:, lost] = 65000
        changed = dataclasses.replace(inputs, sources={**inputs.sources, "l1.data": Array(data)})
        np.testing.assert_array_equal(whole(changed, params)[0], expected)


def test_a_frame_that_is_its_own_trend_becomes_constant():
    """Slow drifts that all pixels of a channel share are gone; the pixels' means stay."""
    inputs = made(256)
    n = inputs.exposure.side
    pixels = np.random.default_rng(1).integers(3000, 9000, (n, n)).astype(float)
    time = np.arange(n)[:, None] * 140 + np.r_[0:128, 127:-1:-1]
    drift = np.array([-3, -1, 1, 3])[:, None, None] * (5 + 0.001 * time)
    nothing = Array(np.zeros((2, n * 70 + 1), complex))
    sources = {**inputs.sources, "l1.data": Array(pixels + drift)}
    sources |= dict.fromkeys(("refpix.gamma", "refpix.zeta", "refpix.alpha"), nothing)
    sources["mask.dq"] = Array(np.zeros((n, n), np.uint32))
    ramp, _ = whole(dataclasses.replace(inputs, sources=sources), IrrcParams())
    np.testing.assert_allclose(ramp, np.broadcast_to(pixels, ramp.shape), atol=2e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_coefficients_that_are_not_finite(inputs, value):
    zeta = inputs.sources["refpix.zeta"].read()
    zeta[1, 17] = value
    changed = dataclasses.replace(inputs, sources={**inputs.sources, "refpix.zeta": Array(zeta)})
    with pytest.raises(InputError, match=r"CALDIR.refpix: zeta has .* in channel 2"):
        whole(changed, IrrcParams())


def test_a_border_without_any_good_pixel():
    """Nothing is subtracted from a channel whose border rows are all bad."""
    inputs = made(256)
    flags = inputs.sources["mask.dq"].read()
    flags[:4, :128] |= BAD
    flags[-4:, :128] |= BAD
    changed = dataclasses.replace(inputs, sources={**inputs.sources, "mask.dq": Array(flags)})
    ramp, measured = whole(changed, IrrcParams())
    assert np.isfinite(ramp).all()
    assert not measured["slope"][:, 0].any()
    assert measured["slope"][:, 1].all()


def test_memory_of_the_spectra():
    """What `holds` says is an upper limit that is not far off."""
    inputs = made(512)
    exposure, n = inputs.exposure, 512
    partials = [
        irrc_spectra.border_pixels(
            inputs.sources["l1.data"].read(w).astype(np.float32),
            inputs.sources["mask.dq"].read(w),
            params=COMPATIBLE,
        )
        for w in irrc_spectra.border_strips(exposure, COMPATIBLE)
    ]
    amp33 = inputs.sources["l1.amp33"].read()
    irrc_spectra.spectra(partials, amp33, None, exposure=exposure, params=COMPATIBLE)
    tracemalloc.start()
    irrc_spectra.spectra(partials, amp33, None, exposure=exposure, params=COMPATIBLE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    said = irrc_spectra.spectra_bytes(exposure, COMPATIBLE)
    assert 0.5 * said < peak < said
    window = Window(0, n, 128, 256)
    parts = refpix_irrc.coefficients_of(window)
    weights = {k: inputs.sources[f"refpix.{k}"].read(parts) for k in ("gamma", "zeta", "alpha")}
    spectra = {k: np.ones((4, n * 70 + 1), np.complex64) for k in ("left", "right", "output")}
    given = {"window": window, "plane": 1, "measured": spectra, "params": COMPATIBLE}
    tracemalloc.start()
    refpix_irrc.correction(**weights, **given)
    peak = tracemalloc.get_traced_memory()[1] + 3 * weights["gamma"].nbytes
    tracemalloc.stop()
    said = refpix_irrc.correction_bytes(exposure, COMPATIBLE)
    assert 0.5 * said < peak < said


def test_a_declaration_must_fit_its_functions():
    def kernel(ramp, correction):
        return ramp

    def make(plane):
        return np.zeros(1)

    reduction = Reduction(
        windows=irrc_spectra.border_strips,
        partial=irrc_spectra.border_pixels,
        combine=lambda partials: {},
        reads=("ramp", "pixeldq"),
    )
    given = {"name": "x", "kernel": kernel, "reads": ("ramp",), "writes": ("ramp",)}
    spill = Spill("correction", "float32", refpix_irrc.channels, make)
    with pytest.raises(TypeError, match="make make does not match"):
        Step(**given, reduction=reduction, spill=spill)
    with pytest.raises(TypeError, match="a spill needs a thin reduction"):
        Step(**given, spill=refpix_irrc.step.spill)
    with pytest.raises(TypeError, match="takes undeclared"):
        Step(**given, reduction=reduction)


def test_a_scalar_source_is_not_needed():
    """The frame has no reference read of the reference output: zero."""
    inputs = made(256)
    without = {k: v for k, v in inputs.sources.items() if k != "l1.reference_amp33"}
    zero = {**without, "l1.reference_amp33": Constant(np.zeros((256, 128), np.float32))}
    ramps = [
        whole(dataclasses.replace(inputs, sources=sources), IrrcParams())[0]
        for sources in (without, zero)
    ]
    np.testing.assert_array_equal(*ramps)


def test_options_that_are_shifted():
    """romancal 1.1 obeys for each option the one that follows it."""
    names = "zero_bad", "remove_offset", "remove_trends", "cosine_interpolate", "fft_interpolate"
    assert IrrcParams(shift_options=True).in_force == IrrcParams()
    for i, name in enumerate(names):
        shifted = IrrcParams(**{name: False}, shift_options=True).in_force
        expected = {names[i - 1]: False} if i else {}
        assert shifted == IrrcParams(**expected)
