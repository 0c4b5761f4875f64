"""Our program on the exposure of `observatory.py`, with what each step leaves put into files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dask
import numpy as np
from numpy.lib.format import open_memmap
from observatory_compare import STEPS, Left

from roman_dask_l2.core.detector import Grid, Window
from roman_dask_l2.core.step import VARIABLES, BoundStep, NoParams, Step, Tile
from roman_dask_l2.engine import graph, plan
from roman_dask_l2.products import level2
from roman_dask_l2.products.job import Job, prepare

COMPARED = ("ramp", "groupdq", "pixeldq", "rate", "dq", "err", "var_poisson", "chisq", "dumo")
TILE = (128, 4096)


class Kept:
    """A sink in a ``.npy`` file."""

    def __init__(self, path: Path, name: str, side: int, n_resultants: int) -> None:
        self.path = path
        variable = VARIABLES[name]
        shape = (*variable.lead(n_resultants), side, side)
        path.parent.mkdir(parents=True, exist_ok=True)
        open_memmap(path, "w+", np.dtype(variable.dtype), shape).flush()

    def put(self, values: np.ndarray, window: Window) -> None:
        whole = np.load(self.path, mmap_mode="r+")
        whole[(..., slice(window.y0, window.y1), slice(window.x0, window.x1))] = values

    def read(self, window: Window | None = None) -> np.ndarray:
        whole = np.load(self.path, mmap_mode="r")
        if window is None:
            return np.array(whole)
        return np.array(whole[(..., slice(window.y0, window.y1), slice(window.x0, window.x1))])


def prepared(config: Path) -> Job:
    return prepare(config)


def each_step(job: Job, bound: BoundStep, left: Left, out: Path) -> dict[str, np.ndarray]:
    """What one of our steps makes of what romancal left before its step of that name."""
    exposure = job.exposure
    given = left.before(STEPS[bound.name])
    reads = {*bound.step.reads, *bound.step.optional_reads}
    if bound.step.reduction is not None:
        reads |= set(bound.step.reduction.reads_for(bound.params))
    names = tuple(sorted(reads & set(given)))

    def as_left(*, tile: Tile) -> Any:
        w = tile.window
        cut = (..., slice(w.y0, w.y1), slice(w.x0, w.x1))
        found = tuple(np.array(given[name][cut], VARIABLES[name].dtype) for name in names)
        return found if len(found) > 1 else found[0]

    before = [BoundStep(Step("as_left", as_left, writes=names), NoParams())] if names else []
    kept = [name for name in bound.step.writes if name in COMPARED]
    if not kept:
        return {}
    size = exposure.side, exposure.n_resultants
    sinks = {name: Kept(out / f"{bound.name}_{name}.npy", name, *size) for name in kept}
    grid = Grid(exposure.side, TILE)
    lazy = graph.build([*before, bound], job.inputs, grid, (), sinks=sinks)
    dask.compute(lazy.seconds, scheduler="threads", num_workers=2)
    return {name: np.load(sink.path, mmap_mode="r") for name, sink in sinks.items()}


def run_all(job: Job, out: Path) -> Mapping[str, dict[str, np.ndarray]]:
    """Calibrate as users do, with a tap after every step that romancal has as well."""
    exposure = job.exposure
    size = exposure.side, exposure.n_resultants
    kept = {
        (b.name, name): Kept(out / f"{b.name}_{name}.npy", name, *size)
        for b in job.steps
        if b.name in STEPS
        for name in b.step.writes
        if name in COMPARED
    }
    build = graph.build

    def tapped(*args: Any, taps: Any = (), **options: Any) -> Any:
        more = [plan.Tap(step, name, sink) for (step, name), sink in kept.items()]
        return build(*args, taps=[*taps, *more], **options)

    graph.build = tapped  # type: ignore[assignment]
    try:
        level2.calibrate(job)
    finally:
        graph.build = build
    found: dict[str, dict[str, np.ndarray]] = {}
    for (step, name), sink in kept.items():
        found.setdefault(step, {})[name] = np.load(sink.path, mmap_mode="r")
    return found
