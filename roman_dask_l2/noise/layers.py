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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np
from dask.delayed import Delayed, delayed

from .. import graph
from ..config import Config
from ..detector import BORDER, CHANNEL, Grid, Window
from ..errors import InputError
from ..exposure import Exposure
from ..io.arrays import FileArray, Placed
from ..io.atomic import replacing
from ..io.blocks import Block
from ..io.fits import create_fits
from ..io.inplace import InPlaceFile
from ..io.layout import Layout, read_layout
from ..io.references import Inputs
from ..io.spill import IN_FLIGHT, Spilled, TempStore, temp_store
from ..job import Job, check_noise, prepare, temp_needed
from ..pipeline import tile_and_threads
from ..progress import progress
from ..provenance import provenance
from ..recipe import BoundStep
from ..schedulers import in_flight, running
from ..step import Tile
from ..steps.ramp_fit import RampFitParams, fits
from ..steps.sky import SkyParams, cell_edges, fit_sky, sky_model
from .label import Layer
from .pearson import pearson_noise
from .poisson import poisson_noise
from .read_noise import base_plane, common_series, noisy_amp33, noisy_plane
from .streams import Streams, What, layer_streams

log = logging.getLogger(__name__)

SIGMA = 1.34896
"""Interquartile range of a Gaussian, in standard deviations."""


