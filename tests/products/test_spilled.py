"""Corrections that go to disk: a calibration and its noise layers with them, and what is left."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.step import Tile
from roman_dask_l2.engine import kernels, plan, spilling
from roman_dask_l2.errors import InputError
from roman_dask_l2.io import spill
from roman_dask_l2.products import memory, scratch
from roman_dask_l2.products.job import prepare, temp_needed
from roman_dask_l2.products.level2 import calibrate, l1_to_l2
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report.pixel import look_at_pixel
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256
LABELS = ["R", "RaS2", "RP"]
STEPS = ["dq_init", "saturation", "refpix_irrc", "bias", "dark_decay", "linearity", "dark", "ipc"]
STEPS += ["ramp_fit", "flat", "mask", "medsky", "sky"]


def write_weights(path, scale=0.2):
    """Weights of the observatory's reference-pixel correction."""
    rng = np.random.default_rng(5)
    shape = SIDE // 128, SIDE * 70 + 1
    fade = scale / (1 + np.arange(shape[1]) / 50)
    meta = {"reftype": "REFPIX", "instrument": {"name": "WFI", "detector": "WFI01"}}
    arrays = {
        name: (rng.normal(size=shape) + 1j * rng.normal(size=shape)) * fade
        for name in ("gamma", "zeta", "alpha")
    }
    asdf.AsdfFile({"roman": {"meta": meta, **arrays}}).write_to(path)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A calibrated exposure with a NOISE block, and its layers; not to be changed."""
    folder = tmp_path_factory.mktemp("spilled")
    (folder / "scratch").mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "spilling", "description": "x", "steps": STEPS}))
    noise = {"LAYER": LABELS, "TEMP": "scratch", "SEED": 3, "OUT": "noise.asdf"}
    config = {"NOISE": noise, "SKYORDER": 1, "GRAPH": "./recipe.yaml", "SLICEOUT": True}
    made = simulate(folder, side=SIDE, seed=8, config=config)
    write_weights(folder / "weights.asdf")
    raw = yaml.safe_load(made.config.read_text())
    raw["CALDIR"]["refpix"] = "weights.asdf"
    made.config.write_text(yaml.safe_dump(raw))
    calibrate(made.config)
    generate_noise(made.config)
    return folder


@pytest.fixture
def case(calibrated, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(calibrated, tmp_path / "case")
    return tmp_path / "case"


def images(folder):
    """All images of the L2 file."""
    config = load_config(folder / "config.yaml")
    with asdf.open(config.OUT, memmap=False, lazy_load=False) as file:
        names = ("data", "data_withsky", "dq", "err", "amp33", "border_ref_pix_left")
        return {name: np.array(file["roman"][name]) for name in names}


def layers(folder):
    with asdf.open(load_config(folder / "config.yaml").NOISE.OUT, memmap=False) as file:
        return np.array(file["noise"])


def assert_same(folder, reference):
    for name, values in images(reference).items():
        np.testing.assert_array_equal(images(folder)[name], values, name)


def stores(folder):
    return list(folder.rglob("*.zarr"))


@pytest.mark.parametrize(
    "how",
    [
        {"tile": (100, 77)},
        {"per_step": True, "tile": (128, 256)},
        {"scheduler": "synchronous"},
        {"scheduler": "local-cluster", "tile": (64, 256)},
    ],
    ids=str,
)
def test_same_bits_and_nothing_left(calibrated, case, how):
    os.remove(load_config(case / "config.yaml").OUT)
    calibrate(case / "config.yaml", **how)
    assert_same(case, calibrated)
    assert stores(case) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"tile": (100, 77)}, {"scheduler": "local-cluster"}], ids=str)
def test_layers_have_the_same_bits(calibrated, case, how):
    os.remove(load_config(case / "config.yaml").NOISE.OUT)
    generate_noise(case / "config.yaml", **how)
    np.testing.assert_array_equal(layers(case), layers(calibrated))
    assert stores(case) == []


def test_layers_went_through_the_correction(calibrated, case, monkeypatch):
    """Each noisy ramp gets a correction of its own, which is dropped with the layer."""
    written, dropped = [], []
    create, drop = spill.TempStore.create, spill.TempStore.drop

    def creating(self, name, *args):
        written.append(name)
        return create(self, name, *args)

    def dropping(self, spilled):
        dropped.append(spilled.name)
        return drop(self, spilled)

    monkeypatch.setattr(spill.TempStore, "create", creating)
    monkeypatch.setattr(spill.TempStore, "drop", dropping)
    os.remove(load_config(case / "config.yaml").NOISE.OUT)
    generate_noise(case / "config.yaml")
    mine = {name for name in written if name.startswith("refpix_irrc")}
    ramps = 3  # one for each layer with R; one for the dark cube that two of them subtract
    assert len(mine) in (ramps, ramps + 1)
    assert len(mine & set(dropped)) == ramps
    assert all(np.std(plane[4:-4]) > 0 for plane in layers(calibrated))


def test_lazy_arrays(calibrated):
    lazy = l1_to_l2(calibrated / "config.yaml", tile=(64, 256))
    np.testing.assert_array_equal(lazy["data"].compute(), images(calibrated)["data"])


def test_a_window_that_is_made_again(calibrated):
    """What reports compute anew, without a store, is what was calibrated."""
    job = prepare(calibrated / "config.yaml")
    last = [bound.name for bound in job.steps].index("mask")
    steps, inside = job.steps[:last], Window(100, 110, 100, 150)
    outer = inside.grown(plan.summed_halo(steps, ["rate"]), SIDE)
    measured = kernels.measure(steps, job.inputs)
    have = kernels.run_steps(steps, {}, Tile(outer, SIDE), job.inputs, measured)
    expected = np.pad(images(calibrated)["data_withsky"], 4)[inside.slices]
    np.testing.assert_array_equal(have["rate"][inside.within(outer)], expected)
    pixel = look_at_pixel(calibrated / "config.yaml", 116, 101)
    assert np.isfinite(pixel.fit["rate"])


# -- where it goes -----------------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch):
    """Directories in which stores are made."""
    found = []
    create = spill.TempStore.create

    def creating(self, *args):
        found.append(os.path.dirname(self.path))
        return create(self, *args)

    monkeypatch.setattr(spill.TempStore, "create", creating)
    return found


@pytest.mark.parametrize("key", ["TEMP", "NOISE.TEMP", "OUT"])
def test_place(case, places, key):
    raw = yaml.safe_load((case / "config.yaml").read_text())
    expected = case
    if key == "TEMP":
        expected = case / "elsewhere"
        expected.mkdir()
        raw["TEMP"] = "elsewhere"
    elif key == "NOISE.TEMP":
        expected = case / "scratch"
    else:
        raw["NOISE"]["TEMP"] = "not/on/this/machine"
    (case / "config.yaml").write_text(yaml.safe_dump(raw))
    calibrate(case / "config.yaml")
    assert places == [str(expected)]
    assert stores(case) == []


def test_no_store_without_a_correction(case, places):
    raw = yaml.safe_load((case / "config.yaml").read_text()) | {"GRAPH": "l1_to_l2"}
    calibrate({**raw, "TEMP": str(case / "nowhere")} | absolute(raw, case))
    assert places == []


def absolute(raw, folder):
    """The paths of a configuration that is not in its folder any more."""
    caldir = {key: str(folder / path) for key, path in raw["CALDIR"].items()}
    found = {"CALDIR": caldir, "NOISE": None}
    return found | {k: str(folder / raw[k]) for k in ("IN", "OUT", "FITSWCS") if k in raw}


@pytest.mark.parametrize(
    ("place", "words"),
    [("nowhere", ["TEMP", "nowhere"]), ("/proc", ["TEMP", "/proc", "not writable"])],
)
def test_no_such_place(case, place, words):
    raw = yaml.safe_load((case / "config.yaml").read_text()) | {"TEMP": place}
    (case / "config.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError) as error:
        calibrate(case / "config.yaml")
    assert all(word in str(error.value) for word in words)
    assert len(error.value.problems) == 1


def test_too_little_space(case, monkeypatch):
    usage = shutil.disk_usage(case)
    small = usage._replace(free=8 * SIDE**2 * 4 - 1)
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda folder: small)
    with pytest.raises(InputError, match=r"NOISE\.TEMP: .*: too little disk space, 2 MB free"):
        calibrate(case / "config.yaml")


def test_weights_that_are_missing(case):
    raw = yaml.safe_load((case / "config.yaml").read_text())
    del raw["CALDIR"]["refpix"]
    (case / "config.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(InputError) as error:
        calibrate(case / "config.yaml")
    assert "required key CALDIR.refpix is missing, step refpix_irrc needs it" in str(error.value)


# -- when it goes wrong --------------------------------------------------------------------------


def test_an_error_leaves_nothing(case, monkeypatch):
    before = set(case.rglob("*"))
    calls = []

    def failing(window, *args):
        calls.append(window)
        if window.x0:
            raise InputError("CALDIR.refpix: no good")
        return writing(window, *args)

    writing = spilling.write_strip
    monkeypatch.setattr("roman_dask_l2.engine.measuring.write_strip", failing)
    with pytest.raises(InputError, match="no good"):
        calibrate(case / "config.yaml")
    assert calls
    assert set(case.rglob("*")) == before


WAITING = r"""
import os, sys, time
from roman_dask_l2.cli.app import main
from roman_dask_l2.engine import graph
from roman_dask_l2.io.spill import Spilled
put = Spilled.put
def slow(self, *args):
    put(self, *args)
    os.write(1, b"put\n")  # in one piece: two threads say it
    time.sleep(1 if sys.argv[2] == "stop" else 60)
