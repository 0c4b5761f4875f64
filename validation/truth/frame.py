"""Both ramp fits through the whole pipeline, on a frame with cosmic rays at the flight rate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asdf
import dask
import numpy as np

from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.detector import BORDER, Grid
from roman_dask_l2.engine import graph
from roman_dask_l2.products.job import prepare
from roman_dask_l2.report.truth import FAINT, SIGNIFICANT, jump_significance
from roman_dask_l2.simulation.settings import Simulation
from roman_dask_l2.simulation.simulate import simulate
from roman_dask_l2.steps.ramp_params import RampFitParams
from roman_dask_l2.steps.ramp_weights import fits

RECIPES = {"fixed": "l1_to_l2", "likelihood": "l1_to_l2_likelihood"}
PLACES = (
    "hit above 8 sigma",
    "hit below 8 sigma",
    "4 neighbours",
    "4 diagonal neighbours",
    "others",
)
"""What a pixel is to cosmic rays; the first that holds."""


@dataclass
class Place:
    """Pixels with one relation to cosmic rays, of a true rate below 1 DN/s."""

    pixels: int
    masked: float
    """Part that the combined mask takes away."""
    wrong: float
    """Part of the others whose rate is more than 4 stated errors from the truth."""
    mean: float
    """Mean of (rate - truth) / err of the others."""
    chi_square: float
    """Mean square of (rate - truth) / err of the others."""


@dataclass
class Frame:
    """One fit on one frame."""

    pixels: int
    usable: int
    """Active pixels that the combined mask leaves."""
    right: int
    """Usable pixels within 4 stated errors of the truth, stars and all."""
    places: dict[str, Place]


def make_frame(folder: Path, side: int, seed: int, cosmic_rays: int | None = None) -> Simulation:
    """An exposure without defects: sky, stars, all noise; as many cosmic rays as in flight, or
    `cosmic_rays`."""
    return simulate(folder, side=side, seed=seed, conditions="plain", cosmic_rays=cosmic_rays)


def measure_frame(simulation: Simulation) -> dict[str, Frame]:
    """Calibrate with either recipe and compare with the truth."""
    with asdf.open(simulation.truth, memmap=False, lazy_load=False) as file:
        truth = np.asarray(file["truth"]["rate"])
        rays = {k: np.asarray(v) for k, v in file["truth"]["cosmic_rays"].items()}
    results, places = {}, None
    for name, recipe in RECIPES.items():
        job = prepare(load_config(simulation.config).replace(GRAPH=recipe))
        inside = np.s_[..., BORDER:-BORDER, BORDER:-BORDER]
        if places is None:
            gain, read = (job.inputs.sources[f"{k}.data"].read()[inside] for k in ("gain", "read"))
            places = _places(rays, truth, gain, read, job.exposure)
        side = job.exposure.side
        lazy = graph.build(job.steps, job.inputs, Grid(side, (128, side)), ["rate", "err", "mask"])
        with dask.config.set(scheduler="threads", num_workers=2):
            (arrays,) = dask.compute(lazy.arrays)
        arrays = {key: values[inside] for key, values in arrays.items()}
        results[name] = _judge(arrays, truth, places)
    return results


def _places(rays: Any, truth: np.ndarray, gain: np.ndarray, read: np.ndarray, exposure: Any) -> Any:
    """Index into `PLACES` of every active pixel."""
    fit = fits(exposure, RampFitParams())[-1]
    y, x, sigma, _ = jump_significance(rays, truth, gain, read, exposure, fit)
    hit = np.zeros((truth.shape[0] + 2, truth.shape[1] + 2), bool)
    hit[y + 1, x + 1] = True
    cross = hit[:-2, 1:-1] | hit[2:, 1:-1] | hit[1:-1, :-2] | hit[1:-1, 2:]
    corners = hit[:-2, :-2] | hit[:-2, 2:] | hit[2:, :-2] | hit[2:, 2:]
    places = np.where(cross, 2, np.where(corners, 3, 4))
    places[y, x] = np.where(sigma > SIGNIFICANT, 0, 1)
    return places


def _judge(arrays: dict[str, np.ndarray], truth: np.ndarray, places: np.ndarray) -> Frame:
    pull = (arrays["rate"] - truth).astype(float) / arrays["err"]
    good = ~arrays["mask"]
    found = {}
    for i, name in enumerate(PLACES):
        at = (places == i) & (truth < FAINT)
        left = pull[at & good]
        found[name] = Place(
            int(at.sum()),
            1 - left.size / max(at.sum(), 1),
            float(np.mean(np.abs(left) > 4)) if left.size else 0.0,
            float(left.mean()) if left.size else 0.0,
            float(np.mean(left**2)) if left.size else 0.0,
        )
    right = good & (np.abs(pull) <= 4)
    return Frame(good.size, int(good.sum()), int(right.sum()), found)
