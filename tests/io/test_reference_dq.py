"""Flags that a reference file brings are the pixel's, whatever the file."""

from __future__ import annotations

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.core.dq import PIXEL
from roman_dask_l2.io.references import ARRAYS
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.validation import find_problems

SIDE = 256
NOT_OF_THE_SURVEY = {"linearity", "inverselinearity"}
FLAGS = {n.partition(".")[0]: a for n, a in ARRAYS.items() if n.endswith(".dq")}
KEYS = sorted(FLAGS.keys() - NOT_OF_THE_SURVEY)
OPTIONAL = [key for key, a in FLAGS.items() if not a.required and key not in NOT_OF_THE_SURVEY]
OF_THE_OBSERVATORY = ["dark", "flat", "linearity", "mask", "readnoise", "saturation"]
"""Its other files bring none: those of the inverse linearity only say where it cannot be used."""
FLAG = PIXEL["PERSISTENCE"]  # no step sets it, every file may


@pytest.fixture(scope="module")
def simulation(simulated):
    return simulated(side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0)


def _with_flags(simulation, folder, keys, make):
    """The configuration, with copies of reference files whose ``dq`` is ``make(number)``."""
    config = yaml.safe_load(simulation.config.read_text())
    base = simulation.config.parent
    config |= {key: str(base / config[key]) for key in ("IN", "FITSWCS") if key in config}
    config |= {"OUT": str(folder / "l2.asdf"), "SKYORDER": 1}
    config["CALDIR"] = {k: str(base / v) for k, v in config["CALDIR"].items()}
    for i, key in enumerate(keys):
        with asdf.open(config["CALDIR"][key], lazy_load=False, memmap=False) as file:
            tree = dict(file.tree)
            old = tree["roman"].get("dq")
            new = make(i)
            if old is not None and old.shape == (SIDE - 8, SIDE - 8):
                new = new[4:-4, 4:-4]
            tree["roman"]["dq"] = new if old is None else (np.array(old) | new).astype(np.uint32)
            config["CALDIR"][key] = str(folder / f"{key}.asdf")
            asdf.AsdfFile(tree).write_to(config["CALDIR"][key])
    return config


def _dq(config):
    calibrate(config, scheduler="synchronous")
    with asdf.open(config["OUT"], lazy_load=False, memmap=False) as file:
        roman = file["roman"]
        return np.array(roman["dq"]), np.array(roman.get("data_withsky", roman["data"]))


def _frame(i, dtype=np.uint32):
    """A flag at an active pixel and at a reference pixel."""
    dq = np.zeros((SIDE, SIDE), dtype)
    dq[50 + 10 * i, 60] = dq[1, 70 + i] = FLAG
    return dq


def _flagged(dq):
    return [tuple(int(v) + 4 for v in place) for place in np.argwhere(dq & FLAG)]


def test_every_file_may_bring_flags(simulation, tmp_path):
    assert set(OPTIONAL) == {"gain", "flat", "read", "ipc4d", "biascorr"}
    before, rate = _dq(_with_flags(simulation, tmp_path, [], _frame))
    after, same = _dq(_with_flags(simulation, tmp_path, KEYS, _frame))
    assert _flagged(before) == []
    assert _flagged(after) == [(50 + 10 * i, 60) for i in range(len(KEYS))]
    np.testing.assert_array_equal(after & ~np.uint32(FLAG), before)
    np.testing.assert_array_equal(same, rate)


@pytest.mark.parametrize("recipe", ["observatory", "romancal_1.1"])
def test_files_of_the_observatory(recipe, simulated, tmp_path):
    made = simulated(
        side=SIDE, seed=3, conditions="plain", cosmic_rays=0, stars=0, references="observatory"
    )
    keys = [k for k in OF_THE_OBSERVATORY if recipe == "observatory" or k != "readnoise"]
    config = _with_flags(made, tmp_path, keys, _frame) | {"GRAPH": recipe}
    config.pop("SKYORDER")
    assert _flagged(_dq(config)[0]) == [(50 + 10 * i, 60) for i in range(len(keys))]


def test_the_package_does_not_look_at_some(simulation, tmp_path):
    config = _with_flags(simulation, tmp_path, OPTIONAL, _frame)
    assert _flagged(_dq(config | {"GRAPH": "romanimpreprocess_1.0"})[0]) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint64])
def test_other_integers_and_flags_of_active_pixels_alone(dtype, simulation, tmp_path):
    active = _with_flags(simulation, tmp_path, OPTIONAL, lambda i: _frame(i, dtype)[4:-4, 4:-4])
    assert _flagged(_dq(active)[0]) == [(50 + 10 * i, 60) for i in range(len(OPTIONAL))]


@pytest.mark.parametrize("key", OPTIONAL)
def test_flags_of_another_shape_are_refused(key, simulation, tmp_path):
    config = _with_flags(simulation, tmp_path, [key], lambda i: np.zeros((SIDE, 99), np.uint32))
    (line,) = find_problems(config)
    assert line.startswith(f"CALDIR.{key}: {tmp_path / key}.asdf: roman.dq has shape ({SIDE}, 99)")
