"""Resultants that must not be used, and exposures of many of them, from Level 1 to the layers."""

from __future__ import annotations

import dataclasses
import shutil

import asdf
import numpy as np
import pytest
from rewriting import rewrite_array

from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.dq import GROUP, PIXEL
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.errors import InputError
from roman_dask_l2.noise.poisson import frame_weights
from roman_dask_l2.products import block_noise
from roman_dask_l2.products.level2 import calibrate, l1_to_l2
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report.image_scan import open_image
from roman_dask_l2.report.replay import _ramp, open_replay
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256
DNU, DROPOUT = GROUP["DO_NOT_USE"], GROUP["DROPOUT"]
PLACES = {"DO_NOT_USE": (100, 100), "DROPOUT": (60, 200), "two": (150, 40), "all but one": (30, 30)}
LEFT_OUT = {"DO_NOT_USE": (6,), "DROPOUT": (1,), "two": (3, 7), "all but one": (1, 2, 3, 4, 5, 7)}
SAME = {"DO_NOT_USE", "DROPOUT", "two"}


def simulated(folder, **more):
    noise = {"LAYER": ["P", "O", "PC1", "Pb"], "TEMP": str(folder), "SEED": 1, "OUT": "noise.asdf"}
    plain = {"conditions": "plain", "cosmic_rays": 0, "stars": 0} | more
    return simulate(folder, side=SIDE, seed=3, config={"NOISE": noise, "SKYORDER": None}, **plain)


def spoil(simulation, value):
    """Flag resultants of the L1 file and put something else in their place."""
    flags = np.zeros((8, SIDE, SIDE), np.uint8)
    with asdf.open(simulation.l1, memmap=False, lazy_load=False) as file:
        data = np.array(file["roman"]["data"])
    for name, (y, x) in PLACES.items():
        left_out = list(LEFT_OUT[name])
        flags[left_out, y, x] = DROPOUT if name == "DROPOUT" else DNU
        data[left_out, y, x] = value
    rewrite_array(simulation.l1, "resultantdq", flags)
    rewrite_array(simulation.l1, "data", data)


