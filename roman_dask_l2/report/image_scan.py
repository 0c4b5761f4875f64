"""One pass over an L2 file, a band of rows at a time, for everything that its pictures need."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..io.arrays import FileArray
from ..io.layout import Layout, read_layout
from ..products.quality import HALVES, count_halves, exposure_of, found
from .blocks import block_kinds, block_mean, combinations

CELLS = 640
"""Largest number of cells along the side of a picture."""
SKY_CELLS = 64
"""Approximate number of cells along a side for the medians of the sky residual."""
ZOOM = 200
"""Side of the part that is shown pixel by pixel."""
QUIET = 5.0
"""A pixel this many errors above the sky counts as a source."""
RATES = np.linspace(-2, 5, 281)
"""Edges of the bins of log10(rate / (DN/s))."""
ERRORS = np.linspace(-2.5, 2.5, 251)
"""Edges of the bins of log10(error / (DN/s))."""
KEPT = 12
"""Candidates that are kept for each kind of ramp to be shown."""
EVERY = 16
"""Every so many rows, one is sampled for quiet pixels."""


@dataclass(frozen=True)
class L2:
    """An L2 file of this program, with none of its arrays read.

    Attributes
    ----------
    path : Path
    layout : Layout
    exposure : Exposure
    info : mapping
        processinfo.
    meta : mapping
        roman.meta, as the file has it.
    """

    path: Path
    layout: Layout
    exposure: Exposure

    @property
    def info(self) -> Mapping[str, Any]:
        return self.layout.value("processinfo", default={})

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.layout.value("roman", "meta", default={})

    @property
    def side(self) -> int:
        """Of the active array."""
        return self.exposure.side - 2 * BORDER

    def array(self, *key: str) -> FileArray | None:
        """An array, None if it is not there."""
        return self.layout.array(*key)

    def numbers(self, *key: str) -> np.ndarray:
        """A small array of processinfo, read; empty if it is not there."""
        array = self.layout.array("processinfo", *key)
        return np.zeros(0) if array is None or 0 in array.shape else array.read()


def open_image(path: Path) -> L2:
    """Describe an L2 file.

    Raises
    ------
    InputError
        If it cannot be read, or is no L2 file of this program.
    """
    layout = read_layout(path)
    for key in (("roman", "data"), ("roman", "dq"), ("roman", "err"), ("mask",)):
        found(layout, *key)
    return L2(Path(path), layout, exposure_of(layout))


@dataclass(frozen=True)
class Band:
    """Some rows of the active array, all columns.

    Attributes
    ----------
    y0, y1 : int
    rate, data, err : ndarray of float32
        DN/s; with and without sky.
    light : ndarray of float32 or None
        var_poisson, (DN/s)^2.
    chisq : ndarray of float16 or None
    dq : ndarray of uint32
    mask : ndarray of bool
        Combined mask, and what is not finite.
    level : float
        Sky that is left in `data`, DN/s.
    """

    y0: int
    y1: int
    rate: np.ndarray
    data: np.ndarray
    err: np.ndarray
    light: np.ndarray | None
    chisq: np.ndarray | None
    dq: np.ndarray
    mask: np.ndarray
    level: float = 0.0

    @property
    def quiet(self) -> np.ndarray:
        """Pixels that are not masked and contain no source."""
        return ~self.mask & (self.data - np.float32(self.level) < QUIET * self.err)


def bands(l2: L2, edges: np.ndarray) -> Iterator[Band]:
    """The image, band by band.

    Parameters
    ----------
    l2 : L2
    edges : ndarray of int
        Rows where bands begin, and the end.
    """
    roman = {name: l2.array("roman", name) for name in ("data_withsky", "var_poisson", "chisq")}
    data, err, dq = (found(l2.layout, "roman", name) for name in ("data", "err", "dq"))
    mask, level = found(l2.layout, "mask"), _sky_left(l2)
    for y0, y1 in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        rows = Window(y0, y1, 0, l2.side)
        read = {name: None if array is None else array.read(rows) for name, array in roman.items()}
        image, light = data.read(rows), read["var_poisson"]
        rate = image if read["data_withsky"] is None else read["data_withsky"]
        error = err.read(rows).astype(np.float32)
        bad = mask.read(rows) | ~np.isfinite(rate) | ~np.isfinite(error)
        if image is not rate:
            bad |= ~np.isfinite(image)
        yield Band(
            y0, y1, rate, image, error, None if light is None else light.astype(np.float32),
            read["chisq"], dq.read(rows), bad, level,
        )  # fmt: skip


def _sky_left(l2: L2) -> float:
    """The sky in ``data`` where no model of it was subtracted, DN/s; 0 where one was."""
    level = l2.info.get("medsky")
    if not isinstance(level, int | float) or l2.info.get("skyorder") != -1:
        return 0.0
    return float(level) if math.isfinite(level) else 0.0


def _no_errors() -> np.ndarray:
    return np.zeros((len(RATES) - 1, len(ERRORS) - 1), np.int64)


@dataclass
class ImageScan:
    """What one pass over an image has found.

    Attributes
    ----------
    k : int
        Pixels along the side of a cell of `rate` and `kinds`.
    rate : ndarray (y, x)
        Means of unmasked pixels, DN/s.
    kinds : ndarray (y, x) of uint8
        See `block_kinds`.
    edges : ndarray of int
        Where the cells of `residual` begin, and the end.
    residual, sky : ndarray
        Medians of unmasked pixels with and without the sky model taken off, DN/s.
    flags : Counter
        Value of dq -> pixels.
    masked, unusable, unsure, dim : int
        Pixels in the mask; whose rate is not finite; whose error is not; unmasked with rates too
        low for `errors`.
    errors, full : ndarray (rate, err) of int
        Unmasked pixels by `RATES` and `ERRORS`; those of them that never saturate.
    chisq : ndarray (65536,) of int
        From `count_halves`.
    read_variance, light : ndarray
        Of some quiet pixels, (DN/s)^2; their rates with sky, DN/s.
    places : ndarray (2, n) of int
        Rows and columns of these pixels.
    candidates : dict
        Kind of ramp -> (score, y, x) of pixels, the best first.
    zoom : tuple of (int, int)
        First row and column of the part to be shown pixel by pixel.
    """

    k: int
    rate: np.ndarray
    kinds: np.ndarray
    edges: np.ndarray
    residual: np.ndarray
    sky: np.ndarray
    flags: Counter = field(default_factory=Counter)
    masked: int = 0
    unusable: int = 0
    unsure: int = 0
    dim: int = 0
    errors: np.ndarray = field(default_factory=_no_errors)
    full: np.ndarray = field(default_factory=_no_errors)
    chisq: np.ndarray = field(default_factory=lambda: np.zeros(HALVES, np.int64))
    read_variance: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    light: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    places: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), np.int32))
    candidates: dict[str, list[tuple[float, int, int]]] = field(default_factory=dict)
    zoom: tuple[int, int] = (0, 0)

    def count(self, flag: str) -> int:
        """Pixels that have a flag."""
        return sum(n for value, n in self.flags.items() if value & PIXEL[flag])


def scan_image(l2: L2) -> ImageScan:
    """Read every pixel of an image once."""
    side = l2.side
    k = 1
    while side / k > CELLS and side % (2 * k) == 0:
        k *= 2
    units = side // 8  # a side is a multiple of 128, less the border: a multiple of 8
    edges = 8 * np.rint(np.linspace(0, units, min(SKY_CELLS, units) + 1)).astype(int)
    n = len(edges) - 1
    seen = ImageScan(
        k,
        np.empty((side // k, side // k), np.float32),
        np.empty((side // k, side // k), np.uint8),
        edges,
        np.empty((n, n), np.float32),
        np.empty((n, n), np.float32),
    )
    read, light, places = [], [], []
    for row, band in enumerate(bands(l2, edges)):
        cells = np.s_[band.y0 // k : band.y1 // k]
        seen.rate[cells] = block_mean(band.rate, band.mask, k)
        seen.kinds[cells] = block_kinds(band.dq, k)
        seen.residual[row] = _medians(band.data, band.mask, edges)
        seen.sky[row] = _medians(band.rate, band.mask, edges)
        seen.flags.update(combinations(band.dq))
        seen.masked += int(np.count_nonzero(band.mask))
        seen.unusable += int(np.count_nonzero(~(np.isfinite(band.rate) & np.isfinite(band.data))))
        seen.unsure += int(np.count_nonzero(~np.isfinite(band.err)))
        _count_errors(band, seen)
        if band.chisq is not None:
            seen.chisq += count_halves(band.chisq, ~band.mask)
        some = np.s_[::EVERY]
        use = band.quiet[some]
        y, x = np.nonzero(use)
        places.append(np.array([band.y0 + EVERY * y, x], np.int32))
        light.append(band.rate[some][use])
        if band.light is not None:
            read.append((band.err[some] ** 2 - band.light[some])[use])
        _find_candidates(band, side, seen)
    if read:
        seen.read_variance = np.maximum(np.concatenate(read), 0)
    seen.light, seen.places = np.concatenate(light), np.concatenate(places, axis=1)
    seen.zoom = _brightest(seen, side)
    return seen


def _medians(image: np.ndarray, mask: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Median of the unmasked pixels of each cell of a band; NaN where there are none."""
    parts = zip(edges[:-1], edges[1:], strict=True)
    cells = [image[:, a:b][~mask[:, a:b]] for a, b in parts]
    return np.array([np.median(c) if c.size else math.nan for c in cells], np.float32)


