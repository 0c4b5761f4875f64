"""Noise layers of several exposures that are made together: the same as those of each alone."""

from collections import Counter

import asdf
import numpy as np
import pytest
from astropy.io import fits

from roman_dask_l2.core.step import Step
from roman_dask_l2.errors import InputError
from roman_dask_l2.products import memory, noise_layers
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise, generate_noise_together
from roman_dask_l2.simulation.simulate import simulate

LABELS = ["Rz4S2C1", "O", "RaS1", "R", "Prb1"]
TILE = {"scheduler": "synchronous", "tile": "256x256"}


@pytest.fixture(scope="module")
def exposures(tmp_path_factory):
    """Configurations of three exposures of a detector, with two pointings, calibrated."""
    folder = tmp_path_factory.mktemp("noise_together")
    noise = {"LAYER": LABELS, "TEMP": str(folder), "SEED": 5, "OUT": "noise.asdf"}
    more = {"SLICEOUT": True, "SKYORDER": 1, "NOISE": noise}
    made = [
        simulate(folder / str(i), side=256, seed=i, conditions="all", config=more) for i in (1, 2)
    ]
    first, second = (prepare(one.config).config for one in made)
    header = fits.Header.fromstring(first.FITSWCS.read_text())
    header["CD1_1"] *= 1.05  # larger pixels
    other = folder / "other.txt"
    other.write_text(header.tostring())
    configs = []
    for i, own in enumerate([{}, {"IN": second.IN}, {"IN": second.IN, "FITSWCS": other}]):
        out = {"OUT": folder / f"l2_{i}.asdf"} | own
        given = first.replace(**{key: str(path) for key, path in out.items()})
        its = given.NOISE.model_copy(update={"SEED": 5 + i, "OUT": folder / f"noise_{i}.asdf"})
        configs.append(given.model_copy(update={"NOISE": its}))
        calibrate(configs[-1], **TILE)
    return configs


def _layers(config):
    with asdf.open(config.NOISE.OUT, memmap=False) as file:
        return np.array(file["noise"]), file["statistics"]


@pytest.mark.parametrize(
    ("depth", "options"),
    [
        (3, {"scheduler": "synchronous", "tile": "100x256"}),
        (2, {"scheduler": "local", "threads": 2, "tile": "100x130"}),
        (1, {"scheduler": "local", "threads": 3, "tile": "256x70"}),
    ],
)
def test_the_same_bits(depth, options, exposures, monkeypatch):
    alone = []
    for config in exposures:
        generate_noise(config, **TILE)
        alone.append(_layers(config))
        config.NOISE.OUT.unlink()
    # One seed less, and the sky elsewhere: they differ.
    assert not np.array_equal(alone[1][0], alone[2][0])
    monkeypatch.setattr(noise_layers, "stack_depth", lambda *given: depth)
    jobs = [prepare(config, noise=True) for config in exposures]
    results = generate_noise_together(jobs, **options)
    for config, (layers, statistics), result in zip(exposures, alone, results, strict=True):
        found, told = _layers(config)
        np.testing.assert_array_equal(found, layers, strict=True)
        assert told == statistics == result.layers
        assert result.out == config.NOISE.OUT
    assert not list(exposures[0].NOISE.TEMP.glob("*.zarr"))


def test_ramps_without_noise_are_one(exposures, monkeypatch):
    """Until the flat, which depends on the sky that the pixels cover."""
    counts: Counter[str] = Counter()
    apply = Step.apply

    def counting(step, *given):
        counts[step.name] += 1
        return apply(step, *given)

    monkeypatch.setattr(Step, "apply", counting)
    jobs = []
    for config in exposures:
        noise = config.NOISE.model_copy(update={"LAYER": ["R"]})
        jobs.append(prepare(config.model_copy(update={"NOISE": noise}), noise=True))
    generate_noise_together(jobs, scheduler="synchronous", tile="128x256")
    tiles = 2
    # Of dq_init also the border rows, which refpix is measured on: two strips.
    assert counts["dq_init"] == (1 + 3) * (tiles + 2)
    assert counts["linearity"] == counts["ramp_fit"] == (1 + 3) * tiles
    assert counts["flat"] == counts["sky"] == (3 + 3) * tiles


def test_of_none_there_is_a_file_if_one_fails(exposures, monkeypatch):
    folder = exposures[0].NOISE.OUT.parent
    for path in folder.glob("noise_*"):
        path.unlink()
    calls, apply = [], Step.apply

    def failing(step, *given):
        calls.append(step.name)
        if calls.count("flat") == 3:
            raise InputError("no good")
        return apply(step, *given)

    monkeypatch.setattr(Step, "apply", failing)
    jobs = [prepare(config, noise=True) for config in exposures]
    with pytest.raises(InputError, match="no good"):
        generate_noise_together(jobs, scheduler="synchronous")
    assert not list(folder.glob("noise_*"))
    assert not list(folder.glob("*.zarr"))


def test_the_memory_decides_how_many(exposures, monkeypatch):
    job = prepare(exposures[0], noise=True)
    layers = [layer for layer, _ in job.layers]
    sizes = [memory.project(job, (64, 256), 2, layers, 3, exposures=n) for n in (1, 2, 3)]
    assert sizes[0] < sizes[1] < sizes[2]
    options = noise_layers.RunOptions(tile="64x256", threads=2)
    for limit, number in ((sizes[2] + 1, 3), (sizes[2] - 1, 2), (sizes[1] - 1, 1)):
        monkeypatch.setattr(memory, "TOGETHER", limit)
        assert memory.exposures_together(job, options, 3, "noise") == number
