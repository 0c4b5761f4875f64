"""From a NOISE block to its layers: one Dask graph, intermediates in the TEMP store.

For each layer with R: every resultant's noisy plane is written to a cube in the store; the recipe
runs on the cube exactly as it does on an exposure; the L2 image of the noise-free ramp is taken
off. P and O are drawn on the L2 image in fixed detector blocks. When a layer's parts are there,
one task adds them up, takes its statistics, and writes the layer into its place in the output.
A layer starts when the one before the last is finished, so that memory and disk do not grow with
their number.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed

from .. import graph
from ..config import Config
from ..detector import BORDER, CHANNEL, Grid, Window
from ..dq import PIXEL
from ..errors import InputError
from ..exposure import Exposure
from ..io.arrays import FileArray, Placed
from ..io.atomic import replacing
from ..io.blocks import Block
from ..io.fits import create_fits
from ..io.inplace import InPlaceFile
from ..io.layout import Layout, read_layout
from ..io.references import Inputs
from ..io.spill import (
    IN_FLIGHT,
    STRIP,
    STRIP_ROWS,
    NotWritten,
    Spilled,
    TempStore,
    temp_store,
)
from ..job import Job, check_noise, prepare, temp_needed
from ..median import quartiles
from ..pipeline import tile_and_threads
from ..processes import give_back
from ..progress import Progress, Stage
from ..provenance import provenance
from ..recipe import BoundStep
from ..schedulers import in_flight, running
from ..step import Tile
from ..steps.common import all_finite
from ..steps.ramp_fit import RampFitParams, fits
from ..steps.sky import cell_edges, cell_median, fit_sky, sky_model, subtract_model
from .label import Layer, warn_of
from .own_weights import own_weights
from .pearson import pearson_noise
from .poisson import poisson_noise
from .read_noise import Border, PlaneNoise, base_plane, common_series, noisy_amp33
from .streams import Streams, What

log = logging.getLogger(__name__)

BAND_ROWS = 256
"""Rows that are worked on at a time where a task makes a whole image."""
SIGMA = 1.34896
"""Interquartile range of a Gaussian, in standard deviations."""
_DO_NOT_USE = np.uint32(PIXEL["DO_NOT_USE"])


@dataclass(frozen=True)
class NoiseResult:
    """What `generate_noise` has written.

    Attributes
    ----------
    out : Path
    fits : Path or None
    layers : list of dict
        Label, median, sigma (DN/s), clipped fraction, pixels without a draw or a finite number,
        and whether a polynomial was not found, of each layer.
    seconds : float
    """

    out: Path
    fits: Path | None
    layers: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class _Strips:
    """What noisy planes are made from, in the store so that a strip of columns can be read alone.

    Attributes
    ----------
    base : Spilled
        Active pixels of the ramp that noise is added to, (R, N, N) uint16.
    read_noise : Spilled
        (N, N) float32.
    """

    base: Spilled
    read_noise: Spilled


@dataclass(frozen=True)
class _Light:
    """What P and O are drawn from: the L2 image, and how each pixel's ramp was fitted."""

    level: Placed
    endslice: Placed
    excluded: Placed | None
    gain: Any
    weights: np.ndarray
    exposure: Exposure
    fit: RampFitParams

    def ends(self, window: Window) -> np.ndarray:
        """Resultants before saturation, R where there is none."""
        e = self.endslice.read(window).astype(np.int64)
        return np.where(e >= 0, e + 1, self.exposure.n_resultants)


