"""What the tasks of noise layers do: draw, write to the TEMP store, read from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.noise_labels import Layer
from ..core.detector import BORDER, CHANNEL_WIDTH, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.step import Tile
from ..io.arrays import Placed
from ..io.references import Inputs
from ..io.spill import STRIP, STRIP_ROWS, Spilled
from ..noise.own_weights import own_weights
from ..noise.pearson import pearson_noise
from ..noise.poisson import poisson_noise
from ..noise.read_noise import Border, PlaneNoise, base_plane, common_series, noisy_amp33
from ..noise.streams import DrawKind, Streams
from ..steps.ramp_params import RampFitParams
from ..steps.sky import cell_edges, cell_median, fit_sky, sky_model
from ..system.processes import give_back

DO_NOT_USE = np.uint32(PIXEL["DO_NOT_USE"])


@dataclass(frozen=True)
class NoiseStrips:
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
class PhotonNoiseInputs:
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


@dataclass(frozen=True)
class UsableFlags:
    """Of a noisy image's flags the one that its sky looks at, DO_NOT_USE, in a quarter of the
    bytes."""

    store: Spilled

    def put(self, values: np.ndarray, window: Window) -> None:
        self.store.put((values & DO_NOT_USE).astype(np.uint8), window)

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


def write_read_noise(inputs: Inputs, image: Spilled, waits: Any) -> None:
    """Copy the white noise of a read to the store."""
    for window in _bands(inputs.exposure.side):
        image.put(np.asarray(inputs.sources["read.data"].read(window), np.float32), window)


def write_base_ramp(j: int, own: bool, inputs: Inputs, ramp: Spilled, waits: Any) -> None:
    """Write resultant `j` of the ramp that noise is added to, to the store."""
    plane = _Plane(inputs.sources["l1.data" if own else "dark.data"], j)
    for window in _bands(inputs.exposure.side):
        values = plane.read(window)
        ramp.put(_decoded(values, window, inputs) if own else base_plane(values), window, j)


def _bands(n: int) -> list[Window]:
    """The rows of chunks that strips are read from."""
    return [Window(y, min(y + STRIP_ROWS, n), 0, n) for y in range(0, n, STRIP_ROWS)]


def write_noisy_plane(
    j: int,
    strips: NoiseStrips,
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
        amp33 = np.zeros((n, CHANNEL_WIDTH), np.uint16)
    cube[1].put(amp33, Window(0, n, 0, CHANNEL_WIDTH), j)


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


def fit_background(
    level: Placed, flags: Placed | None, order: int, exposure: Exposure, waits: Any
) -> np.ndarray | None:
    """Coefficients of the median-cell polynomial of the L2 image; None if there are none."""
    return fit_image_sky(level.read, flags, order, exposure)


def fit_image_sky(
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


def write_photon_noise(
    layer: Layer,
    streams: Streams,
    window: Window,
    light: PhotonNoiseInputs,
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
        window.y0 // CHANNEL_WIDTH * CHANNEL_WIDTH,
        -(-window.y1 // CHANNEL_WIDTH) * CHANNEL_WIDTH,
        window.x0 // CHANNEL_WIDTH * CHANNEL_WIDTH,
        -(-window.x1 // CHANNEL_WIDTH) * CHANNEL_WIDTH,
    )
    level, gain, ends = light.level.read(blocks), light.gain.read(blocks), light.ends(blocks)
    excluded = None if light.excluded is None else light.excluded.read(blocks)
    inadmissible = 0
    for y in range(blocks.y0, blocks.y1, CHANNEL_WIDTH):
        for x in range(blocks.x0, blocks.x1, CHANNEL_WIDTH):
            block = Window(y, y + CHANNEL_WIDTH, x, x + CHANNEL_WIDTH)
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
    light: PhotonNoiseInputs,
    background: np.ndarray | None,
) -> tuple[np.ndarray, int]:
    """P and O on one detector block, DN/s, and how many O pixels had no Pearson distribution.

    `part` holds level, gain, ends and left-out resultants of the block. Reference pixels are 0.
    """
    exposure = light.exposure
    number = (
        block.y0 // CHANNEL_WIDTH * (exposure.side // CHANNEL_WIDTH) + block.x0 // CHANNEL_WIDTH
    )
    level, gain, ends = (np.ascontiguousarray(a) for a in part[:3])
    rows, weights = own_weights(ends, part[3], light.weights, exposure=exposure, params=light.fit)
    drawn = np.zeros(block.shape, np.float32)
    inadmissible = 0
    if layer.pearson:
        rng = streams(DrawKind.PEARSON, None, number)
        values, inadmissible = pearson_noise(rng, level, gain, ends, light.weights, exposure)
        other = rows != ends
        if other.any():
            # From a stream of their own: how many numbers a draw takes depends on the weights, and
            # the other pixels must not notice.
            inadmissible -= int(((values[other] == 0) & np.isfinite(level[other])).sum())
            rng = streams(DrawKind.PEARSON_EXCLUDED, None, number)
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
        rng = streams(DrawKind.POISSON, None, number)
        drawn += poisson_noise(rng, level, gain, rows, weights, exposure)
    inner = Tile(block, exposure.side).active
    out = np.zeros(block.shape, np.float32)
    out[inner] = drawn[inner]
    return out, inadmissible
