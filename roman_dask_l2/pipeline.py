"""One exposure from its configuration to its L2 file.

`l1_to_l2` builds the lazy arrays; `calibrate` computes and writes them. What comes before, opening
and checking, is in `roman_dask_l2.job`.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
from dask.delayed import delayed

from . import graph
from .config import Config
from .detector import BORDER, Grid, Window
from .errors import InputError
from .exposure import Exposure
from .io.atomic import replacing
from .io.fits import fits_name, write_fits
from .io.l2 import IMAGE_ARRAYS, L2Image, half, write_l2
from .io.references import Inputs
from .job import Job, outputs, prepare
from .photometry import photometry
from .progress import progress
from .schedulers import running
from .step import VARIABLES as step_variables

log = logging.getLogger(__name__)

BAND = 128
"""Rows of a default tile: full rows are contiguous in the files, so each is one read."""

VARIABLES = {"data_withsky": "rate"}
"""Names in the L2 file that differ from the pipeline's."""


@dataclass(frozen=True)
class Result:
    """What `calibrate` has written.

    Attributes
    ----------
    out : Path
        The L2 file.
    fits : Path or None
        Its FITS copy.
    medsky : float
        Mode of the background, DN/s.
    masked : float
        Fraction of pixels in the combined mask.
    seconds : dict
        Wall time by stage, s.
    """

    out: Path
    fits: Path | None
    medsky: float
    masked: float
    seconds: dict[str, float] = field(default_factory=dict)


def parse_tile(text: str | int | tuple[int, int] | None, side: int) -> tuple[int, int]:
    """Tile size from ``256`` (square), ``128x4096`` (rows x columns) or None (the default).

    Raises
    ------
    InputError
        If it is neither, or smaller than 32 pixels.
    """
    if text is None:
        return min(BAND, side), side
    if isinstance(text, tuple):
        sizes = text
    else:
        parts = str(text).lower().split("x")
        if len(parts) > 2 or not all(p.strip().isdigit() for p in parts):
            raise InputError(
                f"--tile {text}: expected pixels such as 256, or rows x columns 128x4096"
            )
        sizes = (int(parts[0]), int(parts[-1]))
    if min(sizes) < 32:
        raise InputError(f"--tile {text}: expected at least 32 pixels")
    return min(sizes[0], side), min(sizes[1], side)


def _build(job: Job, tile: Any, per_step: bool) -> tuple[graph.Lazy, dict[str, da.Array]]:
    """The lazy pipeline, and its results cut to the active pixels as the L2 file names them."""
    grid = Grid(job.exposure.side, parse_tile(tile, job.exposure.side))
    wanted = IMAGE_ARRAYS | {"mask": "bool", "endslice": "int8"}
    for name in job.recipe.outputs:
        kind = step_variables[name].dtype
        wanted.setdefault(name, "float16" if kind == "float32" else kind)
    made = {w for b in job.steps for w in b.step.writes}
    names = {VARIABLES.get(name, name) for name in wanted} & made
    lazy = graph.build(job.steps, job.inputs, grid, sorted(names), per_step)
    inside = slice(BORDER, job.exposure.side - BORDER)
    arrays = {}
    for name, dtype in wanted.items():
        full = lazy.arrays.get(VARIABLES.get(name, name))
        if full is not None:
            active = full[inside, inside]
            arrays[name] = (
                active.map_blocks(half, dtype="float16") if dtype == "float16" else active
            )
    return lazy, arrays


def l1_to_l2(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    tile: str | int | tuple[int, int] | None = None,
    per_step: bool = False,
) -> dict[str, da.Array]:
    """The calibrated exposure as lazy Dask arrays; nothing is computed, no pixel is read.

    Parameters
    ----------
    config : mapping, str or Path
        The configuration, or its YAML file.
    tile : int, str or tuple of int, optional
        Size of the chunks: ``256``, ``"128x4096"`` or ``(rows, columns)``.
    per_step : bool
        One Dask layer for each step, instead of one task for each tile. The same numbers.

    Returns
    -------
    dict of str to dask.array.Array
        ``data``, ``data_withsky`` (DN/s), ``dq``, ``err``, ``var_poisson``, ``chisq``, ``dumo``,
        ``mask`` and ``endslice`` on the active pixels.

    Raises
    ------
    InputError
        If the configuration or a file cannot be used.

    Examples
    --------
    >>> arrays = l1_to_l2("config.yaml")  # doctest: +SKIP
    >>> arrays["data"][2000:2100, 2000:2100].compute()  # doctest: +SKIP
    """
    return _build(prepare(config), tile, per_step)[1]


