"""One exposure from its configuration to its L2 file.

`l1_to_l2` builds the lazy arrays; `calibrate` computes and writes them. Files are opened and
checked before that, in `roman_dask_l2.products.job`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
from dask.delayed import delayed

from ..config.model import Config
from ..core.detector import BORDER, Grid, Window, parse_tile
from ..core.exposure import index_dtype
from ..core.float16 import to_float16
from ..core.median import median
from ..core.step import VARIABLES
from ..engine import graph, plan, tasks
from ..engine.options import RunOptions
from ..engine.progress import Progress, Stage
from ..engine.schedulers import in_flight, running
from ..engine.tiles import Spent
from ..errors import InputError
from ..io.atomic import replacing
from ..io.blocks import Block
from ..io.fits import FitsCopy, fits_name
from ..io.l2 import L2File, naming
from ..io.l2_arrays import IMAGE_ARRAYS, stored_images
from ..io.references import Inputs
from ..io.spill import TempStore
from ..steps.common import all_finite
from ..system.foreign import load_all
from ..system.processes import cpu_count
from .job import Job, jump_flags, outputs, prepare
from .left_out import kept_bits, warnings
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


def _l2_names(job: Job) -> dict[str, str]:
    """Additional arrays of the L2 file that the recipe requests, with the types in the file."""
    kinds = {name: VARIABLES[name].dtype for name in job.recipe.outputs}
    return {name: "float16" if kind == "float32" else kind for name, kind in kinds.items()}


def _lazy(job: Job, tile: Any, per_step: bool) -> dict[str, da.Array]:
    """The results as the L2 file names them, cut to the active pixels."""
    grid = Grid(job.exposure.side, parse_tile(tile, job.exposure.side))
    kind = index_dtype(job.exposure.n_resultants)
    made = {w for b in job.steps for w in b.step.writes}
    types = IMAGE_ARRAYS | {"mask": "bool", "endslice": kind} | _l2_names(job)
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
        config = job.config
        tile, threads = tile_and_threads(job, options)
        for note in job.notes:
            log.warning("%s", note)
        clock.stage("open")
        with (
            replacing(*outputs(config)) as parts,
            scratch_store(config, job.steps, job.exposure) as store,
        ):
            file = l2_file(job, parts[0])
            copy = None
            if config.FITSOUT:
                window = file.blocks["data"].window
                copy = FitsCopy.create(parts[1], window, uniform_light(job))
            # A given limit of memory is for one process; with one processor nothing is gained.
            second = options.scheduler == "local" and options.memory is None and cpu_count() > 1
            with (
                precompiling(job) if second else nullcontext(),
                ThreadPoolExecutor(1) as pool,
            ):
                load_all(name for bound in job.steps for name in bound.step.imports)
                with running(options.scheduler, threads) as client:
                    # Imports for the metadata are slow: do them while tiles are computed.
                    model = pool.submit(l2_model, job)
                    graphed = calibration_graph(job, file, copy, tile, options.per_step, store)
                    found = _compute(file, graphed, clock, client)
                segments: list[Spent] = found["seconds"]
                clock.stage("tiles", segments[0].finished)
                clock.stage("sky", segments[-1].finished)
                clock.stage("mask")
                clock.begin("write")
                steps = _steps(segments)
                timings = {"stages": dict(clock.seconds), "steps": steps, "tile": list(tile)}
                with naming(config.IN):
                    finished = with_measured(model.result(), job, found["measured"])
                    file.finish(finished, processinfo(job, found) | {"timings": timings})
        clock.stage("write")
    for line in warnings(getattr(job.params("sky"), "order", None), found["measured"]):
        log.warning("%s", line)
    log.info("wrote %s (%.2f%% of the pixels masked)", config.OUT, 100 * found["masked"])
    return Result(
        config.OUT,
        fits_name(config.OUT) if config.FITSOUT else None,
        medsky(found["measured"]),
        found["masked"],
        clock.seconds,
        steps,
    )


def _steps(segments: Sequence[Spent]) -> dict[str, float]:
    """Processor time by step, added up over the segments."""
    total: dict[str, float] = {}
    for segment in segments:
        for name, seconds in segment.steps.items():
            total[name] = total.get(name, 0.0) + seconds
    for name, seconds in total.items():
        log.debug("  %-16s %7.2f s of processor time", name, seconds)
    return total


def l2_file(job: Job, path: Path) -> L2File:
    """The L2 file of an exposure, created without pixels."""
    made = {w for b in job.steps for w in b.step.writes}
    exposure = job.exposure
    return L2File(
        path,
        exposure.side,
        exposure.n_resultants,
        made,
        _l2_names(job),
        job.config.SLICEOUT,
        kept_bits(job),
        jump_flags(job.steps)[1] if job.config.JUMPOUT else None,
        job.recipe.border != "raw",
    )


def _border_taps(job: Job, file: L2File) -> list[plan.Tap]:
    """The mission's L2 files hold the reference pixels as they were read, uncorrected; those of
    romancal 1.1 have the left and right ones as all steps have left them, and flags of dq_init."""
    ramps = [b.name for b in job.steps if "ramp" in b.step.writes]
    if job.recipe.border == "raw":
        return [plan.Tap(ramps[0], "ramp", file.border())]
    flags = next(b.name for b in job.steps if "pixeldq" in b.step.writes)
    return [
        plan.Tap(ramps[0], "ramp", file.border(("top", "bottom"))),
        plan.Tap(ramps[-1], "ramp", file.border(("left", "right"))),
        plan.Tap(flags, "pixeldq", file.border_flags()),
    ]


def _compute(
    file: L2File, graphed: tuple[dict[str, Any], list[Stage]], clock: Progress, client: Any
) -> dict[str, Any]:
    """Run the graph: each tile is written to the files as soon as it is finished."""
    tasks, stages = graphed
    with clock.counting(stages, client):
        (found,) = dask.compute(tasks)
    found["masked"] = sum(found["masked"]) / int(np.prod(file.blocks["mask"].shape))
    return found


def calibration_graph(
    job: Job,
    file: L2File,
    copy: FitsCopy | None,
    tile: tuple[int, int],
    per_step: bool = False,
    store: TempStore | None = None,
) -> tuple[dict[str, Any], list[Stage]]:
    """All tasks of a calibration, and the tasks of each stage. Reads no pixels.

    Parameters
    ----------
    job : Job
    file : L2File
        Created, without pixels.
    copy : FitsCopy or None
    tile : tuple of int
        Rows and columns.
    per_step : bool
    store : TempStore, optional
        Where steps put corrections that are too large for the memory.

    Returns
    -------
    tasks : dict
        Dask collections.
    stages : list of Stage
        ``tiles``, ``sky`` and ``copy``.
    """
    grid = Grid(job.exposure.side, tile)
    taps = _border_taps(job, file)
    if file.bits is not None:
        kept = file.bits.kept
        taps.append(plan.Tap(kept.step, kept.variable, file.bits))
    if file.jumps is not None:
        taps.append(plan.Tap(*jump_flags(job.steps), file.jumps))
    lazy = graph.build(
        job.steps,
        job.inputs,
        grid,
        (),
        per_step,
        sinks=file.sinks(),
        taps=taps,
        in_flight=in_flight(),
        scratch=store,
    )
    blocks = file.blocks
    found: dict[str, Any] = {
        "seconds": lazy.seconds,
        "measured": lazy.measured,
        "amp33": delayed(_put_amp33)(
            job.inputs.sources["l1.amp33"], blocks["amp33"], lazy.measured.get("refpix_irrc", {})
        ),
        "medgain": delayed(_median_gain)(job.inputs),
    }
    windows = [(grid.window(*place), blocks, copy) for place in np.ndindex(*grid.shape)]
    copying: dict[str, int] = {}
    found["masked"] = tasks.fan("copy", _copy, windows, lazy.seconds, copying)
    later = {task: n for segment in lazy.work[1:] for task, n in segment.items()}
    stages = [
        Stage("tiles", lazy.work[0], "tiles"),
        Stage("sky", later, "parts"),
        Stage("mask", lazy.aside | copying, "parts"),
    ]
    return found, [stage for stage in stages if stage.tasks]


def _put_amp33(source: Any, block: Block, measured: Mapping[str, Any]) -> None:
    """Write the reference output: as the reference-pixel correction leaves it, if it says so, else
    as it was read."""
    changed = measured.get("amp33")
    block.put(source.read() if changed is None else changed, block.window)


def _copy(window: Window, blocks: Mapping[str, Block], copy: FitsCopy | None, ready: Any) -> int:
    """Count the masked pixels of a tile, and copy the tile to the FITS file if there is one."""
    mask = blocks["mask"].read(window)
    if copy is not None:
        copy.put(blocks["data"].read(window), blocks["dq"].read(window), mask, window)
    return int(mask.sum())


def _median_gain(inputs: Inputs) -> tuple[float, int]:
    """Median of the gain file, e/DN, and how many values are not finite."""
    source = inputs.sources["gain.data"]
    gain = source.read()
    left_out = 0 if all_finite(gain) else int(np.count_nonzero(~np.isfinite(gain)))
    if left_out == gain.size:
        raise InputError(f"CALDIR.gain: {source.array.path}: no finite gain in roman.data")
    if gain.dtype == np.float32:
        return median(gain, finite=True), left_out
    return float(np.median(gain[np.isfinite(gain)])), left_out