Spilled.put = slow
sys.exit(main(["run", sys.argv[1]]))
"""


def started(case, what):
    """A calibration that has begun to write its correction."""
    command = [sys.executable, "-c", WAITING, str(case / "config.yaml"), what]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "put\n"
    assert len(stores(case)) == 1
    return process


def test_interrupted(case):
    process = started(case, "stop")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert stores(case) == []


def test_killed(case):
    """What a killed process leaves is removed by the next run of the exposure."""
    process = started(case, "kill")
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 10
    while stores(case) == [] and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(stores(case)) == 1
    again = subprocess.run(
        [sys.executable, "-m", "roman_dask_l2", "run", str(case / "config.yaml")],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert stores(case) == []


# -- what it costs -------------------------------------------------------------------------------


def test_disk_is_counted(calibrated):
    job = prepare(calibrated / "config.yaml", noise=True)
    frame = job.exposure.n_resultants * SIDE**2 * 4
    needed = scratch.scratch_needed(job.steps, job.exposure)
    assert needed == frame
    with_it = temp_needed(job.exposure, job.layers, needed)
    # Of the three ramps with noise, which run together, and of the one without.
    assert with_it - temp_needed(job.exposure, job.layers) == 4 * frame


def test_memory_is_counted(calibrated):
    """The correction of a tile, and the strips with the spectra that they are made of."""
    job = prepare(calibrated / "config.yaml")
    (bound,) = (b for b in job.steps if b.step.spill)
    r, exposure = job.exposure.n_resultants, job.exposure
    tile = memory.pixel_bytes([bound], job.inputs, ["ramp", "pixeldq"])
    assert tile == memory.SCRATCH + 3 * 4 * r + 4  # as it was, corrected, the correction; flags
    strips = bound.step.reduction.holds(exposure, bound.params)
    strips += 64 * bound.step.spill.holds(exposure, bound.params)
    assert memory.project(job, (32, SIDE), 64) >= memory.BASE + memory.SPARE * strips