def calibrate(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    scheduler: str = "local",
    threads: int | None = None,
    tile: str | int | tuple[int, int] | None = None,
    per_step: bool = False,
    show_progress: bool = False,
) -> Result:
    """Calibrate one exposure and write its L2 file (and FITS copy with FITSOUT).

    Parameters
    ----------
    config : mapping, str or Path
        The configuration, or its YAML file.
    scheduler : str
        ``local`` (threads) or ``synchronous``.
    threads : int, optional
        Worker threads; default: the processors of this process.
    tile, per_step
        As for `l1_to_l2`.
    show_progress : bool
        A progress bar on a terminal, a line now and then elsewhere.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        If the configuration or a file cannot be used. Nothing is written then.
    """
    clock = _Clock()
    job = prepare(config)
    config = job.config
    clock.stage("open")
    with running(scheduler, threads), progress(job.config.IN.name, show_progress):
        arrays, extras = _compute(job, tile, per_step)
    clock.stage("compute")
    _log_steps(extras["seconds"])
    image = _image(job, arrays, extras)
    clock.stage("assemble")
    with replacing(*outputs(config)) as parts, ThreadPoolExecutor(2) as pool:
        # Checksums and disk leave the interpreter alone: both files at the same time.
        writing = [pool.submit(write_l2, parts[0], image, config.OUT.name)]
        if config.FITSOUT:
            writing.append(
                pool.submit(write_fits, parts[1], arrays["data"], arrays["dq"], image.mask)
            )
        for task in writing:
            task.result()
    clock.stage("write")
    masked = float(image.mask.mean())
    log.info("wrote %s (%.2f%% of the pixels masked)", config.OUT, 100 * masked)
    return Result(
        config.OUT,
        fits_name(config.OUT) if config.FITSOUT else None,
        image.processinfo["medsky"],
        masked,
        clock.seconds,
    )


class _Clock:
    """Wall time of the stages of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def stage(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
        log.info("%-10s %7.2f s", name, self.seconds[name])


def _compute(job: Job, tile: Any, per_step: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Run the graph: every tile goes into its place in the results as it is finished."""
    lazy, arrays = _build(job, tile, per_step)
    edges = _edges(job.exposure.side)
    first = next(b.name for b in job.steps if "ramp" in b.step.writes)
    buffers = {name: np.empty(a.shape, a.dtype) for name, a in arrays.items()}
    extras: dict[str, Any] = {
        "stored": [graph.store(array, buffers[name]) for name, array in arrays.items()],
        "measured": lazy.measured,
        # The mission's L2 files carry the reference pixels as they were read, uncorrected.
        "border": {
            edge: graph.strip(job.steps, first, "ramp", window, job.inputs, lazy.measured)
            for edge, window in edges.items()
        },
        "border_dq": {
            edge: lazy.arrays["dq"][window.slices].rechunk(-1).to_delayed(False).item()
            for edge, window in edges.items()
        },
        "medgain": delayed(_median_gain)(job.inputs),
        "amp33": delayed(job.inputs.sources["l1.amp33"].read)(),
    }
    # As delayed values, because arrays and delayed values in one call get mixed up (dask 2026.8).
    extras["seconds"] = [
        (names, delayed(_total)(array.to_delayed(optimize_graph=False).ravel().tolist()))
        for names, array in lazy.seconds
    ]
    (extras,) = dask.compute(extras)
    return buffers, extras


def _total(parts: list[np.ndarray]) -> np.ndarray:
    """Seconds in each step, summed over tiles."""
    return np.sum([p.sum(axis=(0, 1)) for p in parts], axis=0)


def _edges(side: int) -> dict[str, Window]:
    """The reference border, edge by edge."""
    return {
        "left": Window(0, side, 0, BORDER),
        "right": Window(0, side, side - BORDER, side),
        "top": Window(side - BORDER, side, 0, side),
        "bottom": Window(0, BORDER, 0, side),
    }