def generate_noise(
    config: Config | Mapping[str, Any] | str | Path,
    *,
    scheduler: str = "local",
    threads: int | None = None,
    tile: str | int | tuple[int, int] | None = None,
    memory: str | float | None = None,
    per_step: bool = False,
    keep_temp: bool = False,
    show_progress: bool = False,
) -> NoiseResult:
    """Make the noise layers of a configuration's NOISE block.

    The exposure must have been calibrated (with SLICEOUT) from the same inputs before.

    Parameters
    ----------
    config : mapping, str or Path
        The configuration, or its YAML file.
    scheduler, threads, tile, memory, per_step, show_progress
        As for `roman_dask_l2.calibrate`. The layers do not depend on them.
    keep_temp : bool
        Keep the TEMP store.

    Returns
    -------
    NoiseResult

    Raises
    ------
    InputError
        If the configuration, a label or a file cannot be used, or OUT was made from other inputs.
        Nothing is written then.
    """
    began = time.perf_counter()
    job = prepare(config, noise=True)
    layers, finals = check_noise(job.config)
    warn_of(layer for layer, _ in layers)
    noise = job.config.NOISE
    assert noise is not None
    l2 = open_l2(job, layers)
    size, threads = tile_and_threads(
        job, scheduler, threads, tile, memory, [layer for layer, _ in layers]
    )
    grid = Grid(job.exposure.side, size)
    needed = temp_needed(job.exposure, layers)
    with (
        replacing(*finals) as parts,
        temp_store(noise.TEMP, needed, keep_temp) as store,
        running(scheduler, threads) as client,
        Progress(show_progress) as shown,
    ):
        file, planes = _outputs(job, parts, len(layers))
        new_plan = partial(_Plan, job, l2, grid, store, per_step, planes)
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
    """The calibrated exposure, if it is there and was made from the same inputs.

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
    if made_by.get("recipe", {}).get("steps") != now["recipe"]["steps"]:
        raise InputError(
            f"OUT: {job.config.OUT}: was made with other steps or options; "
            "calibrate the exposure again"
        )
    light = any(layer.poisson or layer.pearson for layer, _ in layers)
    if light and layout.array("processinfo", "endslice") is None:
        raise InputError(
            f"OUT: {job.config.OUT}: has no endslice, which P and O need; calibrate with SLICEOUT"
        )
    return layout


def _make(
    layers: Sequence[tuple[Layer, int]],
    store: TempStore,
    new_plan: Callable[[], _Plan],
    counting: Callable[..., AbstractContextManager[None]],
) -> list[dict[str, Any]]:
    """Make all layers; their statistics.

    A layer that is finished is noted in the store, and what it was made from is dropped. If its
    worker dies then, Dask wants to make it again and cannot. So the layers without a note are made
    by a new graph, as long as each attempt finishes one at least.
    """
    todo = [*range(len(layers))]
    while todo:
        plan = new_plan()
        try:
            tasks = [plan.layer(i, *layers[i]) for i in todo]
            with counting(plan.stages, in_turn=False):
                dask.compute(tasks)
        except NotWritten as error:
            left = [i for i in todo if store.note(_finished(i)) is None]
            if len(left) == len(todo):
                raise
            log.warning("%s; %d layers are made again", error, len(left))
            todo = left
        else:
            break
    notes = [store.note(_finished(i)) for i in range(len(layers))]
    missing = [layers[i][0].label for i, note in enumerate(notes) if note is None]
    if missing:
        raise RuntimeError(f"{store.path}: layers {', '.join(missing)} are not noted as finished")
    return [note for note in notes if note is not None]


def _finished(index: int) -> str:
    """Name of the note that a layer is finished."""
    return f"finished-{index}"


# -- the graph -----------------------------------------------------------------------------------


class _Plan:
    """Builds the tasks of the layers, one after the other."""

    def __init__(
        self,
        job: Job,
        l2: Layout,
        grid: Grid,
        store: TempStore,
        per_step: bool,
        planes: list[list[Block]],
    ) -> None:
        self._planes = planes
        # Tasks of a plan that has failed may still be at work.
        self._token = uuid.uuid4().hex[:8]
        self._job, self._grid, self._store, self._per_step = job, grid, store, per_step
        self._exposure = job.exposure
        n = self._exposure.side
        self._l2 = {
            name: Placed(_found(l2, *key), n, dtype)
            for name, key, dtype in (
                ("data", ("roman", "data"), "float32"),
                ("data_withsky", ("roman", "data_withsky"), "float32"),
                ("endslice", ("processinfo", "endslice"), "int16"),
                ("excluded", ("processinfo", "excluded"), "uint8"),
                ("dq", ("roman", "dq"), "uint32"),
            )
            if l2.array(*key) is not None
        }
        # Which pixels statistics and fits leave out; None: none.
        every = getattr(job.params("sky"), "every_pixel", False)
        self._flags = None if every else self._l2["dq"]
        noise = job.config.NOISE
        assert noise is not None
        self._seed = noise.SEED
        self._finished: list[Delayed] = []
        self._base: tuple[Spilled, Delayed] | None = None
        self._strips: dict[bool, tuple[_Strips, list[Delayed]]] = {}
        self._read_noise: tuple[Spilled, Delayed] | None = None
        self.stages: list[Stage] = []
        """Tasks of each layer; those of the base are with the first one that needs it."""

    def layer(self, index: int, layer: Layer, occurrence: int) -> Delayed:
        """All tasks of one layer, which is the output's plane `index`."""
        before = len(self._finished)
        waits = self._finished[max(before - IN_FLIGHT, 0) : before - IN_FLIGHT + 1]
        streams = Streams(self._seed, layer.label, occurrence)
        work: dict[str, int] = {}
        read = light = None
        parts: list[Delayed] = []
        rubbish: list[Spilled] = []
        base: Any = None
        if layer.read is not None:
            cube = self._cube(index)
            read, more, done = self._read_part(layer, streams, index, cube, waits, work)
            base = self._l2["data"]
            parts, rubbish = [done], [*cube, read, *more]
            if not layer.read.own_ramp:
                base, ready = self._base_image(work)
                parts.append(ready)
        if layer.poisson is not None or layer.pearson:
            light = self._image(f"light{index}")
            parts.append(self._light_part(layer, streams, light, waits, work))
            rubbish.append(light)
        images = (read, base, light, self._flags)
        place = (index, self._planes[index])
        call = (layer, images, place, self._exposure, self._store, rubbish)
        finished = graph.fan(f"finish-layer-{index}", _finish, [call], parts, work)
        self._finished.append(finished)
        name = f"layer {index + 1} of {len(self._planes)} {layer.label}"
        self.stages.append(Stage(name, work, "tasks"))
        return finished

    def _image(self, name: str, dtype: str = "float32") -> Spilled:
        n = self._exposure.side
        return self._store.create(f"{name}-{self._token}", (n, n), self._grid.tile, dtype)

    def _cube(self, index: int) -> tuple[Spilled, Spilled]:
        """Stores of a noisy ramp, of which strips are written whole."""
        r, n = self._exposure.n_resultants, self._exposure.side
        return (
            self._store.create(
                f"cube{index}-{self._token}", (r, n, n), (1, n, min(STRIP, n)), "uint16"
            ),
            self._store.create(
                f"amp{index}-{self._token}", (r, n, CHANNEL), (1, n, CHANNEL), "uint16"
            ),
        )

    def _made_of(self, own: bool, work: dict[str, int]) -> tuple[_Strips, list[Delayed]]:
        """What noisy planes are made from, the same for all layers of a kind, and when it is
        there."""
        inputs, n = self._job.inputs, self._exposure.side
        chunk = (min(STRIP_ROWS, n), min(STRIP, n))
        if self._read_noise is None:
            image = self._store.create(f"read-noise-{self._token}", (n, n), chunk, "float32")
            done = graph.fan("read-noise", _write_read_noise, [(inputs, image)], work=work)
            self._read_noise = image, done
        image, image_done = self._read_noise
        if own not in self._strips:
            r, kind = self._exposure.n_resultants, "own" if own else "dark"
            ramp = self._store.create(f"{kind}-{self._token}", (r, n, n), (1, *chunk), "uint16")
            calls = [(j, own, inputs, ramp) for j in range(r)]
            done = graph.fan(f"{kind}-ramp", _write_ramp, calls, work=work)
            self._strips[own] = _Strips(ramp, image), [done, image_done]
        return self._strips[own]

    def _read_part(
        self,
        layer: Layer,
        streams: Streams,
        index: int,
        cube: tuple[Spilled, Spilled],
        waits: list[Delayed],
        work: dict[str, int],
    ) -> tuple[Spilled, list[Spilled], Delayed]:
        """The noisy ramp through the recipe: image, what else was stored, when they are there."""
        assert layer.read is not None
        own = layer.read.own_ramp
        strips, ready = self._made_of(own, work)
        planes = [
            (j, strips, streams, self._job.inputs, cube) for j in range(self._exposure.n_resultants)
        ]
        written = graph.fan(f"noise-plane-{index}", _write_plane, planes, [*waits, *ready], work)
        inputs = _noisy_inputs(self._job.inputs, cube, own)
        return self._run(inputs, f"read{index}", [written], work)

    def _base_image(self, work: dict[str, int]) -> tuple[Spilled, Delayed]:
        """The image of the dark cube, the same for all layers, and when it is there."""
        if self._base is None:
            image, _, done = self._run(_base_inputs(self._job.inputs), "base", [], work)
            self._base = image, done
        return self._base

    def _run(
        self, inputs: Inputs, name: str, after: list[Delayed], work: dict[str, int]
    ) -> tuple[Spilled, list[Spilled], Delayed]:
        """The recipe on other inputs, its sky-subtracted rate written to the store."""
        steps = quiet_steps(self._job.steps)
        target, rate = self._image(name), self._image(f"{name}-rate")
        flags = self._image(f"{name}-dq", "uint8")
        sinks: dict[str, graph.Sink] = {"rate": rate, "data": target, "dq": UsableFlags(flags)}
        lazy = graph.build(
            steps, inputs, self._grid, (), self._per_step, after, sinks, in_flight=in_flight()
        )
        for names in lazy.work:
            work |= names  # what is measured aside is not asked for
        return target, [rate, flags], lazy.seconds[-1]

    def _light_part(
        self,
        layer: Layer,
        streams: Streams,
        light: Spilled,
        waits: list[Delayed],
        work: dict[str, int],
    ) -> Delayed:
        """P and O on all tiles; its value: their inadmissible pixels."""
        fit = self._job.params("ramp_fit")
        if not isinstance(fit, RampFitParams):
            raise InputError(f"layer {layer.label!r}: P and O need the ramp_fit step in the recipe")
        source = _Light(
            self._l2["data_withsky"],
            self._l2["endslice"],
            self._l2.get("excluded"),
            self._job.inputs.sources["gain.data"],
            np.array([f.k for f in fits(self._exposure, fit)], float),
            self._exposure,
            fit,
        )
        if layer.poisson is not None and layer.poisson.background_order is not None:
            order = layer.poisson.background_order
            level = (self._l2["data_withsky"], self._flags, order, self._exposure)
            waits = [graph.fan(f"background-{light.name}", _background, [level], waits)]
        windows = [self._grid.window(*place) for place in np.ndindex(*self._grid.shape)]
        tiles = [(layer, streams, window, source, light) for window in windows]
        return graph.fan(f"draw-{light.name}", _write_light, tiles, waits, work)


