"""One odd number in a reference file or the exposure stays where it is, and is flagged there."""

from __future__ import annotations

import shutil

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise

SIDE = 256
RECIPES = ["l1_to_l2", "romanimpreprocess_1.0"]
LAYERS = ["Rz4S2", "RaS1", "Prb2", "O"]
ODD = [np.nan, np.inf, -np.inf, 0.0, -1.0, -1e30, 1e30, 1e-40]
# What is looked at around an odd pixel: two terms of the IPC inversion, and beyond them the growth
# of saturation, twice one pixel.
HALO = 4
FRAMES = {
    "gain": ["data"],
    "flat": ["data"],
    "read": ["data", "resetnoise"],
    "dark": ["data", "dark_slope"],
    "saturation": ["data"],
    "biascorr": ["data"],
    "ipc4d": ["data"],
    "linearitylegendre": ["data", "Smin", "Smax", "Sref"],
}
"""Arrays that cover the detector; of those with planes, one pixel has all of them odd and further
pixels one each."""
DNU = PIXEL["DO_NOT_USE"]


def _write(source, target, edit):
    with asdf.open(source, lazy_load=False, memmap=False) as file:
        tree = dict(file.tree)
        edit(tree["roman"])
        asdf.AsdfFile(tree).write_to(target)


def _odd(array, pixel, value, plane=...):
    """A writable copy with a value at a pixel of the full frame."""
    unit = getattr(array, "unit", None)
    values = np.array(getattr(array, "value", array))
    shift = (SIDE - values.shape[-1]) // 2
    y, x = (v - shift for v in pixel)
    kind = values.dtype
    place = (..., y, x) if plane is ... else (*plane, y, x)
    values[place] = np.clip(value, 0, 65535) if kind.kind == "u" else value
    return values if unit is None else values * unit


def _run(simulation, folder, recipe, caldir=None, l1=None):
    config = yaml.safe_load(simulation.config.read_text())
    base = simulation.config.parent
    config |= {"IN": str(l1 or base / config["IN"]), "FITSWCS": str(base / config["FITSWCS"])}
    config["CALDIR"] = {
        k: str((caldir or {}).get(k, base / v)) for k, v in config["CALDIR"].items()
    }
    config |= {"OUT": str(folder / "l2.asdf"), "GRAPH": recipe, "SKYORDER": 2, "SLICEOUT": True}
    noise = {"LAYER": LAYERS, "TEMP": str(folder), "SEED": 3, "OUT": str(folder / "noise.asdf")}
    config["NOISE"] = noise
    calibrate(config, scheduler="synchronous")
    generate_noise(config, scheduler="synchronous")
    with asdf.open(folder / "l2.asdf", lazy_load=False, memmap=False) as file:
        names = ("data", "data_withsky", "err", "dq", "var_poisson")
        found = {name: np.array(file["roman"][name]) for name in names}
        found["info"] = dict(file["processinfo"])
    with asdf.open(folder / "noise.asdf", lazy_load=False, memmap=False) as file:
        found["noise"] = np.array(file["noise"])
        found["statistics"] = [dict(line) for line in file["statistics"]]
    return found


@pytest.fixture(scope="module")
def simulation(simulated):
    return simulated(side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0)


@pytest.fixture(scope="module", params=RECIPES)
def clean(request, simulation, tmp_path_factory):
    recipe = request.param
    return recipe, _run(simulation, tmp_path_factory.mktemp("clean"), recipe)


def _places():
    """Pixels that lie apart, all over the active array."""
    for y in range(14, SIDE - 14, 2 * HALO + 8):
        for x in range(14, SIDE - 14, 2 * HALO + 8):
            yield y, x


def _with_odd_pixels(simulation, folder, value, pixels):
    """Copies of the files in which each array has the odd value at a pixel of its own."""
    base = simulation.config.parent
    config = yaml.safe_load(simulation.config.read_text())
    at, caldir = {}, {}
    for key, names in FRAMES.items():

        def edit(tree, key=key, names=names):
            for name in names:
                shape = tree[name].shape
                planes = [...] + (list(np.ndindex(shape[:-2])) if len(shape) > 2 else [])
                for plane in planes:
                    at[f"{key}.{name}{'' if plane is ... else list(plane)}"] = pixel = next(pixels)
                    tree[name] = _odd(tree[name], pixel, value, plane)

        caldir[key] = folder / f"{key}.asdf"
        _write(base / config["CALDIR"][key], caldir[key], edit)
    return caldir, at


def _near(at):
    """Active pixels within the halo of one of these pixels of the full frame."""
    near = np.zeros((SIDE, SIDE), bool)
    for y, x in at.values():
        near[max(y - HALO, 0) : y + HALO + 1, max(x - HALO, 0) : x + HALO + 1] = True
    return near[4:-4, 4:-4]


def _check_numbers(found, clean):
    """No number without a flag, no statistic that one pixel has moved."""
    for name in ("data", "data_withsky", "err"):
        bad = ~np.isfinite(found[name])
        assert (found["dq"][bad] & DNU).all(), name
    assert np.isfinite(found["noise"]).all()
    info, before = found["info"], clean["info"]
    for name in ("medsky", "medgain"):
        assert info[name] == pytest.approx(before[name], rel=2e-2)
    assert info["skyorder"] == 2
    np.testing.assert_allclose(info["skycoefs"], before["skycoefs"], atol=5e-3)
    for line, then in zip(found["statistics"], clean["statistics"], strict=True):
        assert line["median"] == pytest.approx(then["median"], abs=0.02 * then["sigma"])
        assert line["sigma"] == pytest.approx(then["sigma"], rel=0.02)


