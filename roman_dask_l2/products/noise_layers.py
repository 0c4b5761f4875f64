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
from contextlib import AbstractContextManager
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
from .job import Job, noise_outputs, prepare, temp_needed
from .layer_inputs import left_out
from .layer_needs import check_needs
from .layer_plan import LayerPlan
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
    began = time.perf_counter()
    options = RunOptions.of(options, changes)
    job = config if isinstance(config, Job) else prepare(config, noise=True)
    layers, finals, noise = job.layers, noise_outputs(job.config), job.config.NOISE
    if noise is None or not layers:
        raise InputError("NOISE: missing, expected LAYER, TEMP, SEED and OUT")
    warn_about(layer for layer, _ in layers)
    for lack in left_out([layer for layer, _ in layers], job.inputs, job.steps):
        log.warning("%s", lack)
    l2 = open_l2(job, layers)
    size, threads = tile_and_threads(job, options, [layer for layer, _ in layers])
    depth = stack_depth(job, options, size, threads, [layer for layer, _ in layers])
    grid = Grid(job.exposure.side, size)
    needed = temp_needed(job.exposure, layers, scratch_needed(job.steps, job.exposure))
    with (
        replacing(*finals) as parts,
        temp_store(noise.TEMP, needed, keep_temp, reuse=options.here) as store,
        running(options.scheduler, threads) as client,
        Progress(options.show_progress) as shown,
    ):
        file, planes = _outputs(job, parts, len(layers))
        new_plan = partial(LayerPlan, job, l2, grid, store, options.per_step, planes, depth)
        statistics = _make(layers, store, new_plan, partial(shown.counting, client=client))
        for line in statistics:
            _log_layer(line)
        file.finish(
            {
                "config": job.config.raw,
                "noise": file.node("noise"),
                "statistics": statistics,
                "seconds": time.perf_counter() - began,
                "provenance": provenance(job, "noise"),
            }
        )
    seconds = time.perf_counter() - began
    log.info("wrote %s, %d layers in %.1f s", noise.OUT, len(layers), seconds)
    return NoiseResult(noise.OUT, finals[1] if finals[1:] else None, statistics, seconds)


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
    layers: Sequence[tuple[Layer, int]],
    store: TempStore,
    new_plan: Callable[[], LayerPlan],
    counting: Callable[..., AbstractContextManager[None]],
) -> list[dict[str, Any]]:
    """Make all layers; their statistics.

    A finished layer is noted in the store, and its temporary arrays are deleted. If its worker dies
    after that, Dask tries to make it again and cannot. So the layers without a note are made by a
    new graph, as long as each attempt finishes at least one.
    """
    todo = [*range(len(layers))]
    while todo:
        plan = new_plan()
        try:
            tasks = plan.layers([(i, *layers[i]) for i in todo])
            with counting(plan.stages, in_turn=False):
                dask.compute(tasks)
        except NotWritten as error:
            left = [i for i in todo if store.note(note_name(i)) is None]
            if len(left) == len(todo):
                raise
            log.warning("%s; %d layers are made again", error, len(left))
            todo = left
        else:
            break
    notes = [store.note(note_name(i)) for i in range(len(layers))]
    missing = [layers[i][0].label for i, note in enumerate(notes) if note is None]
    if missing:
        raise RuntimeError(f"{store.path}: layers {', '.join(missing)} are not noted as finished")
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