def results(config, noise=False, **how):
    """Arrays on the full frame, with a border of zeros, so that indices are those of the L1."""
    out = calibrate(config, **how).out
    made = {"noise": generate_noise(config, **how)} if noise else {}
    with asdf.open(out, memmap=False, lazy_load=False) as file:
        arrays = {k: np.array(v) for k, v in file["roman"].items() if np.shape(v) == (248, 248)}
        info = file["processinfo"]
        arrays |= {k: np.array(info[k]) for k in ("endslice", "excluded") if k in info}
    if made:
        with asdf.open(made["noise"].out, memmap=False, lazy_load=False) as file:
            arrays["noise"] = np.array(file["noise"])
    edges = [(4, 4), (4, 4)]
    return {k: np.pad(v, [(0, 0)] * (v.ndim - 2) + edges) for k, v in arrays.items()}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Simulation, results without and with flagged resultants, and the configuration."""
    simulation = simulated(tmp_path_factory.mktemp("excluded"))
    config = load_config(simulation.config)
    clean = results(config, noise=True)
    spoil(simulation, 3000)
    return simulation, config, clean, results(config, noise=True)


def test_the_rate_is_right(case):
    _, _, clean, found = case
    for name in SAME:
        place = PLACES[name]
        error = float(found["err"][place])
        assert found["data_withsky"][place] == pytest.approx(0.396, abs=4 * error)
        assert clean["err"][place] <= error < 3 * clean["err"][place]
        assert found["dq"][place] == (PIXEL["DROPOUT"] if name == "DROPOUT" else 0)
    assert found["dq"][PLACES["all but one"]] == PIXEL["DO_NOT_USE"]


def test_what_stands_there_reaches_nobody(case):
    """Neither neighbours, through the inter-pixel capacitance, nor as saturation or out of range
    of the linearity."""
    simulation, config, clean, found = case
    touched = np.zeros((SIDE, SIDE), bool)
    for place in PLACES.values():
        touched[place] = True
    np.testing.assert_array_equal(found["dq"][~touched], clean["dq"][~touched])
    near = np.zeros_like(touched)
    for y, x in PLACES.values():
        near[y - 2 : y + 3, x - 2 : x + 3] = True
    difference = np.abs(found["data_withsky"] - clean["data_withsky"])
    assert difference[near & ~touched].max() < 0.02
    np.testing.assert_array_equal(found["data_withsky"][~near], clean["data_withsky"][~near])
    other = dataclasses.replace(simulation, l1=simulation.l1.with_name("other.asdf"))
    shutil.copyfile(simulation.l1, other.l1)
    for value in (0, 65535):
        spoil(other, value)
        again = results(config.replace(IN=str(other.l1), OUT="other_l2.asdf"))
        for name in SAME:
            for key in again:
                if key in found and key != "excluded":
                    assert again[key][PLACES[name]] == found[key][PLACES[name]], (key, value)


def test_the_package_fits_them(case):
    _, config, _, found = case
    package = results(config.replace(GRAPH="romanimpreprocess_1.0", OUT="package.asdf"))
    assert "excluded" not in package
    place = PLACES["DO_NOT_USE"]
    assert abs(package["data_withsky"][place] - 0.396) > 5 * found["err"][place]


def test_the_file_says_what_was_left_out(case):
    simulation, config, clean, found = case
    assert "excluded" not in clean
    assert found["excluded"].shape == (1, SIDE, SIDE)
    expected = np.zeros((SIDE, SIDE), np.uint8)
    for name, place in PLACES.items():
        expected[place] = sum(1 << j for j in LEFT_OUT[name])
    np.testing.assert_array_equal(found["excluded"][0], expected)
    with asdf.open(config.OUT, memmap=False) as file:
        assert file["processinfo"]["endslice"].dtype == np.int8


@pytest.mark.parametrize(
    "how", [{"tile": 100}, {"tile": (64, 200), "per_step": True}, {"scheduler": "synchronous"}]
)
def test_same_bits(case, how):
    _, config, _, found = case
    again = results(config, noise=True, **how)
    for name, values in found.items():
        np.testing.assert_array_equal(again[name], values, err_msg=name)


def own_weights(exposure, full, name):
    """K of a pixel of this name, by the textbook."""
    used = [j for j in range(1, 8) if j not in LEFT_OUT[name]]
    if len(used) < 2:
        return full
    c = 0.4 / (1.8 * 6.5**2) * np.minimum.outer(exposure.tbar, exposure.tbar)
    c[np.diag_indices(8)] = 1 / exposure.n_reads + 0.4 / (1.8 * 6.5**2) * exposure.tau
    w = np.linalg.inv(c[np.ix_(used, used)])
    a = np.stack([np.ones(len(used)), exposure.tbar[used]], axis=1)
    k = np.zeros(8)
    k[used] = np.linalg.solve(a.T @ w @ a, a.T @ w)[1]
    return k


def fits_of_light(patch):
    """Fits that light layers will be drawn with, by the row of blocks, and their exposure."""
    fits, exposures = {}, []
    read = block_noise.FixedFit.read

    def noted(self, blocks, exposure):
        fit = read(self, blocks, exposure)
        fits[blocks.y0 // 128] = fit
        exposures.append(exposure)
        return fit

    patch.setattr(block_noise.FixedFit, "read", noted)
    return fits, exposures


def test_light_layers_have_the_weights_of_the_fit(case, monkeypatch):
    """And all other pixels have what they would have without such neighbours."""
    _, config, _, found = case
    with monkeypatch.context() as patch:
        fits, exposure = fits_of_light(patch)
        generate_noise(config, scheduler="synchronous")
    touched = np.zeros((SIDE, SIDE), bool)
    for name, (y, x) in PLACES.items():
        fit = fits[y // 128]
        k = fit.weights[fit.rows[y % 128, x]]
        expected = own_weights(exposure[0], fit.weights[8], name)
        np.testing.assert_allclose(k, expected, rtol=2e-3, atol=1e-7)
        touched[y, x] = name in SAME
    monkeypatch.setattr(block_noise, "own_weights", lambda ends, excluded, k, **more: (ends, k))
    with asdf.open(generate_noise(config).out, memmap=False, lazy_load=False) as file:
        full = np.pad(np.array(file["noise"]), [(0, 0), (4, 4), (4, 4)])
    np.testing.assert_array_equal(full != found["noise"], np.broadcast_to(touched, full.shape))


def test_a_report_shows_the_fit_that_was_made(case):
    _, config, _, found = case
    replay = open_replay(open_image(config.OUT))
    y, x = PLACES["two"]
    ramp = _ramp(replay, "normal", y - 4, x - 4)
    assert np.flatnonzero(ramp.excluded).tolist() == [0, 3, 7]
    assert ramp.rate > 0


# -- partial saturation ---------------------------------------------------------------------------


@pytest.mark.parametrize("backup", [0, 1])
def test_partially_saturated_resultants_are_not_fitted(tmp_path, backup):
    simulation = simulated(tmp_path, conditions="saturation")
    config = load_config(simulation.config).replace(SATURATION_BACKUP=backup)
    found = results(config)
    with asdf.open(simulation.truth, memmap=False, lazy_load=False) as file:
        truth = np.pad(np.array(file["truth"]["rate"]), 4)
    wanted = PIXEL["SATURATED"] | PIXEL["DO_NOT_USE"] | PIXEL["NO_LIN_CORR"]
    looked = (found["dq"] & wanted) == PIXEL["SATURATED"]
    assert looked.sum() > 30
    pull = (found["data_withsky"] - truth)[looked] / found["err"][looked]
    assert pull.min() > -8
    if backup == 0:
        own = tmp_path / "own.yaml"
        own.write_text(RECIPE)
        fitted = results(config.replace(GRAPH=str(own), OUT=str(tmp_path / "all.asdf")))
        worse = (fitted["data_withsky"] - truth)[looked] / fitted["err"][looked]
        assert worse.min() < -15


RECIPE = """
steps: [dq_init, saturation, refpix, bias, dark_decay, wfi18_transient, linearity, dark, ipc,
        ramp_fit: {dark_noise: true, ipc_noise: true, exclude: false}, flat, mask, medsky, sky]
