"""Ramps that share their references run in stacks: the layers are the same, and cost less."""

from collections import Counter

import asdf
import numpy as np
import pytest

from roman_dask_l2.core.detector import Window
from roman_dask_l2.core.step import Step, Tile
from roman_dask_l2.engine import kernels, plan
from roman_dask_l2.io.arrays import FileArray
from roman_dask_l2.products import memory, noise_layers
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.layer_plan import quiet_steps
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.simulation.simulate import simulate

LABELS = ["Rz4S2C1", "O", "Rz4S2C2", "R", "Rz4S2C3"]


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stacks")
    noise = {"LAYER": LABELS, "TEMP": str(folder), "SEED": 5, "OUT": "noise.asdf"}
    more = {"SLICEOUT": True, "SKYORDER": 1, "NOISE": noise}
    made = simulate(folder, side=256, seed=3, conditions="all", config=more)
    calibrate(made.config, scheduler="synchronous", tile="256x256")
    return made


def _layers(exposure, **options):
    with asdf.open(generate_noise(exposure.config, **options).out, memmap=False) as file:
        return np.array(file["noise"])


@pytest.fixture(scope="module")
def alone(exposure):
    """The layers of ramps that run one at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "stackable", lambda steps, sinks: False)
        patch.setattr(noise_layers, "stack_depth", lambda *given: 1)
        return _layers(exposure, scheduler="synchronous", tile="256x256")


@pytest.mark.parametrize(
    ("depth", "options"),
    [
        (1, {"scheduler": "synchronous", "tile": "100x130"}),
        (2, {"scheduler": "local", "threads": 2, "tile": "130x100"}),
        (2, {"scheduler": "synchronous", "tile": "100x256"}),
        (4, {"scheduler": "local", "threads": 3, "tile": "256x70"}),
    ],
)
def test_layers_do_not_depend_on_the_stack(depth, options, exposure, alone, monkeypatch):
    monkeypatch.setattr(noise_layers, "stack_depth", lambda *given: depth)
    found = _layers(exposure, **options)
    assert np.ptp(alone[0]) > 0
    np.testing.assert_array_equal(found, alone, strict=True)


def test_references_are_read_and_prepared_once(exposure, monkeypatch):
    job = prepare(exposure.config)
    steps = [b for b in quiet_steps(job.steps) if b.name in ("bias", "linearity", "ipc")]
    window = Window(20, 60, 0, 256)
    made = {"ramp": (8, np.float32), "groupdq": (8, np.uint8), "pixeldq": (1, np.uint32)}
    counts: Counter[str] = Counter()
    read, prepared = FileArray.read, Step.prepared

    def reading(self, *given):
        counts["reads"] += 1
        return read(self, *given)

    def preparing(self, *given):
        counts["prepared"] += 1
        return prepared(self, *given)

    monkeypatch.setattr(FileArray, "read", reading)
    monkeypatch.setattr(Step, "prepared", preparing)
    costs, results = [], []
    for depth in (1, 3):
        counts.clear()
        members = []
        for i in range(depth):
            rng = np.random.default_rng(i)
            values = {k: rng.uniform(0, 9e3, (n, 40, 256)).astype(t) for k, (n, t) in made.items()}
            values["groupdq"] *= 0
            values["pixeldq"] = np.zeros((40, 256), np.uint32)
            members.append(kernels.Member(job.inputs, values, {}))
        results.append(kernels.run_stack(steps, members, Tile(window, 256)))
        costs.append(dict(counts))
    assert costs[0] == costs[1]
    assert costs[0]["prepared"] == 3
    assert costs[0]["reads"] >= 8
    np.testing.assert_array_equal(results[0][0]["ramp"], results[1][0]["ramp"])
    assert (results[1][0]["ramp"] != results[1][1]["ramp"]).any()


def test_the_limit_of_memory_chooses_the_depth(exposure):
    job = prepare(exposure.config, noise=True)
    layers = [layer for layer, _ in job.layers]
    sizes = [memory.project(job, (256, 256), 4, layers, depth) for depth in (1, 2)]
    assert sizes[0] < sizes[1]
    for limit, depth in ((sizes[1] + 1, 2), (sizes[1] - 1, 1)):
        options = noise_layers.RunOptions(memory=f"{limit / 1e6}MB")
        assert memory.stack_depth(job, options, (256, 256), 4, layers) == depth


def test_what_passes_through_dask_is_not_stacked(exposure):
    steps = quiet_steps(prepare(exposure.config).steps)
    assert plan.stackable(steps, ["rate", "dq", "data"])
    assert not plan.stackable(steps, ["data"])