@pytest.mark.parametrize("value", ODD)
def test_one_odd_pixel_in_each_array(value, clean, simulation, tmp_path):
    recipe, clean = clean
    caldir, at = _with_odd_pixels(simulation, tmp_path, value, _places())
    found = _run(simulation, tmp_path, recipe, caldir)
    _check_numbers(found, clean)
    near = _near(at)
    for name in ("data_withsky", "err", "var_poisson", "dq"):
        np.testing.assert_array_equal(found[name][~near], clean[name][~near], name)
    # The package leaves a whole cell out of the sky for one NaN.
    tolerance = 2e-3 if recipe == "l1_to_l2" else 1e-2
    np.testing.assert_allclose(found["data"][~near], clean["data"][~near], atol=tolerance)
    if recipe == "l1_to_l2":
        for name, (y, x) in at.items():
            if name == "dark.dark_slope" and abs(value) == 1:  # DN/s: it may be a hot pixel's
                continue
            change = abs(found["data_withsky"] - clean["data_withsky"])[y - 4, x - 4]
            same = change < 5 * clean["err"][y - 4, x - 4]
            assert same or found["dq"][y - 4, x - 4] != 0, f"{name}: {change} without a flag"
    shutil.rmtree(tmp_path)


def _with_odd_border(simulation, folder, value):
    """Copies of all files in which each array is odd at a reference pixel, or at a pixel of the
    reference output."""
    base = simulation.config.parent
    config = yaml.safe_load(simulation.config.read_text())
    caldir = {}
    for key, names in FRAMES.items():
        names = [name for name in names if (key, name) not in (("biascorr", "data"),)]
        if key == "ipc4d":
            names = []

        def edit(tree, key=key, names=names):
            for name in names:
                for pixel in ((1, 37), (SIDE - 2, 150), (99, 2), (140, SIDE - 1)):
                    tree[name] = _odd(tree[name], pixel, value)
            if key == "read":
                for name in ("med", "std"):
                    tree["amp33"][name] = array = np.array(tree["amp33"][name])
                    array[77, 31] = value

        caldir[key] = folder / f"{key}.asdf"
        _write(base / config["CALDIR"][key], caldir[key], edit)

    def edit_l1(tree):
        read, output = np.zeros((SIDE, SIDE), np.uint16), np.zeros((SIDE, 128), np.uint16)
        read[[2, 70], [201, 1]], output[50, 60] = 65535, 65535
        tree["reference_read"], tree["reference_amp33"] = read, output

    l1 = folder / "l1.asdf"
    _write(base / config["IN"], l1, edit_l1)
    return caldir, l1


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e30, 0.0])
def test_odd_reference_pixels(value, clean, simulation, tmp_path):
    """One value more or less among 512 of a channel's end, or 128 of a row: hardly a change."""
    recipe, clean = clean
    caldir, l1 = _with_odd_border(simulation, tmp_path, value)
    found = _run(simulation, tmp_path, recipe, caldir, l1)
    _check_numbers(found, clean)
    # The median of 512 values of 5 DN moves by a hundredth of that, over a minute.
    np.testing.assert_allclose(found["data_withsky"], clean["data_withsky"], atol=5e-3)
    np.testing.assert_array_equal(found["dq"], clean["dq"])
    if recipe == "l1_to_l2" and not np.isfinite(value):
        assert found["info"]["left_out"]["refpix"] > 0
    shutil.rmtree(tmp_path)


def test_no_noise_amplitude_of_the_read_file_is_a_number(clean, simulation, tmp_path, caplog):
    """Then rows are not corrected, and it is said."""
    recipe, clean = clean

    def edit(tree):
        tree["anc"] |= {"C_PINK": float("nan"), "U_PINK": float("inf")}
        tree["amp33"] |= {"M_PINK": float("nan"), "RU_PINK": 1e300}

    config = yaml.safe_load(simulation.config.read_text())
    base, read = simulation.config.parent, tmp_path / "read.asdf"
    _write(base / config["CALDIR"]["read"], read, edit)
    found = _run(simulation, tmp_path, recipe, {"read": read})
    for name in ("data", "err", "noise"):
        assert np.isfinite(found[name]).all()
    assert np.mean(found["dq"] != clean["dq"]) < 1e-3  # some are jumps with rows as they are
    np.testing.assert_allclose(found["data_withsky"], clean["data_withsky"], atol=0.1)
    assert "rows are not corrected" in caplog.text


def test_a_gain_of_zero_in_each_sky_cell(clean, simulation, tmp_path, caplog):
    recipe, clean = clean
    config = yaml.safe_load(simulation.config.read_text())
    base, gain = simulation.config.parent, tmp_path / "gain.asdf"
    at = {(i, j): (20 + 31 * i, 20 + 31 * j) for i in range(8) for j in range(8)}

    def edit(tree):
        for pixel in at.values():
            tree["data"] = _odd(tree["data"], pixel, 0.0)

    _write(base / config["CALDIR"]["gain"], gain, edit)
    found = _run(simulation, tmp_path, recipe, {"gain": gain})
    for y, x in at.values():
        assert found["dq"][y - 4, x - 4] & PIXEL["NO_GAIN_VALUE"]
    near = _near(at)
    np.testing.assert_array_equal(found["dq"][~near], clean["dq"][~near])
    assert np.isfinite(found["noise"]).all()
    if recipe == "l1_to_l2":
        _check_numbers(found, clean)
        assert np.isfinite(found["data"]).all()
        return
    # The package leaves NaN out of the cells' medians, so that the sky is subtracted all the same.
    assert found["info"]["skyorder"] == 2
    assert found["info"]["left_out"].get("sky_cells", 0) == 0
    assert (found["data"] != found["data_withsky"])[~near].all()
    assert "no sky is subtracted" not in caplog.text