@dataclass(frozen=True)
class NoiseResult:
    """What `generate_noise` has written.

    Attributes
    ----------
    out : Path
    fits : Path or None
    layers : list of dict
        Label, median, sigma (DN/s), clipped fraction and inadmissible pixels of each layer.
    seconds : float
    """

    out: Path
    fits: Path | None
    layers: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class _Light:
    """What P and O are drawn from: the L2 image, and how each pixel's ramp was fitted."""

    level: Placed
    endslice: Placed
    gain: Any
    weights: np.ndarray
    exposure: Exposure

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
        running(scheduler, threads),
        progress(noise.OUT.name, show_progress),
    ):
        file, planes = _outputs(job, parts, len(layers))
        plan = _Plan(job, l2, grid, store, per_step, planes)
        (statistics,) = dask.compute([plan.layer(*item) for item in layers])
        for line in statistics:
            _log_layer(line)
        file.finish(
            {
                "config": job.config.raw,
                "noise": file.node("noise"),
                "statistics": statistics,
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
        self._job, self._grid, self._store, self._per_step = job, grid, store, per_step
        self._exposure = job.exposure
        n = self._exposure.side
        self._l2 = {
            name: Placed(_found(l2, *key), n, dtype)
            for name, key, dtype in (
                ("data", ("roman", "data"), "float32"),
                ("data_withsky", ("roman", "data_withsky"), "float32"),
                ("endslice", ("processinfo", "endslice"), "int8"),
            )
            if l2.array(*key) is not None
        }
        noise = job.config.NOISE
        assert noise is not None
        self._seed = noise.SEED
        self._finished: list[Delayed] = []
        self._base: Delayed | None = None

    def layer(self, layer: Layer, occurrence: int) -> Delayed:
        """All tasks of one layer; its value are the layer's statistics."""
        index = len(self._finished)
        waits = self._finished[max(index - IN_FLIGHT, 0) : index - IN_FLIGHT + 1]
        streams = layer_streams(self._seed, layer.label, occurrence)
        read = light = None
        cube: tuple[Spilled, Spilled] | None = None
        parts: list[Delayed] = []
        if layer.read is not None:
            read = self._image(f"read{index}")
            cube = self._cube(index)
            parts += self._read_part(layer, streams, read, cube, waits)
        if layer.poisson is not None or layer.pearson:
            light = self._image(f"light{index}")
            parts += self._light_part(layer, streams, light, waits)
        base: Any = None
        if layer.read is not None:
            base = self._l2["data"] if layer.read.own_ramp else self._image("base", make=False)
        done = delayed(_finish, pure=False)(
            layer,
            parts,
            read,
            base,
            light,
            self._planes[index],
            self._exposure,
            [self._store, [a for a in (read, read and _rate_of(read), light, *(cube or ())) if a]],
            dask_key_name=graph.unique(f"finish-layer-{index}"),
        )
        self._finished.append(done)
        return done

    def _image(self, name: str, make: bool = True) -> Spilled:
        n = self._exposure.side
        if not make:
            return Spilled(self._store.path, name)
        return self._store.create(name, (n, n), self._grid.tile, "float32")

    def _cube(self, index: int) -> tuple[Spilled, Spilled]:
        """Stores of a noisy ramp: rows of tiles are whole chunks, planes are written whole."""
        r, n = self._exposure.n_resultants, self._exposure.side
        rows = self._grid.tile[0]
        return (
            self._store.create(f"cube{index}", (r, n, n), (1, rows, n), "uint16"),
            self._store.create(f"amp{index}", (r, n, CHANNEL), (1, n, CHANNEL), "uint16"),
        )

    def _read_part(
        self,
        layer: Layer,
        streams: Streams,
        read: Spilled,
        cube: tuple[Spilled, Spilled],
        waits: list[Delayed],
    ) -> list[Delayed]:
        assert layer.read is not None
        own = layer.read.own_ramp
        if not own and self._base is None:
            self._base = self._run(_base_inputs(self._job.inputs), self._image("base"), [])
        written = [
            delayed(_write_plane, pure=False)(
                j, own, streams, self._job.inputs, cube, waits,
                dask_key_name=graph.unique(f"noise-plane-{read.name}-{j}"),
            )
            for j in range(self._exposure.n_resultants)
        ]  # fmt: skip
        inputs = _noisy_inputs(self._job.inputs, cube, own)
        parts = [self._run(inputs, read, written)]
        return parts if own else [*parts, self._base]  # type: ignore[list-item]

    def _run(self, inputs: Inputs, target: Spilled, after: list[Delayed]) -> Delayed:
        """The recipe on other inputs, its sky-subtracted rate written to the store."""
        steps = quiet_steps(self._job.steps)
        sinks = {"rate": self._image(_rate_of(target).name), "data": target}
        lazy = graph.build(
            steps, inputs, self._grid, (), self._per_step, after, sinks, in_flight=in_flight()
        )
        return delayed(_done)(lazy.seconds, dask_key_name=graph.unique(f"done-{target.name}"))

    def _light_part(
        self, layer: Layer, streams: Streams, light: Spilled, waits: list[Delayed]
    ) -> list[Delayed]:
        fit = self._job.params("ramp_fit")
        if not isinstance(fit, RampFitParams):
            raise InputError(f"layer {layer.label!r}: P and O need the ramp_fit step in the recipe")
        source = _Light(
            self._l2["data_withsky"],
            self._l2["endslice"],
            self._job.inputs.sources["gain.data"],
            np.array([f.k for f in fits(self._exposure, fit)], float),
            self._exposure,
        )
        background = None
        if layer.poisson is not None and layer.poisson.background_order is not None:
            background = delayed(_background, pure=False)(
                self._l2["data_withsky"], layer.poisson.background_order, self._exposure, waits,
                dask_key_name=graph.unique(f"background-{light.name}"),
            )  # fmt: skip
        ny, nx = self._grid.shape
        return [
            delayed(_write_light, pure=False)(
                layer, streams, self._grid.window(iy, ix), source, background, light, waits,
                dask_key_name=graph.unique(f"draw-{light.name}-{iy}-{ix}"),
            )
            for iy in range(ny)
            for ix in range(nx)
        ]  # fmt: skip


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


def _rate_of(image: Spilled) -> Spilled:
    """Where the rate waits for its sky to be found."""
    return Spilled(image.store, f"{image.name}-rate")


def _done(ready: Any) -> None:
    """Nothing but the fact that `ready` is there."""


def _write_plane(
    j: int, own: bool, streams: Streams, inputs: Inputs, cube: tuple[Spilled, Spilled], waits: Any
) -> None:
    """Make resultant `j` of a noisy ramp and write it to the store."""
    exposure, sources = inputs.exposure, inputs.sources
    plane = slice(j, j + 1)
    dark = _plane(sources["dark.data"], plane)
    base = base_plane(dark)
    if own:
        base = _decoded(_plane(sources["l1.data"], plane), inputs, "l1.reference_read")
    n_reads = float(exposure.n_reads[j])
    common = common_series(streams, j, exposure.side)
    c_pink = float(sources["read.anc.C_PINK"].read())
    cube[0][j] = noisy_plane(
        base,
        dark,
        sources["read.data"].read(),
        sources["read.resetnoise"].read(),
        c_pink,
        float(sources["read.anc.U_PINK"].read()),
        n_reads,
        common,
        streams,
        j,
    )
    if "read.amp33.med" in sources:
        median, std, m_pink, ru_pink = (
            sources[f"read.amp33.{name}"].read() for name in ("med", "std", "M_PINK", "RU_PINK")
        )
        amp33 = noisy_amp33(
            median, std, float(m_pink), float(ru_pink), c_pink, n_reads, common, streams, j
        )
    else:  # nothing looks at it
        amp33 = np.zeros((exposure.side, CHANNEL), np.uint16)
    cube[1][j] = amp33


def _plane(source: Placed, plane: slice) -> np.ndarray:
    """One resultant of a cube."""
    extra = source.array.shape[0] - (source.planes or source.array.shape[0])
    values = source.array.read(planes=slice(plane.start + extra, plane.stop + extra))[0]
    return values.astype(source.dtype or values.dtype, copy=False)


def _decoded(plane: np.ndarray, inputs: Inputs, reference: str) -> np.ndarray:
    """A plane of the exposure as the detector gave it, before the reference read was taken off."""
    values = plane.astype(np.float32) - np.float32(inputs.exposure.encoding_offset)
    if inputs.available(reference):
        values += inputs.sources[reference].read()
    return base_plane(np.rint(values))


def _background(level: Placed, order: int, exposure: Exposure, waits: Any) -> np.ndarray:
    """Coefficients of the median-cell polynomial of the L2 image."""
    return _fit(level.read()[_inside(exposure)], order, exposure)


def _inside(exposure: Exposure) -> tuple[slice, slice]:
    inside = slice(BORDER, exposure.side - BORDER)
    return inside, inside


def _fit(image: np.ndarray, order: int, exposure: Exposure) -> np.ndarray:
    """Sky coefficients of an image of the active pixels."""
    edges = cell_edges(exposure.side)
    medians = [float(np.median(image[a:b, c:d])) for a, b in edges for c, d in edges]
    return fit_sky(medians, exposure=exposure, params=SkyParams(order=order))["coefs"]


def _write_light(
    layer: Layer,
    streams: Streams,
    window: Window,
    light: _Light,
    background: np.ndarray | None,
    target: Spilled,
    waits: Any,
) -> int:
    """Draw P and O on one tile and write it to the store; returns inadmissible O pixels.

    Draws are made in whole blocks of 128 x 128 detector pixels, whatever the tile, and cut.
    """
    out = np.zeros(window.shape, np.float32)
    blocks = Window(
        window.y0 // CHANNEL * CHANNEL,
        -(-window.y1 // CHANNEL) * CHANNEL,
        window.x0 // CHANNEL * CHANNEL,
        -(-window.x1 // CHANNEL) * CHANNEL,
    )
    level, gain, ends = light.level.read(blocks), light.gain.read(blocks), light.ends(blocks)
    inadmissible = 0
    for y in range(blocks.y0, blocks.y1, CHANNEL):
        for x in range(blocks.x0, blocks.x1, CHANNEL):
            block = Window(y, y + CHANNEL, x, x + CHANNEL)
            cut = block.within(blocks)
            part = (level[cut], gain[cut], ends[cut])
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
    return inadmissible


def _draw_block(
    layer: Layer,
    streams: Streams,
    block: Window,
    part: tuple[np.ndarray, np.ndarray, np.ndarray],
    light: _Light,
    background: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    """P and O on one detector block, DN/s, and how many O pixels had no Pearson distribution.

    `part` holds level, gain and ends of the block. Reference pixels are 0.
    """
    exposure = light.exposure
    number = block.y0 // CHANNEL * (exposure.side // CHANNEL) + block.x0 // CHANNEL
    level, gain, ends = (np.ascontiguousarray(a) for a in part)
    drawn = np.zeros(block.shape, np.float32)
    inadmissible = 0
    if layer.pearson:
        rng = streams(What.PEARSON, None, number)
        values, inadmissible = pearson_noise(rng, level, gain, ends, light.weights, exposure)
        drawn += values
    if layer.poisson is not None:
        order = layer.poisson.background_order
        if order is not None and background is not None:
            level = sky_model(background, order, block, exposure.side).astype(np.float32)
        rng = streams(What.POISSON, None, number)
        drawn += poisson_noise(rng, level, gain, ends, light.weights, exposure)
    inner = Tile(block, exposure.side).active
    out = np.zeros(block.shape, np.float32)
    out[inner] = drawn[inner]
    return out, inadmissible


def _finish(
    layer: Layer,
    parts: list[Any],
    read: Spilled | None,
    base: Any,
    light: Spilled | None,
    planes: list[Block],
    exposure: Exposure,
    rubbish: tuple[TempStore, list[Spilled]],
) -> dict[str, Any]:
    """Add the parts up, subtract the layer's own sky, write it, and take its statistics."""
    cut = _inside(exposure)
    size = exposure.side - 2 * BORDER
    image = np.zeros((size, size), np.float32)
    clipped = 0.0
    if read is not None:
        image += read.read()[cut]
        image -= base.read(Window(0, exposure.side, 0, exposure.side))[cut]
        assert layer.read is not None
        if layer.read.clip is not None:
            clipped = clip(image, layer.read.clip)
    if light is not None:
        image += light.read()[cut]
    if layer.sky_order is not None:
        window = Window(BORDER, exposure.side - BORDER, BORDER, exposure.side - BORDER)
        coefs = _fit(image, layer.sky_order, exposure)
        image -= sky_model(coefs, layer.sky_order, window, exposure.side).astype(np.float32)
    largest = np.finfo(planes[0].dtype).max
    np.clip(image, -largest, largest, out=image)
    for plane in planes:
        plane.put(image, plane.window)
    store, arrays = rubbish
    for array in arrays:
        store.drop(array)
    q25, median, q75 = np.percentile(image, [25, 50, 75])
    return {
        "label": layer.label,
        "median": float(median),
        "sigma": float((q75 - q25) / SIGMA),
        "clipped": clipped,
        "inadmissible": int(sum(p for p in parts if isinstance(p, int))),
    }


def clip(image: np.ndarray, q: float) -> float:
    """Clip an image in place to its median +- q sigma, sigma from the interquartile range.

    Returns
    -------
    float
        Fraction of pixels that were clipped.
    """
    q25, median, q75 = np.percentile(image, [25, 50, 75])
    reach = q * (q75 - q25) / SIGMA
    low, high = np.float32(median - reach), np.float32(median + reach)
    outside = float(((image < low) | (image > high)).mean())
    np.clip(image, low, high, out=image)
    return outside


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
        log.warning(
            "layer %s: %d pixels have moments that no Pearson distribution has, they are 0",
            line["label"],
            line["inadmissible"],
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
