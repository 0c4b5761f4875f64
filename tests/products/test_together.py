"""Exposures that are calibrated together: the files are the same as of each alone."""

import asdf
import numpy as np
import pytest
from astropy.io import fits

from roman_dask_l2.core.step import Step
from roman_dask_l2.engine import plan
from roman_dask_l2.errors import InputError
from roman_dask_l2.products import memory
from roman_dask_l2.products.calibration import alike
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate, calibrate_together
from roman_dask_l2.simulation.simulate import simulate

RECIPES = ["l1_to_l2", "romanimpreprocess_1.0", "l1_to_l2_likelihood"]


@pytest.fixture(scope="module")
def exposures(tmp_path_factory):
    """Configurations of three exposures of a detector, with two pointings."""
    folder = tmp_path_factory.mktemp("together")
    more = {"SLICEOUT": True, "SKYORDER": 1, "JUMPOUT": True, "FITSOUT": True}
    made = [
        simulate(folder / str(i), side=256, seed=i, conditions="all", config=more) for i in (1, 2)
    ]
    first = prepare(made[0].config).config
    second = prepare(made[1].config).config
    own = {"IN": str(second.IN), "OUT": str(folder / "2" / "l2.asdf")}
    header = fits.Header.fromstring(first.FITSWCS.read_text())
    header["CD1_1"] *= 1.05  # larger pixels
    other = folder / "other.txt"
    other.write_text(header.tostring())
    pointed = own | {"FITSWCS": str(other), "OUT": str(folder / "2" / "pointed.asdf")}
    return [first, first.replace(**own), first.replace(**pointed)]


def _contents(path):
    """All arrays and other values of a file, without what differs from run to run."""
    with asdf.open(path, memmap=False) as file:
        found = dict(_leaves(file.tree))
    return {k: v for k, v in found.items() if not any(p in k for p in VARYING)}


VARYING = ("timings", "file_date", "history", "asdf_library", "log", "config", "provenance",
           "filename", "calibration_software")  # fmt: skip


def _leaves(node, path=""):
    items = node.items() if hasattr(node, "items") else enumerate(node)
    for key, value in items:
        name = f"{path}.{key}"
        if hasattr(value, "items") or isinstance(value, list):
            yield from _leaves(value, name)
        else:
            yield name, np.array(value) if hasattr(value, "shape") else value


def _same(found, expected):
    assert set(found) == set(expected)
    for key, value in expected.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(found[key], value, key, strict=True)
        elif hasattr(value, "crval"):
            assert value(1, 2) == found[key](1, 2)
        elif isinstance(value, str | int | float | bool):
            assert found[key] == value or (value != value and found[key] != found[key]), key


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "options",
    [
        {"scheduler": "synchronous", "tile": "256x256"},
        {"scheduler": "local", "threads": 2, "tile": "100x130"},
    ],
)
def test_the_same_files(recipe, options, exposures):
    configs = [config.replace(GRAPH=recipe) for config in exposures]
    alone = []
    for config in configs:
        result = calibrate(config, scheduler="synchronous", tile="64x256")
        alone.append((_contents(config.OUT), result.fits.read_bytes(), result))
    assert not np.array_equal(alone[0][0][".roman.data"], alone[1][0][".roman.data"])
    assert not np.array_equal(alone[1][0][".roman.data"], alone[2][0][".roman.data"])
    for config in configs:
        config.OUT.unlink()
    together = calibrate_together([prepare(config) for config in configs], **options)
    for config, (contents, copy, result), made in zip(configs, alone, together, strict=True):
        _same(_contents(config.OUT), contents)
        assert made.fits.read_bytes() == copy
        assert (made.medsky, made.masked) == (result.medsky, result.masked)


def test_of_none_there_is_a_file_if_one_fails(exposures, monkeypatch):
    for config in exposures:
        config.OUT.unlink(missing_ok=True)
    calls, apply = [], Step.apply

    def failing(step, *given):
        calls.append(step.name)
        if calls.count("ramp_fit") == 2:
            raise InputError("no good")
        return apply(step, *given)

    monkeypatch.setattr(Step, "apply", failing)
    with pytest.raises(InputError, match="no good"):
        calibrate_together(list(map(prepare, exposures)), scheduler="synchronous")
    folders = {config.OUT.parent for config in exposures}
    assert not [path for folder in folders for path in folder.glob("*.part*")]
    assert not any(config.OUT.exists() for config in exposures)


def test_other_steps_are_not_alike(exposures):
    first, second, third = map(prepare, exposures)
    assert alike(first, second)
    assert alike(second, third)
    assert not alike(first, prepare(exposures[1].replace(GRAPH="l1_to_l2_likelihood")))
    assert not alike(first, prepare(exposures[1].replace(SKYORDER=2)))


def test_what_cannot_be_stacked_runs_side_by_side(exposures, monkeypatch):
    configs = exposures[:2]
    expected = [calibrate(c, scheduler="synchronous").medsky for c in configs]
    monkeypatch.setattr(plan, "stackable", lambda steps, sinks: False)
    made = calibrate_together(list(map(prepare, configs)), scheduler="local", threads=2)
    assert [one.medsky for one in made] == expected


def test_the_memory_decides_how_many(exposures, monkeypatch):
    job = prepare(exposures[0])
    sizes = [memory.project(job, (64, 256), 2, exposures=n) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    for limit, number in ((sizes[2] + 1, 3), (sizes[2] - 1, 2), (sizes[1] - 1, 1)):
        options = memory.RunOptions(threads=2, tile="64x256", memory=f"{limit / 1e6}MB")
        assert memory.exposures_together(job, options, 3) == number
    assert memory.exposures_together(job, memory.RunOptions(scheduler="tls://x"), 3) == 1
    options = memory.RunOptions(threads=2, tile="64x256")
    assert memory.exposures_together(job, options, 3) == 3
    # A job's limit, of which this process has 100 MB already.
    monkeypatch.setattr(memory, "resident", lambda: 100e6)
    monkeypatch.setattr(memory, "available", lambda: sizes[1] - 100e6 + 1)
    assert memory.exposures_together(job, options, 3) == 2
    assert memory.exposures_together(job, memory.RunOptions(per_step=True), 3) == 1
