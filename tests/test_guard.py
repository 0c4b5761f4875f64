"""Costs that do not jitter: a change that makes one of them a tenth worse fails, and says which.

Times are not held against anything here, see the page on benchmarks. After a change that is worth
its price, put the figures that the failure prints into `COSTS`, with the reason in the commit.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from roman_dask_l2.core.step import Step
from roman_dask_l2.products.level2 import calibrate

SIDE = 512
TILE = "64x512"
WORSE = 1.1

PREPARED = {f"{step} prepared pixels": 1.109 for step in ("bias", "linearity", "ipc", "flat")}
TILE_STEPS = ["saturation", "refpix", "bias", "linearity", "dark", "ipc", "ramp_fit", "flat"]
COSTS: dict[str, dict[str, float]] = {
    "calibration": {
        "dq_init pixels": 1.125,  # the border rows are read once more, for refpix
        **{f"{step} pixels": 1.109 for step in TILE_STEPS},  # a halo of 4 around 64 rows
        **PREPARED,
        "mask pixels": 1.055,
        "sky pixels": 1.0,
        "bytes read per pixel": 198.9,
        "bytes written per pixel": 39.2,
        "tasks": 80,
        "anonymous MB": 171.9,
    },
    "likelihood": {
        "dq_init pixels": 1.125,
        **{f"{step} pixels": 1.109 for step in TILE_STEPS if step != "ramp_fit"},
        "ramp_fit_likelihood pixels": 1.109,
        **PREPARED,
        "mask pixels": 1.055,
        "sky pixels": 1.0,
        "bytes read per pixel": 198.9,
        "bytes written per pixel": 43.1,  # noise_ratio, and differences that are not used
        "tasks": 80,
        "anonymous MB": 173.1,
    },
    "noise": {
        "dq_init pixels": 2.25,
        **{f"{step} pixels": 2.219 for step in TILE_STEPS},
        **PREPARED,  # once for the base ramp and the noisy one
        "sky pixels": 2.0,
        **{f"{name} pixels": 1.0 for name in ("PoissonNoise", "PearsonNoise")},
        "bytes read per pixel": 495.5,  # references once for both ramps
        "bytes written per pixel": 93.3,
        "tasks": 109,
        "anonymous MB": 184.7,
    },
    "campaign": {
        "dq_init pixels": 3.375,
        **{f"{step} pixels": 3.328 for step in TILE_STEPS},
        **PREPARED,
        "mask pixels": 3.164,
        "sky pixels": 3.0,
        "bytes read per pixel": 291.4,  # three alone: 597
        "bytes written per pixel": 117.5,
        "tasks": 131,
        "anonymous MB": 195.0,  # 181 to 202: libraries for metadata are imported beside the tiles
    },
    "campaign's layers": {
        "dq_init pixels": 4.5,  # three noisy ramps, and one without noise for all of them
        **{f"{step} pixels": 4.438 for step in TILE_STEPS if step != "flat"},
        "flat pixels": 6.656,
        **PREPARED,
        "sky pixels": 6.0,
        "bytes read per pixel": 539.7,
        "bytes written per pixel": 149.4,
        "tasks": 142,
        "anonymous MB": 174.8,
    },
    "stack": {
        "dq_init pixels": 4.5,
        **{f"{step} pixels": 4.438 for step in TILE_STEPS},
        **PREPARED,  # once for the base ramp and three noisy ones
        "sky pixels": 4.0,
        "bytes read per pixel": 738.6,
        "bytes written per pixel": 143.3,
        "tasks": 133,
        "anonymous MB": 171.5,
    },
}


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    from roman_dask_l2.simulation.simulate import simulate

    folder = tmp_path_factory.mktemp("guard")
    layers = {"LAYER": ["Rz4S2C1", "O", "Prb2"], "TEMP": str(folder), "SEED": 5, "OUT": "n.asdf"}
    more = {"FITSOUT": True, "SLICEOUT": True, "SKYORDER": 2, "NOISE": layers}
    return simulate(folder, side=SIDE, seed=11, config=more)


def _calibrate(config: Path) -> None:
    calibrate(config, scheduler="synchronous", tile=TILE)


def _noise(config: Path) -> None:
    from roman_dask_l2.products.noise_layers import generate_noise

    generate_noise(config, scheduler="synchronous", tile=TILE)


def _stack(config: Path) -> None:
    """Three noisy ramps and the one without noise."""
    from roman_dask_l2.config.model import load_config
    from roman_dask_l2.products.noise_layers import generate_noise

    given = load_config(config)
    assert given.NOISE is not None
    noise = given.NOISE.model_copy(update={"LAYER": ["Rz4S2C1", "Rz4S2C2", "Rz4S2C3"]})
    generate_noise(given.model_copy(update={"NOISE": noise}), scheduler="synchronous", tile=TILE)


def _campaign(config: Path) -> None:
    """Three exposures of a detector."""
    from roman_dask_l2.config.model import load_config
    from roman_dask_l2.products.job import prepare
    from roman_dask_l2.products.level2 import calibrate_together

    given = load_config(config)
    jobs = []
    for i in range(3):
        changed = {"IN": _copied(given.IN, i), "OUT": given.OUT.with_name(f"l2_{i}.asdf")}
        jobs.append(prepare(given.model_copy(update=changed)))
    calibrate_together(jobs, scheduler="synchronous", tile=TILE)


def _copied(path: Path, i: int) -> Path:
    """A copy is another exposure."""
    copy = path.with_name(f"{path.stem}_{i}.asdf")
    if not copy.exists():
        shutil.copyfile(path, copy)
    return copy


def _layers(config: Path) -> None:
    """A noisy ramp of each of three exposures, which have been calibrated."""
    from roman_dask_l2.config.model import load_config
    from roman_dask_l2.products.job import prepare
    from roman_dask_l2.products.noise_layers import generate_noise_together

    given = load_config(config)
    assert given.NOISE is not None
    jobs = []
    for i in range(3):
        out = given.OUT.with_name(f"noise_{i}.asdf")
        noise = given.NOISE.model_copy(update={"LAYER": ["Rz4S2C1"], "OUT": out, "SEED": i})
        jobs.append(prepare(given.model_copy(update={"NOISE": noise}), noise=True))
    generate_noise_together(jobs, scheduler="synchronous", tile=TILE)


def _likelihood(config: Path) -> None:
    from roman_dask_l2.config.model import load_config

    changed = load_config(config).replace(GRAPH="l1_to_l2_likelihood")
    calibrate(changed, scheduler="synchronous", tile=TILE)


JOBS = {
    "calibration": _calibrate,
    "noise": _noise,
    "stack": _stack,
    "campaign": _campaign,
    "campaign's layers": _layers,
    "likelihood": _likelihood,
}


@pytest.fixture(scope="module", params=JOBS)
def measured(request, exposure):
    """Costs of a job by name, everything imported and compiled before."""
    job = JOBS[request.param]
    _calibrate(exposure.config)
    job(exposure.config)
    pixels: Counter[str] = Counter()
    tasks = [0]
    apply, prepared = Step.apply, Step.prepared

    def counting(step, reads, references, context, *args):
        pixels[step.name] += math.prod(context["tile"].window.shape)
        return apply(step, reads, references, context, *args)

    def preparing(step, references, context):
        if step.prepare is not None:
            pixels[f"{step.name} prepared"] += math.prod(context["tile"].window.shape)
        return prepared(step, references, context)

    def drawing(kind):
        draw = kind.draw

        def counted(self, rng, place, *out):
            pixels[kind.__name__] += math.prod(place.shape)
            return draw(self, rng, place, *out)

        return counted

    # The process whose memory is measured imports this file as well.
    from dask.callbacks import Callback

    from roman_dask_l2.noise.pearson import PearsonNoise
    from roman_dask_l2.noise.poisson import PoissonNoise

    def finished(key, result, dsk, state, worker):
        tasks[0] += 1

    with pytest.MonkeyPatch.context() as patch, Callback(posttask=finished):
        patch.setattr(Step, "apply", counting)
        patch.setattr(Step, "prepared", preparing)
        for kind in (PoissonNoise, PearsonNoise):
            patch.setattr(kind, "draw", drawing(kind))
        before = _io()
        job(exposure.config)
        after = _io()
    costs = {f"{name} pixels": n / SIDE**2 for name, n in pixels.items()}
    costs["bytes read per pixel"] = (after["rchar"] - before["rchar"]) / SIDE**2
    costs["bytes written per pixel"] = (after["wchar"] - before["wchar"]) / SIDE**2
    costs["tasks"] = tasks[0]
    costs["anonymous MB"] = _anonymous(request.param, exposure.config) / 1e6
    return request.param, costs


def _io() -> dict[str, int]:
    lines = Path("/proc/self/io").read_text().splitlines()
    return {name: int(value) for name, value in (line.split(": ") for line in lines)}


_PROGRAM = """
import json, sys, threading, time
sys.path.insert(0, sys.argv[3])
from test_guard import JOBS
peak, over = [0], threading.Event()
def look():
    while not over.wait(0.002):
        with open("/proc/self/status") as file:
            size = next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))
        peak[0] = max(peak[0], size * 1024)
sampler = threading.Thread(target=look)
sampler.start()
JOBS[sys.argv[1]](sys.argv[2])
over.set()
sampler.join()
print(json.dumps(peak[0]))
"""


def _anonymous(job: str, config: Path) -> int:
    """Peak anonymous memory of a process of its own, bytes."""
    command = [sys.executable, "-c", _PROGRAM, job, str(config), str(Path(__file__).parent)]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(json.loads(done.stdout))


def test_costs(measured):
    job, costs = measured
    expected = COSTS.get(job, {})
    found = json.dumps({name: round(value, 3) for name, value in costs.items()}, indent=4)
    assert costs.keys() == expected.keys(), found
    worse = [
        f"{name}: {value:.3f}, was {expected[name]:.3f}"
        for name, value in costs.items()
        if value > WORSE * expected[name]
    ]
    assert not worse, f"{job}: {'; '.join(worse)}\n{found}"