def _count_errors(band: Band, seen: ImageScan) -> None:
    """Add a band to the two-dimensional histograms of rates and errors."""
    use = ~band.mask & (band.err > 0)
    rate, err = band.rate[use], band.err[use]
    bright = rate > 10 ** RATES[0]
    seen.dim += int(np.count_nonzero(~bright))
    i, j = (
        ((np.log10(values[bright]) - edges[0]) * ((len(edges) - 1) / (edges[-1] - edges[0])))
        for values, edges in ((rate, RATES), (err, ERRORS))
    )
    shape = seen.errors.shape
    i, j = (np.clip(v, 0, n - 1).astype(np.int64) for v, n in zip((i, j), shape, strict=True))
    bins, short = i * shape[1] + j, band.dq[use][bright] & PIXEL["SATURATED"] != 0
    for counts, which in ((seen.errors, bins), (seen.full, bins[~short])):
        counts += np.bincount(which, minlength=counts.size).reshape(shape)


NEVER = PIXEL["DEAD"] | PIXEL["NO_LIN_CORR"] | PIXEL["NO_SAT_CHECK"] | PIXEL["NO_GAIN_VALUE"]


def _find_candidates(band: Band, side: int, seen: ImageScan) -> None:
    """Keep the pixels whose ramps make the best examples; the lower the score, the better."""
    significance = np.abs(band.data) / np.where(band.err > 0, band.err, np.float32(np.inf))
    y, x = np.ogrid[band.y0 : band.y1, 0:side]
    far = np.hypot(y - side / 2, x - side / 2) / side  # all else equal, near the middle
    hot, saturated, jump = (PIXEL[name] for name in ("HOT", "SATURATED", "JUMP_DET"))
    clean = (band.dq == 0) & ~band.mask & (significance < 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        kinds = {
            "normal": (clean, far),
            # A jump that is clear, but does not hide the rest of the ramp.
            "cosmic ray": (band.dq == jump, np.abs(np.log(significance / 40)) + far),
            "saturating": ((band.dq & ~np.uint32(jump)) == saturated, -np.log(band.rate)),
            # Its dark current is subtracted, but the shot noise of that is in its error.
            "hot": (
                (band.dq & hot != 0) & (band.dq & (NEVER | saturated) == 0),
                -band.err,
            ),
        }
    for name, (use, score) in kinds.items():
        places = np.nonzero(use & np.isfinite(score))
        if len(places[0]) == 0:
            continue
        scores = np.broadcast_to(score, use.shape)[places]
        best = np.argpartition(scores, min(KEPT, len(scores) - 1))[:KEPT]
        kept = seen.candidates.get(name, []) + [
            (float(scores[i]), int(places[0][i]) + band.y0, int(places[1][i])) for i in best
        ]
        seen.candidates[name] = sorted(kept)[:KEPT]


def _brightest(seen: ImageScan, side: int) -> tuple[int, int]:
    """First row and column of a part around the brightest cell."""
    cells = np.where(np.isfinite(seen.rate), seen.rate, -np.inf)
    size = min(ZOOM, side)
    y, x = np.unravel_index(int(np.argmax(cells)), cells.shape)
    first = [int(np.clip(v * seen.k - size // 2, 0, side - size)) for v in (y, x)]
    return first[0], first[1]