"""


# -- many resultants ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_exposure(tmp_path_factory):
    """140 resultants; a block of pixels saturates at 135."""
    pattern = [[i] for i in range(140)]
    folder = tmp_path_factory.mktemp("long")
    simulation = simulated(folder, read_pattern=pattern, frame_time=1.0)
    with asdf.open(simulation.l1, memmap=False, lazy_load=False) as file:
        data = np.array(file["roman"]["data"])
    data[135:, 100:110, 100:110] = 65535
    data[3:, 60:62, 60:62] = 65535
    rewrite_array(simulation.l1, "data", data)
    flags = np.zeros(data.shape, np.uint8)
    flags[130, 200, 200:210] = DNU
    rewrite_array(simulation.l1, "resultantdq", flags)
    config = load_config(simulation.config)
    return config, results(config, noise=True)


def test_endslice_holds_any_resultant(long_exposure):
    config, found = long_exposure
    assert (found["endslice"][101:109, 101:109] == 134).all()
    assert (found["endslice"][60:62, 60:62] == 2).all()
    assert found["endslice"].min() == -1
    with asdf.open(config.OUT, memmap=False) as file:
        assert file["processinfo"]["endslice"].dtype == np.int16
    assert l1_to_l2(config)["endslice"].dtype == np.int16
    xarray = pytest.importorskip("xarray")
    from roman_dask_l2.io.dataset import open_l2

    image = open_l2(config.OUT)
    assert isinstance(image, xarray.Dataset)
    assert image.endslice.values.max() == 134
    assert found["excluded"].shape[0] == 18
    assert (found["excluded"][130 // 8, 200, 200:210] == 1 << 130 % 8).all()


def test_light_layers_of_many_resultants(long_exposure, monkeypatch):
    """Pixels that saturate at 135 have the noise of their two-point fit."""
    config, _ = long_exposure
    fits, exposure = fits_of_light(monkeypatch)
    generate_noise(config, scheduler="synchronous")
    rows = fits[0].rows
    assert (rows[101:109, 101:109] == 135).all()
    k = fits[0].weights[rows[105, 105]]
    assert np.flatnonzero(k).tolist() == [1, 134]
    assert frame_weights(exposure[0], k)[50] == pytest.approx(1 / 133)


def test_more_resultants_than_an_index_can_hold():
    exposure = Exposure(256, ((0,), (1,), (2,)), 1.0)
    many = tuple((i,) for i in range(32768))
    with pytest.raises(InputError, match="32768 resultants, expected at most 32767"):
        dataclasses.replace(exposure, read_pattern=many)
