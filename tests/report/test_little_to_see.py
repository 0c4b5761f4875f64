"""Reports on images and noise files in which little or nothing is usable."""

from __future__ import annotations

import shutil
import warnings

import asdf
import numpy as np
import pytest
from rewriting import rewrite_array

from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report import write_report
from roman_dask_l2.simulation.simulate import simulate

SIDE = 256


def simulated(folder):
    noise = {"LAYER": ["PS2", "RS2"], "TEMP": ".", "SEED": 1, "OUT": "noise.asdf"}
    return simulate(
        folder, side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0,
        config={"NOISE": noise},
    )  # fmt: skip


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    made = simulated(tmp_path_factory.mktemp("good"))
    calibrate(made.config)
    generate_noise(made.config)
    return made


@pytest.fixture
def report(drawn):
    """``report(config)``: its text; a warning of NumPy or matplotlib is an error."""

    def write(config):
        with warnings.catch_warnings(), drawn():
            warnings.simplefilter("error", RuntimeWarning)
            warnings.simplefilter("error", UserWarning)
            return write_report(config).read_text()

    return write


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "array", "value", "words"),
    [
        ("mask", "dq", 1, ["DO_NOT_USE"]),
        ("saturation", "data", 1, ["DO_NOT_USE", "SATURATED"]),
    ],
)
def test_nothing_but_flags(file, array, value, words, report, tmp_path):
    made = simulated(tmp_path)
    rewrite_array(made.caldir[file], array, lambda a: np.full_like(a, value))
    calibrate(made.config)
    generate_noise(made.config)
    text = report(made.config)
    for word in words:
        assert f"All pixels are flagged {word}: there is no image." in text
    assert "Noise layer PS2" in text


def _infinite_columns(a):
    a[..., ::50] = np.inf
    return a


CHANGES = {
    "noise NaN": ("noise", ("noise",), lambda a: a * np.nan, f"PS2: {248**2} pixels are not"),
    "noise inf": ("noise", ("noise",), _infinite_columns, f"PS2: {5 * 248} pixels are not"),
    "rate": ("l2", ("roman", "data_withsky"), lambda a: a * np.nan, "rate that is not finite"),
    "data": ("l2", ("roman", "data"), lambda a: a * np.nan, "rate that is not finite"),
    "error": ("l2", ("roman", "err"), lambda a: a * np.nan, "error that is not finite"),
    "variance": ("l2", ("roman", "var_poisson"), lambda a: a * np.nan, "Noise layer RS2"),
    "no error": ("l2", ("roman", "err"), lambda a: a * 0, "Noise layer RS2"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "key", "change", "words"), CHANGES.values(), ids=CHANGES)
def test_arrays_that_are_not_finite(name, key, change, words, good, report, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(good.directory, folder)
    path = folder / f"{name}.asdf"
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        node = file.tree
        for part in key[:-1]:
            node = node[part]
        node[key[-1]] = change(np.array(node[key[-1]]))
        if name == "noise":
            for line in file["statistics"]:
                line["median"] = line["sigma"] = float("nan")
        file.write_to(f"{path}.new")
    shutil.move(f"{path}.new", path)
    text = report(folder / "config.yaml")
    assert words in text
    assert "Noise layer RS2" in text
