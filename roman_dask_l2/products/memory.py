"""Estimate of the memory that a run will need, from the declarations of its steps.

Resident memory is the sum of the interpreter and its libraries, decompressed inputs that are kept,
and for each thread one tile with all arrays that a step holds of it (or a whole image, where a task
reads one). It does not depend on the number of tiles: finished tiles are in the file.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..config.model import Config
from ..config.noise_labels import Layer, parse_all
from ..core.detector import CHANNEL_WIDTH, Grid, parse_tile
from ..core.step import VARIABLES, BoundStep
from ..engine import plan
from ..engine.amounts import parse_memory
from ..engine.options import RunOptions
from ..errors import InputError
from ..io.arrays import PIECE_BYTES, PixelArea, Placed, ReadTime, pieces_kept
from ..io.references import Inputs
from ..io.spill import LAYERS_IN_FLIGHT
from ..system.memory import available, resident
from ..system.processes import cpu_count
from .job import Job
from .provenance import Product

log = logging.getLogger(__name__)

BASE = 250e6
"""Resident bytes of Python with all libraries and compiled kernels, measured."""
SCRATCH = 24
"""Bytes per pixel of a tile for working arrays of kernels and for pixels that are being read."""
SPARE = 1.25
"""Memory that the allocator holds for each byte in use, measured."""
NOISE_PLANE = 2
"""Bytes per pixel of the plane in the task that makes one resultant with noise."""
READ_NOISE = 4
"""Bytes per pixel of the read noise, which all such tasks share."""
NOISE_CHANNEL = 40
"""Bytes per pixel of a channel in that task: draws, and the transform of the 1/f noise."""
DRAWN = 64
"""Bytes per pixel of a row of blocks in the task that draws noise on the image."""
NOISE_FINISH = 5.5
"""Bytes per pixel of the image in the task that adds a layer up."""
EXPOSURE = 20e6
"""Bytes that another exposure in the same task takes beside its pixels: metadata, files, graph."""
TOGETHER = 1.2e9
"""Bytes that exposures which are calibrated together may take, where no limit is given."""
ROWS = (256, 128, 64, 32)
"""Heights of full-width tiles that are tried, the fastest first."""


def _reference(inputs: Inputs, name: str) -> float:
    """Bytes per pixel of a tile of a reference array."""
    source = inputs.sources.get(name)
    if isinstance(source, Placed):
        lead = source.array.shape[:-2]
        if source.planes is not None:
            lead = (source.planes, *lead[1:])
        kind = np.dtype(source.dtype or source.array.dtype).itemsize
        return math.prod(lead) * kind if len(source.array.shape) > 1 else 0.0
    return 8.0 if isinstance(source, PixelArea | ReadTime) else 0.0


def _variable(name: str, n_resultants: int) -> float:
    variable = VARIABLES[name]
    return math.prod(variable.lead(n_resultants)) * np.dtype(variable.dtype).itemsize


def pixel_bytes(
    steps: Sequence[BoundStep], inputs: Inputs, entering: Sequence[str] = (), ramps: int = 1
) -> float:
    """Peak of the bytes per pixel in use while `steps` run on a tile of a stack of `ramps`.

    As in `kernels.run_stack`, all variables are kept until the end, and a reference array until the
    last step that uses it; a step holds what it reads and what it writes, of one ramp at a time.
    """
    r = inputs.exposure.n_resultants
    have = {name: _variable(name, r) for name in entering}
    shared: dict[str, float] = {}
    peak = ramps * sum(have.values())
    for b, references, kept in plan.reference_lives(steps):
        loaded = shared | {name: _reference(inputs, name) for name in references.values()}
        shared = {name: size for name, size in loaded.items() if name in kept}
        made = {name: _variable(name, r) for name in b.step.writes}
        if b.step.spill is not None:
            loaded[""] = r * np.dtype(b.step.spill.dtype).itemsize
        own = sum(_reference(inputs, n) for n in references.values() if n.startswith("l1."))
        alive = ramps * sum(have.values()) + sum(loaded.values()) + sum(made.values())
        alive += (ramps - 1) * (own + sum(made[n] for n in made if n not in have))
        peak = max(peak, alive)
        have |= made
    return peak + SCRATCH


def project(
    job: Job,
    tile: tuple[int, int],
    threads: int,
    layers: Sequence[Layer] = (),
    depth: int = LAYERS_IN_FLIGHT,
    exposures: int = 1,
) -> float:
    """Estimated peak of resident memory of a calibration, or of making noise layers.

    Parameters
    ----------
    job : Job
    tile : tuple of int
        Rows and columns.
    threads : int
    layers : sequence of Layer
        The noise layers; none for the calibration.
    depth : int
        How many noisy ramps run together.
    exposures : int
        How many exposures like this one are calibrated together.

    Returns
    -------
    float
        Bytes.
    """
    side, inputs = job.exposure.side, job.inputs
    busy = min(threads, math.prod(Grid(side, tile).shape))  # threads that have a tile
    sinks = {w for b in job.steps for w in b.step.writes if VARIABLES[w].dims == "yx"}
    largest = 0.0
    ramps = (ramps_together(layers, depth) if layers else 1) * exposures
    for segment in plan.make_segments(job.steps, sinks):
        rows, columns = (min(n + 2 * segment.halo, side) for n in tile)
        each = pixel_bytes(segment.steps, inputs, segment.enter, ramps)
        largest = max(largest, rows * columns * each)
    # One task reads a whole image: the gain for its median, rate and mask for the background; with
    # its option `border` rate, flags and the mask that is made of them.
    flags = 4.0 * any(b.name == "medsky" and getattr(b.params, "border", False) for b in job.steps)
    whole = side**2 * max(_reference(inputs, "gain.data"), 4.0 + 1.0 + flags + 8.0 / 16)
    for bound in job.steps:
        if bound.step.reduction is not None:
            whole = max(whole, bound.step.reduction.holds(job.exposure, bound.params))
    work = max(
        (busy - 1) * largest + max(largest, whole), _strips(job, threads), _thin(job, threads)
    )
    if layers:
        reads = any(layer.ramp is not None for layer in layers)
        if not reads:  # no ramp runs through the recipe
            largest = CHANNEL_WIDTH * side * DRAWN
        channel = NOISE_CHANNEL * CHANNEL_WIDTH * side * reads
        finishing = min(threads, len(layers) * exposures)
        if not reads:  # one is added up while others are drawn, which takes longer
            finishing = min(finishing, 1 + threads // 4)
        work = max(threads * max(largest, channel), finishing * NOISE_FINISH * side**2)
        # These are kept for the next resultant.
        work += (threads * NOISE_PLANE + READ_NOISE) * side**2 * reads
        # Layers under way may be at their corrections at the same time.
        spectra = min(sum(layer.ramp is not None for layer in layers), LAYERS_IN_FLIGHT)
        work += spectra * _strips(job, 0) + (_strips(job, threads) - _strips(job, 0))
        if not reads:
            gain = {name: inputs.sources[name] for name in inputs.sources if name == "gain.data"}
            return BASE + SPARE * (work + _unpacked(gain))
    sources = dict(inputs.sources)
    if layers and not any(layer.ramp == "own" for layer in layers):
        # Ramps of noise take the exposure's place.
        sources = {name: source for name, source in sources.items() if not name.startswith("l1.")}
    own = {name: source for name, source in sources.items() if name.startswith("l1.")}
    more = (exposures - 1) * (_unpacked(own) + EXPOSURE)
    return BASE + SPARE * (work + _unpacked(sources) + more)


def ramps_together(layers: Sequence[Layer], depth: int) -> int:
    """Ramps in the largest stack: those of noise layers, and the base ramp of those with a dark."""
    kinds = [layer.ramp for layer in layers if layer.ramp is not None]
    return max(min(len(kinds), depth) + ("dark" in kinds), 1)


def _thin(job: Job, threads: int) -> float:
    """Bytes in use while something is measured before the tiles: a window on each thread with the
    steps that come first, beside what has been measured."""
    most = 0.0
    for i, bound in enumerate(job.steps):
        reduction = bound.step.reduction
        if reduction is None or not reduction.thin:
            continue
        windows = reduction.windows(job.exposure, bound.params)
        area = max((math.prod(window.shape) for window in windows), default=0)
        before = plan.feeding(job.steps[:i], reduction.reads_for(bound.params))
        each = pixel_bytes(before, job.inputs)
        held = reduction.holds(job.exposure, bound.params)
        most = max(most, min(threads, len(windows)) * area * each + held)
    return most


def _strips(job: Job, threads: int) -> float:
    """Bytes in use while corrections are made, strip by strip on each thread, of what was
    measured."""
    most = 0.0
    for bound in job.steps:
        reduction, spill = bound.step.reduction, bound.step.spill
        if reduction is not None and spill is not None:
            given = job.exposure, bound.params
            most = max(most, reduction.holds(*given) + threads * spill.holds(*given))
    return most


def _unpacked(sources: Mapping[str, Any]) -> float:
    """Bytes of compressed inputs that are kept decompressed; an array has several names where it is
    read in several ways."""
    total = 0.0
    placed = [source.array for source in sources.values() if isinstance(source, Placed)]
    for array in {(array.path, array.key): array for array in placed}.values():
        if array.offset is None:
            if array.packed is not None and not array.packed.compression:
                continue  # only strided: read directly from the file
            size = math.prod(array.shape) * np.dtype(array.dtype).itemsize
            kept = pieces_kept(array.shape) * PIECE_BYTES if array.in_pieces else size
            total += min(size, kept)
    return total


def choose(
    job: Job,
    limit: float,
    threads: int,
    tile: tuple[int, int] | None = None,
    layers: Sequence[Layer] = (),
) -> tuple[tuple[int, int], int]:
    """The fastest size of tiles and number of threads whose memory stays under a limit.

    Parameters
    ----------
    job : Job
    limit : float
        Of resident memory, bytes.
    threads : int
        Maximum.
    tile : tuple of int, optional
        Size of the tiles, if it is given.
    layers : sequence of Layer
        Noise layers to make; none for the calibration.

    Raises
    ------
    InputError
        With numbers, if one thread with the smallest tile exceeds the limit.
    """
    side = job.exposure.side
    tiles = [tile] if tile is not None else [(min(rows, side), side) for rows in ROWS]
    for count in range(threads, 0, -1):
        for candidate in tiles:
            if project(job, candidate, count, layers, 1) <= limit:
                return candidate, count
    least = min(project(job, candidate, 1, layers, 1) for candidate in tiles)
    number = Grid(side, tiles[-1])
    raise InputError(
        f"--memory: {limit / 1e6:.0f} MB is too little, {job.config.IN.name} with "
        f"{job.exposure.n_resultants} resultants takes {least / 1e6:.0f} MB with one thread and "
        f"tiles of {number.tile[0]} x {number.tile[1]} pixels, {BASE / 1e6:.0f} MB of it before "
        "the first pixel"
    )


def stack_depth(
    job: Job,
    options: RunOptions,
    tile: tuple[int, int],
    threads: int | None,
    layers: Sequence[Layer],
) -> int:
    """How many noisy ramps may run together under the limit of memory, if there is one."""
    if options.memory is None or not options.here:
        return LAYERS_IN_FLIGHT
    limit = parse_memory(options.memory)
    for depth in range(LAYERS_IN_FLIGHT, 1, -1):
        if project(job, tile, threads or cpu_count(), layers, depth) <= limit:
            return depth
    return 1


def exposures_together(job: Job, options: RunOptions, most: int, product: Product = "l2") -> int:
    """How many exposures like this one, `most` at most, can be calibrated together, or have their
    noise made: in this process, and in the memory that it may take."""
    if not options.here or options.per_step:
        return 1
    layers = layers_of(job.config, product)
    tile, threads = tile_and_threads(job, options, layers)
    if options.memory is None:  # what a job or a control group leaves may be less
        limit = min(TOGETHER, resident() + available())
    else:
        limit = parse_memory(options.memory)
    busy = 1 if options.scheduler == "synchronous" else threads or cpu_count()
    depth = stack_depth(job, options, tile, busy, layers)
    fitting = (
        n
        for n in range(most, 1, -1)
        if project(job, tile, busy, layers, depth, exposures=n) <= limit
    )
    return next(fitting, 1)


def layers_of(config: Config, product: Product) -> list[Layer]:
    """The noise layers of a product; none of an L2 file."""
    if product == "l2" or config.NOISE is None:
        return []
    return [layer for layer, _ in parse_all(config.NOISE.LAYER)]


def projected(job: Job, product: Product, tile: str | None, threads: int | None) -> float:
    """Estimated peak of resident memory when a product is made, bytes."""
    size = parse_tile(tile, job.exposure.side)
    return project(job, size, threads or cpu_count(), layers_of(job.config, product))


def tile_and_threads(
    job: Job, options: RunOptions, layers: Sequence[Layer] = ()
) -> tuple[tuple[int, int], int | None]:
    """Size of the tiles, and number of threads.

    If a limit of memory is given and the work is done in this process, they are chosen to stay
    under it.
    """
    side = job.exposure.side
    chosen = None if options.tile is None else parse_tile(options.tile, side)
    if options.memory is None or not options.here:
        return chosen or parse_tile(None, side), options.threads
    most = 1 if options.scheduler == "synchronous" else options.threads or cpu_count()
    size, count = choose(job, parse_memory(options.memory), most, chosen, layers)
    log.info("--memory %s: tiles of %d x %d pixels, %d threads", options.memory, *size, count)
    return size, count
