"""Noise layers of a NOISE block: one Dask graph, with intermediate arrays in the TEMP store.

For each layer with R: the noisy plane of each resultant is written to a cube in the store; the
recipe runs on the cube exactly as on an exposure; the L2 image of the noise-free ramp is
subtracted. Other noise is drawn on the L2 image in fixed detector blocks. When the parts of a layer
are complete, one task adds them up, computes its statistics and writes it to the output. A layer
starts when the one before the last is finished, so memory and disk space do not grow with the
number of layers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask

from ..config.model import Config
from ..config.noise_labels import Layer, parse, warn_about
from ..core.detector import BORDER, Grid, Window
from ..engine.options import RunOptions
from ..engine.progress import Progress
from ..engine.schedulers import running
from ..errors import InputError
from ..io.atomic import replacing
from ..io.blocks import Block
from ..io.fits import create_fits
from ..io.inplace import InPlaceFile
from ..io.layout import Layout, read_layout
from ..io.spill import NotWritten, TempStore, temp_store
from .base_ramp import forget_planes
from .job import Job, noise_outputs, prepare, temp_needed
from .layer_inputs import left_out
from .layer_needs import check_needs
from .layer_plan import LayerPlan, build_layers
from .layer_sum import note_name
from .memory import stack_depth, tile_and_threads
from .provenance import provenance
from .scratch import scratch_needed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NoiseResult:
    """The files that `generate_noise` has written, and the statistics of their layers.

    Attributes
    ----------
    out : Path
        The noise file.
    fits : Path or None
        Its FITS copy.
    layers : list of dict
        Label, median, sigma (DN/s), clipped fraction, pixels without a draw or a finite number,
        and whether a polynomial was not found, of each layer.
    seconds : float
        Wall time, s.
    """

    out: Path
    fits: Path | None
    layers: list[dict[str, Any]]
    seconds: float


def generate_noise(
    config: Job | Config | Mapping[str, Any] | str | Path,
    options: RunOptions | None = None,
    *,
    keep_temp: bool = False,
    **changes: Any,
) -> NoiseResult:
    """Make the noise layers of a configuration's NOISE block.

    The exposure must have been calibrated (with SLICEOUT) from the same inputs before.

    Parameters
    ----------
    config : Job, mapping, str or Path
        The configuration, or its YAML file; or the result of ``prepare(config, noise=True)``.
    options : RunOptions, optional
        How to run; the layers do not depend on it.
    keep_temp : bool
        Keep the TEMP store.
    **changes
        Single options, by the names that they have in `RunOptions`.

    Returns
    -------
    NoiseResult
        Its file holds the layers as one cube (L, N-8, N-8), DN/s, in the order of ``NOISE.LAYER``.

    Raises
    ------
    InputError
        If the configuration, a label or a file cannot be used, or OUT was made from other inputs.
        Nothing is written then.
    TypeError
        If there is no such option.

    Notes
    -----
    What each letter of a label draws, and the source of its formula, is in the manual under "Noise
    layers".
    """
    options = RunOptions.of(options, changes)
    job = config if isinstance(config, Job) else prepare(config, noise=True)
    return _generate([job], options, keep_temp)[0]


def generate_noise_together(
    jobs: Sequence[Job], options: RunOptions | None = None, **changes: Any
) -> list[NoiseResult]:
    """`generate_noise` for several exposures at once. Where they have reference files in common,
    each window of these is read once for all of them, and what does not depend on the exposure is
    done once for the ramps without noise. The same numbers.

    Parameters
    ----------
    jobs : sequence of Job
        Of `prepare`, `alike`, with the same layers.
    options, **changes
        As for `generate_noise`; in this process.

    Returns
    -------
    list of NoiseResult

    Raises
    ------
    InputError, OSError
        If something is wrong with one of them; of none there is a noise file then.
    """
    return _generate(jobs, RunOptions.of(options, changes), False)


@dataclass
class _Run:
    """The noise of an exposure in the making."""

    job: Job
    finals: Sequence[Path]
    store: TempStore
    file: InPlaceFile
    planes: list[list[Block]]
    new_plan: Callable[[], LayerPlan]


def _generate(jobs: Sequence[Job], options: RunOptions, keep_temp: bool) -> list[NoiseResult]:
    began = time.perf_counter()
    first = jobs[0]
    for job in jobs:
        if job.config.NOISE is None or not job.layers:
            raise InputError("NOISE: missing, expected LAYER, TEMP, SEED and OUT")
    layers = [layer for layer, _ in first.layers]
    warn_about(layers)
    for lack in left_out(layers, first.inputs, first.steps):
        log.warning("%s", lack)
    images = [open_l2(job, job.layers) for job in jobs]
    size, threads = tile_and_threads(first, options, layers)
    depth = stack_depth(first, options, size, threads, layers)
    grid = Grid(first.exposure.side, size)
    runs = []
    with ExitStack() as outputs, ExitStack() as stores:
        for job, l2 in zip(jobs, images, strict=True):
            noise = job.config.NOISE
            assert noise is not None
            finals = noise_outputs(job.config)
            parts = outputs.enter_context(replacing(*finals))
            needed = temp_needed(job.exposure, job.layers, scratch_needed(job.steps, job.exposure))
            needed *= len(jobs)  # the others begin to fill theirs when all are there
            store = stores.enter_context(
                temp_store(noise.TEMP, needed, keep_temp, reuse=options.here)
            )
            file, planes = _outputs(job, parts, len(job.layers))
            plan = partial(LayerPlan, job, l2, grid, store, options.per_step, planes, depth)
            runs.append(_Run(job, finals, store, file, planes, plan))
        with (
            running(options.scheduler, threads) as client,
            Progress(options.show_progress) as shown,
        ):
            try:
                found = _make(runs, partial(shown.counting, client=client))
            finally:
                forget_planes()
        for run, statistics in zip(runs, found, strict=True):
            for line in statistics:
                _log_layer(line)
            run.file.finish(
                {
                    "config": run.job.config.raw,
                    "noise": run.file.node("noise"),
                    "statistics": statistics,
                    "seconds": (time.perf_counter() - began) / len(jobs),
                    "provenance": provenance(run.job, "noise"),
                }
            )
    seconds = (time.perf_counter() - began) / len(jobs)
    results = []
    for run, statistics in zip(runs, found, strict=True):
        out, *copies = run.finals
        log.info("wrote %s, %d layers in %.1f s", out, len(statistics), seconds)
        results.append(NoiseResult(out, copies[0] if copies else None, statistics, seconds))
    return results


def open_l2(job: Job, layers: Sequence[tuple[Layer, int]]) -> Layout:
    """The calibrated exposure, which must have been made from the same inputs.

    Raises
    ------
    InputError
        Naming what is missing or differs.
    """
    layout = read_layout(job.config.OUT)
    made_by = layout.value("processinfo", "provenance", default={})
    now = provenance(job)
    for key, file in now["files"].items():
        then = made_by.get("files", {}).get(key, {})
        if then.get("content") != file["content"]:
            raise InputError(
                f"OUT: {job.config.OUT}: was not made from this {key} ({file['path']}); "
                "calibrate the exposure again"
            )
    then, wanted = made_by.get("recipe", {}).get("steps"), now["recipe"]["steps"]
    if then != wanted:
        raise InputError(
            f"OUT: {job.config.OUT}: was made with other steps or options"
            f"{_other_steps(then, wanted)}; calibrate the exposure again"
        )
    check_needs(job, layout, [layer for layer, _ in layers])
    return layout


def _other_steps(then: Any, wanted: Sequence[Mapping[str, Any]]) -> str:
    """The steps that only one of two recipes has, in brackets; empty if they differ in options."""
    made, now = ([next(iter(step), "") for step in steps or ()] for steps in (then, wanted))
    only, missing = ([n for n in a if n not in b] for a, b in ((made, now), (now, made)))
    if not only and not missing:
        return ""
    return f" ({', '.join(only) or 'no more'} instead of {', '.join(missing) or 'no more'})"


def _make(
    runs: Sequence[_Run], counting: Callable[..., AbstractContextManager[None]]
) -> list[list[dict[str, Any]]]:
    """Make all layers of all exposures; their statistics.

    A finished layer is noted in the store, and its temporary arrays are deleted. If its worker dies
    after that, Dask tries to make it again and cannot. So the layers without a note are made by a
    new graph, as long as each attempt finishes at least one.
    """
    todo = [[*range(len(run.job.layers))] for run in runs]
    while any(todo):
        plans = [run.new_plan() for run in runs]
        wanted = [
            [(i, *run.job.layers[i]) for i in left] for run, left in zip(runs, todo, strict=True)
        ]
        try:
            tasks = build_layers(plans, wanted)
            stages = [stage for plan in plans for stage in plan.stages]
            with counting(stages, in_turn=False):
                dask.compute(tasks)
        except NotWritten as error:
            left = [
                [i for i in some if run.store.note(note_name(i)) is None]
                for run, some in zip(runs, todo, strict=True)
            ]
            number = sum(map(len, left))
            if number == sum(map(len, todo)):
                raise
            log.warning("%s; %d layers are made again", error, number)
            todo = left
        else:
            break
    return [_statistics(run) for run in runs]


def _statistics(run: _Run) -> list[dict[str, Any]]:
    """Of all layers of an exposure, which are finished."""
    notes = [run.store.note(note_name(i)) for i in range(len(run.job.layers))]
    missing = [run.job.layers[i][0].label for i, note in enumerate(notes) if note is None]
    if missing:
        raise RuntimeError(
            f"{run.store.path}: layers {', '.join(missing)} are not noted as finished"
        )
    return [note for note in notes if note is not None]


# -- the output ----------------------------------------------------------------------------------


def _log_layer(line: Mapping[str, Any]) -> None:
    clipped = f", {100 * line['clipped']:.4f}% clipped" if parse(line["label"]).clips else ""
    log.info(
        "layer %-12s median %+.3e, sigma %.3e DN/s%s",
        line["label"],
        line["median"],
        line["sigma"],
        clipped,
    )
    if line["inadmissible"]:
        # Where the mask leaves none of them in use, there is nothing to see to.
        log.log(logging.WARNING if matters(line) else logging.INFO, "%s", no_draw(line))
    for warning in unusable(line):
        log.warning("%s", warning)


def unusable(line: Mapping[str, Any]) -> list[str]:
    """Warnings about pixels of a layer that have no number, and a polynomial that was not found."""
    found = []
    if line.get("not_finite"):
        found.append(
            f"layer {line['label']}: {line['not_finite']} pixels have no finite noise, they are 0"
        )
    if line.get("without_sky"):
        found.append(
            f"layer {line['label']}: too few cells with usable pixels for its polynomial, "
            "it is left out"
        )
    return found


def matters(line: Mapping[str, Any]) -> bool:
    """Whether pixels without a draw are used; in files of earlier versions, where it is not told,
    whether there are any."""
    return bool(line.get("inadmissible_unmasked", line["inadmissible"]))


def no_draw(line: Mapping[str, Any]) -> str:
    """What to say of pixels of a layer that have no draw."""
    commands = parse(line["label"]).commands
    used = line.get("inadmissible_unmasked")
    unmasked = "" if used is None else f"; {used or 'none'} of them unmasked"
    reasons = [command.no_draw for command, _ in commands if command.no_draw]
    return (
        f"layer {line['label']}: {line['inadmissible']} pixels "
        f"{' or '.join(reasons) or 'have no draw'}, they are 0{unmasked}"
    )


def _outputs(
    job: Job, parts: Sequence[Path], n_layers: int
) -> tuple[InPlaceFile, list[list[Block]]]:
    """The noise file in the making, and for each layer its places there and in the FITS copy."""
    side = job.exposure.side
    active = Window(BORDER, side - BORDER, BORDER, side - BORDER)
    file = InPlaceFile(parts[0])
    cubes = [file.add("noise", f"float{job.config.NOISE_PRECISION}", active, n_layers)]
    file.create()
    if parts[1:]:
        cubes += create_fits(parts[1], [active], [n_layers], [-32], [[("BUNIT", "DN/s", "")]])
    return file, [[cube.plane(j) for cube in cubes] for j in range(n_layers)]
