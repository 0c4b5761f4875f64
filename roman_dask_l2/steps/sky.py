"""Sky: the mode of the background, and a smooth model subtracted from the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.polynomial import legendre
from pydantic import Field

from ..core.cells import CELLS, MAX_ORDER
from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.linalg import least_squares
from ..core.median import median as exact_median
from ..core.step import Params, Reduction, Step, Tile
from .mask import DEFAULT_GROWTH, Growth, grown_mask

BINNING = 4
"""The mode is that of the rate averaged over BINNING x BINNING pixels."""

ROWS = 512
"""Height of the bands in which it is averaged, a multiple of BINNING."""

_DO_NOT_USE = np.uint32(PIXEL["DO_NOT_USE"])


class SkyParams(Params):
    """Parameters of `subtract_sky`."""

    order: int | None = Field(default=None, ge=0, le=MAX_ORDER)
    """Order of the polynomial; None subtracts nothing."""
    every_pixel: bool = False
    """Take every pixel of a cell that is not NaN, as romanimpreprocess does: those that are
    DO_NOT_USE or infinite count."""


def cell_edges(side: int) -> list[tuple[int, int]]:
    """Cells along one axis of the active array of a detector of `side`, remainder split evenly
    at the edges. In active coordinates."""
    active = side - 2 * BORDER
    size = active // CELLS
    first = (active - CELLS * size) // 2
    return [(first + i * size, first + (i + 1) * size) for i in range(CELLS)]


def cells(exposure: Exposure, params: SkyParams) -> list[Window]:
    """Windows of the cells, full-frame coordinates, row by row."""
    if params.order is None:
        return []
    edges = [(a + BORDER, b + BORDER) for a, b in cell_edges(exposure.side)]
    return [Window(*ys, *xs) for ys in edges for xs in edges]


def cell_rows(exposure: Exposure, params: SkyParams) -> list[Window]:
    """Windows of the rows of cells, over all active columns: what is read lies in one piece."""
    if params.order is None:
        return []
    side = exposure.side
    return [Window(a + BORDER, b + BORDER, BORDER, side - BORDER) for a, b in cell_edges(side)]


@kernel
def _usable(rate, dq, values):
    """Copy the values that are finite and not DO_NOT_USE; returns how many there are."""
    n = 0
    for y in range(rate.shape[0]):
        for x in range(rate.shape[1]):
            values[n] = rate[y, x]
            n += np.isfinite(rate[y, x]) & ((dq[y, x] & _DO_NOT_USE) == 0)
    return n


@kernel
def _numbers(rate, values):
    """Copy the values that are not NaN; returns how many there are."""
    n = 0
    for y in range(rate.shape[0]):
        for x in range(rate.shape[1]):
            values[n] = rate[y, x]
            n += not np.isnan(rate[y, x])
    return n


def cell_median(rate: np.ndarray, dq: np.ndarray | None = None) -> tuple[float, int]:
    """Median of a cell's usable pixels. Stars fill a small part of a cell and hardly shift it.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        DN/s.
    dq : ndarray (y, x) of uint32, optional
        Without it every pixel is used that is not NaN.

    Returns
    -------
    median : float
        DN/s; NaN if no pixel can be used.
    left_out : int
        Pixels that are not used.
    """
    values = np.empty(rate.size + 1, np.float32)  # one more, for the last value that is not kept
    n = _numbers(rate, values) if dq is None else _usable(rate, dq, values)
    return exact_median(values[:n]) if n else float("nan"), rate.size - n


def measure_cell(rate: np.ndarray, dq: np.ndarray, *, params: SkyParams) -> tuple[float, int]:
    """`cell_median`; of every pixel with ``every_pixel``."""
    return cell_median(rate, None if params.every_pixel else dq)


def measure_row(
    rate: np.ndarray, dq: np.ndarray, *, exposure: Exposure, params: SkyParams
) -> list[tuple[float, int]]:
    """`measure_cell` for all cells of a row, on one of the `cell_rows`."""
    return [
        measure_cell(rate[:, a:b], dq[:, a:b], params=params) for a, b in cell_edges(exposure.side)
    ]


def fit_cells(
    partials: Sequence[Sequence[tuple[float, int]]], *, exposure: Exposure, params: SkyParams
) -> Mapping[str, Any]:
    """Apply `fit_sky` to the results of `measure_row`.

    Returns
    -------
    mapping
        ``coefs`` (DN/s), empty if there is no model; numbers of ``cells`` and ``pixels`` left out.
    """
    measured = [cell for row in partials for cell in row]
    medians = [middle for middle, _ in measured]
    coefs = None if params.order is None else fit_sky(medians, params.order, exposure)
    return {
        "coefs": np.zeros(0) if coefs is None else coefs,
        "cells": int(np.count_nonzero(~np.isfinite(medians))),
        "pixels": sum(left_out for _, left_out in measured),
    }


def fit_sky(medians: Sequence[float], order: int, exposure: Exposure) -> np.ndarray | None:
    """Least-squares fit of ``sum_{i+j<=n} c_ij P_i(u) P_j(v)`` to the cell medians.

    u runs along x and v along y, in [-1, 1) as ``2 index / size - 1`` at the cell centres.

    Parameters
    ----------
    medians : sequence of float
        Row by row, DN/s. Cells whose median is not finite are left out.
    order : int
        n.
    exposure : Exposure

    Returns
    -------
    ndarray of float64 or None
        c_ij in the order 00, 01, .., 0n, 10, .. of (i, j), DN/s; None if the remaining cells
        do not determine them.
    """
    values = np.asarray(medians, float)
    size = exposure.side - 2 * BORDER
    centre = np.array([(a + b - 1) / 2 for a, b in cell_edges(exposure.side)])
    u = 2 * centre / size - 1
    v, u = (a.ravel() for a in np.meshgrid(u, u, indexing="ij"))
    design = np.stack([_legendre(i, u) * _legendre(j, v) for i, j in terms(order)], axis=-1)
    good = np.isfinite(values)
    # The rank is a whole number, the same on every machine.
    if not good.all() and np.linalg.matrix_rank(design[good]) < design.shape[1]:
        return None
    return least_squares(design[good], values[good])


def terms(order: int) -> list[tuple[int, int]]:
    """(i, j) of the model's terms in the order of its coefficients."""
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def _legendre(i: int, x: np.ndarray) -> np.ndarray:
    return legendre.legval(x, np.eye(i + 1)[i])


