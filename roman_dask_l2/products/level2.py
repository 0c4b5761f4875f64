"""One exposure from its configuration to its L2 file.

`l1_to_l2` builds the lazy arrays; `calibrate` computes and writes them. Files are opened and
checked before that, in `roman_dask_l2.products.job`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np

from ..config.model import Config
from ..core.detector import BORDER, Grid, parse_tile
from ..core.exposure import index_dtype
from ..core.float16 import to_float16
from ..engine import graph
from ..engine.options import RunOptions
from ..engine.progress import Progress, Stage
from ..engine.schedulers import running
from ..engine.tiles import Spent
from ..io.atomic import replacing
from ..io.fits import FitsCopy, fits_name
from ..io.l2 import naming
from ..io.l2_arrays import IMAGE_ARRAYS, stored_images
from ..system.foreign import load_all
from ..system.processes import cpu_count
from ..system.workarounds import forget_schemas
from .calibration import Target, calibration_graph, l2_file, l2_names
from .job import Job, outputs, prepare
from .left_out import warnings
from .memory import tile_and_threads
from .metadata import l2_model, uniform_light, with_measured
from .precompile import precompiling
from .processinfo import medsky, processinfo
from .scratch import scratch_store

if TYPE_CHECKING:
    import dask.array as da

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """The files that `calibrate` has written, and their key numbers.

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
    steps : dict
        Processor time by step, summed over threads, s.
    """

    out: Path
    fits: Path | None
    medsky: float
    masked: float
    seconds: dict[str, float] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)


def _lazy(job: Job, tile: Any, per_step: bool) -> dict[str, da.Array]:
    """The results as the L2 file names them, cut to the active pixels."""
    grid = Grid(job.exposure.side, parse_tile(tile, job.exposure.side))
    kind = index_dtype(job.exposure.n_resultants)
    made = {w for b in job.steps for w in b.step.writes}
    types = IMAGE_ARRAYS | {"mask": "bool", "endslice": kind} | l2_names(job)
    held = stored_images(made) | {name: name for name in types.keys() - IMAGE_ARRAYS.keys()}
    names = set(held.values()) & made
    lazy = graph.build(job.steps, job.inputs, grid, sorted(names), per_step)
    inside = slice(BORDER, job.exposure.side - BORDER)
    arrays = {}
    for name, dtype in types.items():
        full = lazy.arrays.get(held.get(name, ""))
        if full is not None:
            active = full[inside, inside]
            arrays[name] = (
                active.map_blocks(to_float16, dtype="float16")
                if dtype == "float16"
                else active.astype(dtype)  # the same array, if it is of this type
            )
    return arrays


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
        Arrays (N-8, N-8) on the active pixels of a detector of side N: ``data``, ``data_withsky``
        (DN/s), ``err``, ``dumo`` (DN/s), ``var_poisson`` ((DN/s)^2) and ``chisq`` with the types
        that they have in the L2 file, ``dq`` (uint32), ``mask`` (bool, True: not to be used) and
        ``endslice`` (last resultant before saturation, -1 if none); further ones that the recipe
        asks for. Without a sky model ``data`` is the rate, and there is no ``data_withsky``.

    Raises
    ------
    InputError
        If the configuration or a file cannot be used.

    Notes
    -----
    The formula of each step and its source are in the manual under "Algorithms".

    Examples
    --------
    >>> arrays = l1_to_l2("config.yaml")  # doctest: +SKIP
    >>> arrays["data"][2000:2100, 2000:2100].compute()  # doctest: +SKIP
    """
    return _lazy(prepare(config), tile, per_step)


def calibrate(
    config: Job | Config | Mapping[str, Any] | str | Path,
    options: RunOptions | None = None,
    **changes: Any,
) -> Result:
    """Calibrate one exposure and write its L2 file (and FITS copy with FITSOUT).

    Parameters
    ----------
    config : Job, mapping, str or Path
        The configuration, or its YAML file; or the result of `prepare`.
    options : RunOptions, optional
        How to run; no number depends on it.
    **changes
        Single options, by the names that they have in `RunOptions`:
        ``calibrate("config.yaml", threads=4)``.

    Returns
    -------
    Result

    Raises
    ------
    InputError
        If the configuration or a file cannot be used. Nothing is written then.
    TypeError
        If there is no such option.

    Notes
    -----
    The file's images are (N-8, N-8), rates and errors in DN/s; the manual lists all arrays under
    "Files". The formula of each step and its source are there under "Algorithms".

    Examples
    --------
    >>> made = calibrate("config.yaml", threads=4)  # doctest: +SKIP
    >>> made.out, made.medsky  # doctest: +SKIP
    """
    options = RunOptions.of(options, changes)
    with Progress(options.show_progress) as clock:
        clock.begin("open")
        job = config if isinstance(config, Job) else prepare(config)
        return _calibrate([job], options, clock)[0]