def _median_gain(inputs: Inputs) -> float:
    """Median of the gain file, e/DN."""
    source = inputs.sources["gain.data"]
    gain = source.read()
    gain = gain[np.isfinite(gain)]
    if gain.size == 0:
        raise InputError(f"CALDIR.gain: {source.array.path}: no finite gain in roman.data")
    return float(np.median(gain))


def _log_steps(seconds: list[tuple[tuple[str, ...], np.ndarray]]) -> None:
    for names, spent in seconds:
        for name, value in zip(names, spent, strict=True):
            log.info("  %-16s %7.2f s of thread time", name, value)


def _image(job: Job, arrays: dict[str, np.ndarray], extras: Mapping[str, Any]) -> L2Image:
    n_active = job.exposure.side - 2 * BORDER
    complete = {b.step.cal_step for b in job.steps if b.step.cal_step} | {"assign_wcs"}
    return L2Image(
        arrays={name: a for name, a in arrays.items() if name not in ("mask", "endslice")},
        mask=arrays["mask"],
        border=extras["border"],
        border_dq=extras["border_dq"],
        amp33=extras["amp33"],
        l1=job.config.IN,
        wcs=job.wcs.gwcs(n_active),
        photometry=photometry(job.exposure.optical_element),
        complete=complete,
        processinfo=_processinfo(job, arrays, extras),
    )


def _processinfo(
    job: Job, arrays: Mapping[str, np.ndarray], extras: Mapping[str, Any]
) -> dict[str, Any]:
    """What was done to make the file, beside the mission's own metadata."""
    from .provenance import provenance

    exposure, config = job.exposure, job.config
    fit, sky = job.params("ramp_fit"), job.params("sky")
    order = getattr(sky, "order", None)
    measured = extras["measured"]
    weights = _weights(exposure, fit)
    info = {
        "medsky": float(measured.get("medsky", {}).get("medsky", math.nan)),
        "medgain": extras["medgain"],
        "skyorder": -1 if order is None else order,
        "skycoefs": measured.get("sky", {}).get("coefs", np.zeros(0)),
        "ramp_opt_pars": _pick(fit, slope="slope", gain="gain", sigma_read="sigma_read"),
        "weights": weights,
        "meta": {
            "frame_time": exposure.frame_time,
            "read_pattern": [list(reads) for reads in exposure.read_pattern],
            "ngrp": exposure.n_resultants,
            "tbar": exposure.tbar.astype(np.float32),
            "tau": exposure.tau.astype(np.float32),
            "N": exposure.n_reads.astype(np.int16),
            "K": weights,
            "nborder": BORDER,
            "jump_detect_pars": _pick(
                fit,
                SthreshA="threshold_a",
                SthreshB="threshold_b",
                IthreshA="rate_a",
                IthreshB="rate_b",
            ),
        },
        "config": config.raw,
        "exclude_first": exposure.exclude_first,
        "log": _story(job, measured),
        "provenance": provenance(job),
    }
    if config.SLICEOUT:
        info["endslice"] = arrays["endslice"]
    return info


def _pick(params: Any, **names: str) -> dict[str, float]:
    return {} if params is None else {key: getattr(params, name) for key, name in names.items()}


def _weights(exposure: Exposure, fit: Any) -> np.ndarray:
    """Weights K of the full ramp, 1/s; empty if the recipe has another ramp fit."""
    from .steps.ramp_fit import RampFitParams, fits

    if not isinstance(fit, RampFitParams):
        return np.zeros(0, np.float32)
    return fits(exposure, fit)[-1].k


def _story(job: Job, measured: Mapping[str, Any]) -> str:
    """One line per step, for people who look into the file."""
    lines = [f"recipe {job.recipe.name}"]
    skipped = [b.name for b in job.recipe.steps if b not in job.steps]
    for bound in job.steps:
        options = ", ".join(f"{k}={v}" for k, v in bound.params.model_dump().items())
        lines.append(f"{bound.name}: {options}" if options else bound.name)
    lines += [f"{name}: not applied" for name in skipped]
    return "\n".join(lines) + "\n"