def _found(layout: Layout, *key: str) -> FileArray:
    array = layout.array(*key)
    if array is None:
        raise InputError(f"{layout.path}: no {'.'.join(key)}")
    return array


def quiet_steps(steps: Sequence[BoundStep]) -> list[BoundStep]:
    """The steps that a noise layer's image needs: all that feed it, without the mask's part."""
    return graph.feeding(steps, ["data"])


def _base_inputs(inputs: Inputs) -> Inputs:
    """The dark cube as an exposure: what R is measured against."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33", "l1.resultantdq"):
        sources.pop(name, None)
    sources["l1.data"] = DarkRamp(inputs.sources["dark.data"])
    if "read.amp33.med" in sources:
        sources["l1.amp33"] = Quiet(sources["read.amp33.med"], exposure.n_resultants)
    return Inputs(exposure, sources, inputs.layouts)


def _noisy_inputs(inputs: Inputs, cube: tuple[Spilled, Spilled], own: bool) -> Inputs:
    """A noisy ramp in the store as an exposure."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0)
    if not own:
        exposure = dataclasses.replace(exposure, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33"):
        sources.pop(name, None)
    if not own:
        sources.pop("l1.resultantdq", None)
    sources["l1.data"], sources["l1.amp33"] = cube
    return Inputs(exposure, sources, inputs.layouts)


@dataclass(frozen=True)
class UsableFlags:
    """Of a noisy image's flags the one that its sky looks at, DO_NOT_USE, in a quarter of the
    bytes."""

    store: Spilled

    def put(self, values: np.ndarray, window: Window) -> None:
        self.store.put((values & _DO_NOT_USE).astype(np.uint8), window)

    def read(self, window: Window | None = None) -> np.ndarray:
        return self.store.read(window).astype(np.uint32)


@dataclass(frozen=True)
class DarkRamp:
    """The dark cube cast to Level-1 integers."""

    dark: Placed

    def read(self, window: Window | None = None) -> np.ndarray:
        return base_plane(self.dark.read(window))


@dataclass(frozen=True)
class Quiet:
    """The reference output without noise: its mean in every resultant."""

    median: Placed
    n_resultants: int

    def read(self, window: Window | None = None) -> np.ndarray:
        median = np.nan_to_num(self.median.read())
        return np.broadcast_to(median, (self.n_resultants, *median.shape))


# -- tasks ---------------------------------------------------------------------------------------


def _write_read_noise(inputs: Inputs, image: Spilled, waits: Any) -> None:
    """Copy the white noise of a read to the store."""
    for window in _bands(inputs.exposure.side):
        image.put(np.asarray(inputs.sources["read.data"].read(window), np.float32), window)


def _write_ramp(j: int, own: bool, inputs: Inputs, ramp: Spilled, waits: Any) -> None:
    """Write resultant `j` of the ramp that noise is added to, to the store."""
    plane = _Plane(inputs.sources["l1.data" if own else "dark.data"], j)
    for window in _bands(inputs.exposure.side):
        values = plane.read(window)
        ramp.put(_decoded(values, window, inputs) if own else base_plane(values), window, j)


def _bands(n: int) -> list[Window]:
    """The rows of chunks that strips are read from."""
    return [Window(y, min(y + STRIP_ROWS, n), 0, n) for y in range(0, n, STRIP_ROWS)]


def _write_plane(
    j: int,
    strips: _Strips,
    streams: Streams,
    inputs: Inputs,
    cube: tuple[Spilled, Spilled],
    waits: Any,
) -> None:
    """Make resultant `j` of a noisy ramp and write it to the store."""
    give_back()  # what tiles have left would lie beside the planes of the next layer
    exposure, sources = inputs.exposure, inputs.sources
    n = exposure.side
    n_reads = float(exposure.n_reads[j])
    common = common_series(streams, j, n)
    c_pink = float(sources["read.anc.C_PINK"].read())
    noise = PlaneNoise(
        _border(_Plane(sources["dark.data"], j), n),
        _border(sources["read.resetnoise"], n),
        c_pink,
        float(sources["read.anc.U_PINK"].read()),
        n_reads,
        common,
        streams,
        j,
    )
    for x in range(0, n, STRIP):
        strip = Window(0, n, x, min(x + STRIP, n))
        plane = strips.base.read(strip, j)
        noise.add(plane, strips.read_noise.read(strip), x)
        cube[0].put(plane, strip, j)
    if "read.amp33.med" in sources:
        median, std, m_pink, ru_pink = (
            sources[f"read.amp33.{name}"].read() for name in ("med", "std", "M_PINK", "RU_PINK")
        )
        amp33 = noisy_amp33(
            median, std, float(m_pink), float(ru_pink), c_pink, n_reads, common, streams, j
        )
    else:  # nothing looks at it
        amp33 = np.zeros((n, CHANNEL), np.uint16)
    cube[1].put(amp33, Window(0, n, 0, CHANNEL), j)


@dataclass(frozen=True)
class _Plane:
    """One resultant of a cube."""

    source: Placed
    index: int

    def read(self, window: Window) -> np.ndarray:
        source = self.source
        first = source.array.shape[0] - (source.planes or source.array.shape[0])
        plane = slice(first + self.index, first + self.index + 1)
        values: np.ndarray = source.array.read(window, plane)[0]
        return values.astype(source.dtype or values.dtype, copy=False)


def _border(source: Placed | _Plane, n: int) -> Border:
    """The reference pixels of an image."""
    bands = (0, BORDER), (n - BORDER, n)
    return Border(
        np.concatenate([source.read(Window(*band, 0, n)) for band in bands]).astype(np.float32),
        np.concatenate([source.read(Window(0, n, *band)) for band in bands], 1).astype(np.float32),
    )


def _decoded(values: np.ndarray, window: Window, inputs: Inputs) -> np.ndarray:
    """A resultant of the exposure as the detector gave it, before the reference read was taken
    off."""
    values = values.astype(np.float32) - np.float32(inputs.exposure.encoding_offset)
    if inputs.available("l1.reference_read"):
        values += inputs.sources["l1.reference_read"].read(window)
    return base_plane(np.rint(values))


def _background(
    level: Placed, flags: Placed | None, order: int, exposure: Exposure, waits: Any
) -> np.ndarray | None:
    """Coefficients of the median-cell polynomial of the L2 image; None if there are none."""
    return _fit(level.read, flags, order, exposure)


def _fit(
    image: Callable[[Window], np.ndarray],
    flags: Placed | None,
    order: int,
    exposure: Exposure,
) -> np.ndarray | None:
    """Sky coefficients of an image, of which ``image(window)`` is a part, from pixels that are
    finite and not flagged DO_NOT_USE."""
    n = exposure.side
    edges = cell_edges(n)
    medians = []
    for first, last in edges:
        window = Window(first + BORDER, last + BORDER, BORDER, n - BORDER)
        band = image(window)
        dq = np.zeros(band.shape, np.uint32) if flags is None else flags.read(window)
        medians += [cell_median(band[:, a:b], dq[:, a:b])[0] for a, b in edges]
    return fit_sky(medians, order, exposure)


def _write_light(
    layer: Layer,
    streams: Streams,
    window: Window,
    light: _Light,
    target: Spilled,
    ready: Any,
) -> int | None:
    """Draw P and O on one tile and write it to the store; returns inadmissible O pixels.

    With a background only, `ready` holds its coefficients; None if there are none: then there is no
    noise either, and None is returned.

    Draws are made in whole blocks of 128 x 128 detector pixels, whatever the tile, and cut.
    """
    order = None if layer.poisson is None else layer.poisson.background_order
    background = None if order is None else ready[0][0]
    out = np.zeros(window.shape, np.float32)
    blocks = Window(
        window.y0 // CHANNEL * CHANNEL,
        -(-window.y1 // CHANNEL) * CHANNEL,
        window.x0 // CHANNEL * CHANNEL,
        -(-window.x1 // CHANNEL) * CHANNEL,
    )
    level, gain, ends = light.level.read(blocks), light.gain.read(blocks), light.ends(blocks)
    excluded = None if light.excluded is None else light.excluded.read(blocks)
    inadmissible = 0
    for y in range(blocks.y0, blocks.y1, CHANNEL):
        for x in range(blocks.x0, blocks.x1, CHANNEL):
            block = Window(y, y + CHANNEL, x, x + CHANNEL)
            cut = block.within(blocks)
            left_out = None if excluded is None else excluded[(..., *cut)]
            part = (level[cut], gain[cut], ends[cut], left_out)
            values, bad = _draw_block(layer, streams, block, part, light, background)
            both = Window(
                max(y, window.y0),
                min(block.y1, window.y1),
                max(x, window.x0),
                min(block.x1, window.x1),
            )
            out[both.within(window)] = values[both.within(block)]
            if window.y0 <= y and window.x0 <= x:  # count a block once, whatever the tiles
                inadmissible += bad
    target.put(out, window)
    return None if order is not None and background is None else inadmissible


def _draw_block(
    layer: Layer,
    streams: Streams,
    block: Window,
    part: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None],
    light: _Light,
    background: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    """P and O on one detector block, DN/s, and how many O pixels had no Pearson distribution.

    `part` holds level, gain, ends and left-out resultants of the block. Reference pixels are 0.
    """
    exposure = light.exposure
    number = block.y0 // CHANNEL * (exposure.side // CHANNEL) + block.x0 // CHANNEL
    level, gain, ends = (np.ascontiguousarray(a) for a in part[:3])
    rows, weights = own_weights(ends, part[3], light.weights, exposure=exposure, params=light.fit)
    drawn = np.zeros(block.shape, np.float32)
    inadmissible = 0
    if layer.pearson:
        rng = streams(What.PEARSON, None, number)
        values, inadmissible = pearson_noise(rng, level, gain, ends, light.weights, exposure)
        other = rows != ends
        if other.any():
            # From a stream of their own: how many numbers a draw takes depends on the weights, and
            # the other pixels must not notice.
            inadmissible -= int(((values[other] == 0) & np.isfinite(level[other])).sum())
            rng = streams(What.PEARSON_EXCLUDED, None, number)
            its_level, its_gain, its_rows = (a[other][np.newaxis] for a in (level, gain, rows))
            again, bad = pearson_noise(rng, its_level, its_gain, its_rows, weights, exposure)
            values[other] = again[0]
            inadmissible += bad
        drawn += values
    if layer.poisson is not None:
        order = layer.poisson.background_order
        if order is not None and background is None:
            level = np.full(block.shape, np.nan, np.float32)  # not known: no noise
        elif order is not None and background is not None:
            level = sky_model(background, order, block, exposure.side).astype(np.float32)
        rng = streams(What.POISSON, None, number)
        drawn += poisson_noise(rng, level, gain, rows, weights, exposure)
    inner = Tile(block, exposure.side).active
    out = np.zeros(block.shape, np.float32)
    out[inner] = drawn[inner]
    return out, inadmissible


def _finish(
    layer: Layer,
    images: tuple[Spilled | None, Any, Spilled | None, Placed | None],
    place: tuple[int, list[Block]],
    exposure: Exposure,
    store: TempStore,
    rubbish: Sequence[Spilled],
    parts: list[Any],
) -> None:
    """Add the parts up, subtract the layer's own sky, write it, and note its statistics."""
    index, planes = place
    n = exposure.side
    total = _Sum(*images)
    # In bands of rows, added up whenever they are needed: a frame would be more than all else that
    # a thread has in memory.
    bands = [
        Window(y, min(y + BAND_ROWS, n - BORDER), BORDER, n - BORDER)
        for y in range(BORDER, n - BORDER, BAND_ROWS)
    ]
    if layer.read is not None and layer.read.clip is not None:
        values = partial(map, partial(total.usable, total.read_noise), bands)
        total.limits = clip_limits(quartiles(values, finite=True), layer.read.clip)
    drawn = [0] if images[2] is None else parts[-1]
    without_sky = None in drawn  # no background to draw the noise of
    if layer.sky_order is not None:
        coefs = _fit(total.rows, total.flags, layer.sky_order, exposure)
        without_sky |= coefs is None
        if coefs is not None:
            total.sky = partial(subtract_model, coefs=coefs, order=layer.sky_order, side=n)
    total.largest = float(np.finfo(planes[0].dtype).max)
    clipped = unknown = 0
    for window in bands:
        noise = total.read_noise(window)
        clipped += total.outside(noise)
        rows = total.finished(noise, window)
        if not all_finite(rows):
            bad = np.isnan(rows)
            rows[bad] = 0
            unknown += int(np.count_nonzero(bad))
        for plane in planes:
            plane.put(rows, window)
    values = partial(map, partial(total.usable, total.rows), bands)
    q25, middle, q75 = quartiles(values, finite=True)
    line = {
        "label": layer.label,
        "median": middle,
        "sigma": (q75 - q25) / SIGMA,
        "clipped": clipped / (n - 2 * BORDER) ** 2,
        "inadmissible": sum(n or 0 for n in drawn),
        "not_finite": unknown,
        "without_sky": without_sky,
    }
    store.write_note(_finished(index), line)
    for array in rubbish:
        store.drop(array)


@dataclass
class _Sum:
    """A layer's image, added up from its parts wherever a window of it is asked for.

    Attributes
    ----------
    read, base : Spilled or None
        Image of the noisy ramp, and of the ramp without noise.
    light : Spilled or None
        P and O.
    flags : Placed or None
        Of the L2 image; DO_NOT_USE has no part in statistics.
    limits : tuple of float32, optional
        Of the read noise.
    sky : callable, optional
        ``sky(rows, window=window)`` less the layer's own sky.
    largest : float
        What the output can hold.
    """

    read: Spilled | None
    base: Any
    light: Spilled | None
    flags: Placed | None = None
    limits: tuple[np.float32, np.float32] | None = None
    sky: Callable[..., np.ndarray] | None = None
    largest: float = np.inf

    def read_noise(self, window: Window) -> np.ndarray:
        rows = np.zeros(window.shape, np.float32)
        if self.read is not None:
            rows += self.read.read(window)
            rows -= self.base.read(window)
        return rows

    def outside(self, noise: np.ndarray) -> int:
        """How many pixels of the read noise the limits change."""
        if self.limits is None:
            return 0
        low, high = self.limits
        return int(np.count_nonzero((noise < low) | (noise > high)))

    def finished(self, noise: np.ndarray, window: Window) -> np.ndarray:
        """The image, from its read noise, which is overwritten."""
        if self.limits is not None:
            np.clip(noise, *self.limits, out=noise)
        if self.light is not None:
            noise += self.light.read(window)
        if self.sky is not None:
            noise = self.sky(noise, window=window)
        if not all_finite(noise):
            noise[~np.isfinite(noise)] = np.nan  # not to be clipped to a number
        np.clip(noise, -self.largest, self.largest, out=noise)
        return noise

    def rows(self, window: Window) -> np.ndarray:
        """The image; NaN where it is not known."""
        return self.finished(self.read_noise(window), window)

    def usable(self, image: Callable[[Window], np.ndarray], window: Window) -> np.ndarray:
        """``image(window)``, NaN where statistics must not look."""
        rows = image(window)
        if self.flags is not None:
            rows[self.flags.read(window) & _DO_NOT_USE != 0] = np.nan
        return rows


def clip_limits(quarters: tuple[float, float, float], q: float) -> tuple[np.float32, np.float32]:
    """Median -+ q sigma of an image with these quartiles, sigma from the interquartile range."""
    q25, middle, q75 = quarters
    reach = q * (q75 - q25) / SIGMA
    if not np.isfinite(reach):  # no pixel can be used
        return np.float32(-np.inf), np.float32(np.inf)
    return np.float32(middle - reach), np.float32(middle + reach)


# -- the output ----------------------------------------------------------------------------------


def _log_layer(line: Mapping[str, Any]) -> None:
    log.info(
        "layer %-12s median %+.3e, sigma %.3e DN/s, %.4f%% clipped",
        line["label"],
        line["median"],
        line["sigma"],
        100 * line["clipped"],
    )
    if line["inadmissible"]:
        log.warning("%s", no_draw(line))
    for warning in unusable(line):
        log.warning("%s", warning)


def unusable(line: Mapping[str, Any]) -> list[str]:
    """What to tell of a layer's pixels that have no number, and of a sky that was not found."""
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


def no_draw(line: Mapping[str, Any]) -> str:
    """What to tell of the pixels of a layer that have no Pearson draw."""
    return (
        f"layer {line['label']}: {line['inadmissible']} pixels have moments that no Pearson "
        "distribution has, they are 0"
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