def sky_model(coefs: np.ndarray, order: int, window: Window, side: int) -> np.ndarray:
    """The model on a window of the full frame, float64 (y, x), DN/s."""
    along_x, along_y = _factors(coefs, order, window, side)
    return np.asarray(
        sum(x[np.newaxis, :] * y[:, np.newaxis] for x, y in zip(along_x, along_y, strict=True))
    )


def sky_image(coefs: np.ndarray, order: int, window: Window, side: int) -> np.ndarray:
    """`sky_model` rounded to float32."""
    out = np.empty(window.shape, np.float32)
    _image(*_factors(coefs, order, window, side), out)
    return out


@kernel
def _row(along_x, along_y, y, model):
    """Row `y` of the model into `model`."""
    model[:] = 0.0
    for j in range(len(along_y)):
        for x in range(len(model)):
            model[x] += along_x[j, x] * along_y[j, y]


@kernel
def _image(along_x, along_y, out):
    ny, nx = out.shape
    model = np.empty(nx)
    for y in range(ny):
        _row(along_x, along_y, y, model)
        for x in range(nx):
            out[y, x] = np.float32(model[x])


def subtract_model(
    rate: np.ndarray, coefs: np.ndarray, order: int, window: Window, side: int
) -> np.ndarray:
    """``rate - sky_model(..)``, the model rounded to float32, without an image of the model.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        On a window of the full frame, DN/s.
    coefs : ndarray
        See `fit_sky`.
    order : int
    window : Window
    side : int
        Detector side N.

    Returns
    -------
    ndarray (y, x) of float32
        DN/s.
    """
    out = np.empty(rate.shape, np.float32)
    _subtract(np.asarray(rate, np.float32), *_factors(coefs, order, window, side), out)
    return out