def calibrate_together(
    jobs: Sequence[Job], options: RunOptions | None = None, **changes: Any
) -> list[Result]:
    """`calibrate` several exposures at once. Where they have reference files in common, each window
    of these is read once for all of them. The same numbers.

    Parameters
    ----------
    jobs : sequence of Job
        `alike`.
    options, **changes
        As for `calibrate`; in this process.

    Returns
    -------
    list of Result
        Where they share the time, it is divided by their number.

    Raises
    ------
    InputError, OSError
        If something is wrong with one of them; of none there is a file then.
    """
    options = RunOptions.of(options, changes)
    with Progress(options.show_progress) as clock:
        clock.begin("open")
        return _calibrate(jobs, options, clock)


def _calibrate(jobs: Sequence[Job], options: RunOptions, clock: Progress) -> list[Result]:
    """See `calibrate` and `calibrate_together`."""
    first, number = jobs[0], len(jobs)
    tile, threads = tile_and_threads(first, options)
    for note in dict.fromkeys(note for job in jobs for note in job.notes):
        log.warning("%s", note)
    clock.stage("open")
    with ExitStack() as files:
        # Of each exposure its own, which end well or badly by themselves.
        own = [files.enter_context(ExitStack()) for _ in jobs]
        targets = [_target(job, its) for job, its in zip(jobs, own, strict=True)]
        # A given limit of memory is for one process; with one processor nothing is gained.
        second = options.scheduler == "local" and options.memory is None and cpu_count() > 1
        with (
            precompiling(first) if second else nullcontext(),
            ThreadPoolExecutor(1) as pool,
        ):
            load_all(name for bound in first.steps for name in bound.step.imports)
            with running(options.scheduler, threads) as client:
                # Imports for the metadata are slow: do them while tiles are computed.
                models = [pool.submit(l2_model, job) for job in jobs]
                graphed = calibration_graph(targets, tile, options.per_step)
                found = _compute(graphed, clock, client)
            segments: list[Spent] = found[0]["seconds"]
            clock.stage("tiles", segments[0].finished)
            clock.stage("sky", segments[-1].finished)
            clock.stage("mask")
            clock.begin("write")
            steps = _steps(segments, number)
            stages = {name: seconds / number for name, seconds in clock.seconds.items()}
            timings = {"stages": stages, "steps": steps, "tile": list(tile)}
            named = []
            for target, model, one, its in zip(targets, models, found, own, strict=True):
                job = target.job
                with naming(job.config.IN):
                    finished = with_measured(model.result(), job, one["measured"])
                    target.file.finish(finished, processinfo(job, one) | {"timings": timings})
                forget_schemas()  # asdf keeps those of each file
                # The disk takes one file while the next one is finished.
                named.append(pool.submit(its.close))
            for done in named:
                done.result()
    clock.stage("write")
    for target, one in zip(targets, found, strict=True):
        job, masked = target.job, _masked(target, one)
        for line in warnings(getattr(job.params("sky"), "order", None), one["measured"]):
            log.warning("%s", line)
        log.info("wrote %s (%.2f%% of the pixels masked)", job.config.OUT, 100 * masked)
    return [
        Result(
            target.job.config.OUT,
            fits_name(target.job.config.OUT) if target.job.config.FITSOUT else None,
            medsky(one["measured"]),
            _masked(target, one),
            {name: seconds / number for name, seconds in clock.seconds.items()},
            steps,
        )
        for target, one in zip(targets, found, strict=True)
    ]


def _target(job: Job, files: ExitStack) -> Target:
    """The files of a calibration, which get their names once `files` ends well."""
    parts = files.enter_context(replacing(*outputs(job.config)))
    store = files.enter_context(scratch_store(job.config, job.steps, job.exposure))
    file, copy = l2_file(job, parts[0]), None
    if job.config.FITSOUT:
        copy = FitsCopy.create(parts[1], file.blocks["data"].window, uniform_light(job))
    return Target(job, file, copy, store)


def _masked(target: Target, found: Mapping[str, Any]) -> float:
    """Fraction of pixels in the combined mask."""
    return sum(found["masked"]) / int(np.prod(target.file.blocks["mask"].shape))


def _steps(segments: Sequence[Spent], number: int) -> dict[str, float]:
    """Processor time by step, added up over the segments, for each of `number` exposures."""
    total: dict[str, float] = {}
    for segment in segments:
        for name, seconds in segment.steps.items():
            total[name] = total.get(name, 0.0) + seconds / number
    for name, seconds in total.items():
        log.debug("  %-16s %7.2f s of processor time", name, seconds)
    return total


def _compute(
    graphed: tuple[list[dict[str, Any]], list[Stage]], clock: Progress, client: Any
) -> list[dict[str, Any]]:
    """Run the graph: each tile is written to the files as soon as it is finished."""
    wanted, stages = graphed
    with clock.counting(stages, client):
        (found,) = dask.compute(wanted)
    computed: list[dict[str, Any]] = found
    return computed