def _factors(
    coefs: np.ndarray, order: int, window: Window, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Factors (order + 1, nx) and (order + 1, ny), whose products sum to the model: a pixel's value
    does not depend on the size of the window."""
    size = side - 2 * BORDER
    u = 2 * (np.arange(window.x0, window.x1) - BORDER) / size - 1
    v = 2 * (np.arange(window.y0, window.y1) - BORDER) / size - 1
    grid = np.zeros((order + 1, order + 1))
    for c, (i, j) in zip(coefs, terms(order), strict=True):
        grid[i, j] = c
    every = range(order + 1)
    return (
        np.stack([legendre.legval(u, grid[:, j]) for j in every]),
        np.stack([_legendre(j, v) for j in every]),
    )


@kernel
def _subtract(rate, along_x, along_y, out):
    ny, nx = rate.shape
    model = np.empty(nx)
    for y in range(ny):
        _row(along_x, along_y, y, model)
        for x in range(nx):
            out[y, x] = rate[y, x] - np.float32(model[x])


def subtract_sky(
    rate: np.ndarray, *, tile: Tile, params: SkyParams, measured: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Subtract the polynomial that was fitted to the sky from the rate.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        DN/s.

    Returns
    -------
    ndarray (y, x) of float32
        DN/s; the rate itself where there is no model.
    """
    if params.order is None or len(measured["coefs"]) == 0:
        return rate.copy()
    return subtract_model(rate, measured["coefs"], params.order, tile.window, tile.side)


step = Step(
    name="sky",
    kernel=subtract_sky,
    reads=("rate",),
    writes=("data",),
    params=SkyParams,
    settings={"order": "SKYORDER"},
    reduction=Reduction(
        windows=cell_rows,
        partial=measure_row,
        combine=fit_cells,
        reads=("rate", "dq"),
        thin=False,
    ),
)


class MedskyParams(Params):
    """Parameters of `measure_only`."""

    border: bool = False
    """Count the reference border with a rate of 0 where no flag masks it, as romanimpreprocess
    does; its flags then also grow into the active array, for this measurement alone."""
    growth: Growth = DEFAULT_GROWTH
    """With `border`: flag -> pixels masked around it, as that of the step mask."""


def bands(exposure: Exposure, params: MedskyParams) -> list[Window]:
    """Bands of rows of the active array; with ``border`` the frame as a whole, as flags grow from
    one band into the next."""
    side = exposure.side
    if params.border:
        return [Window(0, side, 0, side)]
    first, last = BORDER, side - BORDER
    return [Window(y, min(y + ROWS, last), first, last) for y in range(first, last, ROWS)]


def _measured(params: MedskyParams) -> tuple[str, ...]:
    return ("rate", "dq") if params.border else ("rate", "mask")


def measure_background(
    rate: np.ndarray,
    mask: np.ndarray | None = None,
    dq: np.ndarray | None = None,
    *,
    tile: Tile,
    params: MedskyParams,
) -> np.ndarray:
    """What `background_mode` is the mode of, on a band of the active array; with ``border`` on the
    frame.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        DN/s.
    mask : ndarray (y, x) of bool, optional
        True = not used. Without ``border``.
    dq : ndarray (y, x) of uint32, optional
        With ``border``.

    Returns
    -------
    ndarray (n,) of float64
        DN/s, see `binned`.
    """
    if mask is None:
        assert dq is not None
        active, whole = tile.active, np.zeros(rate.shape, np.float32)
        whole[active] = rate[active]
        rate, mask = whole, grown_mask(dq, params.growth)
    return binned(rate, mask)


def background_mode(values: np.ndarray) -> float:
    """Mode of the smoothed histogram of the rate averaged over 4 x 4 unmasked pixels.

    Start at the median, with sigma = (75th - 25th percentile)/1.34898. Three times: evaluate the
    histogram, smoothed by a Gaussian of 0.5 sigma, at the inner 19 of 21 points over centre +-
    sigma, and move the centre to the vertex of the parabola through its highest point and that
    point's neighbours.

    Parameters
    ----------
    values : ndarray (n,) of float64
        What is `binned`, DN/s.

    Returns
    -------
    float
        DN/s; NaN if there are no values.
    """
    if values.size == 0:
        return float("nan")
    lower, centre, upper = np.percentile(values, [25, 50, 75])
    sigma = (upper - lower) / 1.34898
    if not sigma > 0:
        return float(centre)
    for _ in range(3):
        points = np.linspace(centre - sigma, centre + sigma, 21)
        height = _smoothed_histogram(values, points[1:-1], 0.5 * sigma, np.exp(-0.04))
        top = int(np.clip(np.argmax(height), 1, len(height) - 2))
        left, mid, right = height[top - 1 : top + 2]
        bend = left - 2 * mid + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        centre = points[1 + top] + shift * (points[1] - points[0])
    return float(centre)


@kernel
def binned(rate, mask):
    """Means of the BINNING x BINNING blocks of `rate` (y, x) in which `mask` is False, those that
    are finite."""
    ny, nx = rate.shape[0] // BINNING, rate.shape[1] // BINNING
    values = np.empty(ny * nx)
    n = 0
    for y in range(ny):
        for x in range(nx):
            total, masked = 0.0, False
            for j in range(BINNING * y, BINNING * (y + 1)):
                for i in range(BINNING * x, BINNING * (x + 1)):
                    total += rate[j, i]
                    masked |= mask[j, i]
            if not masked and np.isfinite(total):
                values[n] = total / BINNING**2
                n += 1
    return values[:n]


@kernel
def _smoothed_histogram(values, points, width, bend):
    """Sum over `values` of a Gaussian of `width` at each of `points`.

    From one of the equally spaced points to the next the Gaussian is multiplied by a factor, and
    that factor by the constant `bend` = exp(-(spacing / width)^2): two exponentials a value.
    """
    out = np.zeros(len(points))
    spacing = (points[1] - points[0]) / width
    for v in values:
        t = (v - points[0]) / width
        if -8 < t < 8 + spacing * len(points):
            height = np.exp(-0.5 * t * t)
            factor = np.exp(spacing * (t - 0.5 * spacing))
            for p in range(len(points)):
                out[p] += height
                height *= factor
                factor *= bend
    return out


def find_mode(partials: Sequence[np.ndarray]) -> Mapping[str, Any]:
    """`background_mode` of what `measure_background` has found, in order."""
    return {"medsky": background_mode(np.concatenate(partials))}


def measure_only() -> tuple[()]:
    """Measure the mode of the background; no array is changed."""
    return ()


medsky = Step(
    name="medsky",
    kernel=measure_only,
    params=MedskyParams,
    settings={"growth": "MASK"},
    reduction=Reduction(
        windows=bands,
        partial=measure_background,
        combine=find_mode,
        reads=_measured,
        thin=False,
    ),
)
