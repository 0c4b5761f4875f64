"""Improved Roman reference correction (IRRC): the noise of every channel, predicted from the left
and right border columns and the reference output by frequency.

Border and reference output are measured first (`irrc_spectra`); each channel's correction follows
from three spectra alone; a tile subtracts its trend and its correction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.detector import CHANNEL_WIDTH, PADDED_WIDTH, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Reduction, Spill, Step, Tile
from ..errors import InputError
from ..system.foreign import load
from .common import LARGEST
from .irrc_params import IrrcParams
from .irrc_spectra import border_pixels, border_strips, spectra, spectra_bytes

_BAD = np.uint32(PIXEL["BAD_REF_PIXEL"])


# -- the correction of a channel -------------------------------------------------------------------


def channels(exposure: Exposure, params: IrrcParams) -> list[Window]:
    """The channels: whole columns."""
    n = exposure.side
    return [Window(0, n, x, x + CHANNEL_WIDTH) for x in range(0, n, CHANNEL_WIDTH)]


def coefficients_of(window: Window) -> Window:
    """The row of the coefficients (channel, frequency) that a channel needs."""
    channel = window.x0 // CHANNEL_WIDTH
    return Window(channel, channel + 1, 0, window.y1 * PADDED_WIDTH // 2 + 1)


def correction(
    gamma: np.ndarray,
    zeta: np.ndarray,
    alpha: np.ndarray,
    *,
    window: Window,
    plane: int,
    measured: Mapping[str, np.ndarray],
    params: IrrcParams,
) -> np.ndarray:
    """Correction of one channel in one resultant.

    Parameters
    ----------
    gamma, zeta, alpha : ndarray (1, L / 2 + 1) of complex128
        Response of the channel to the left border, the right one and the reference output, for
        L = 140 N samples.
    window : Window
        The channel.
    plane : int
        The resultant.
    measured : mapping
        See `irrc_spectra.spectra`.

    Returns
    -------
    ndarray (N, 128) of float32
        DN, to be subtracted.

    Raises
    ------
    InputError
        If a coefficient is not finite or absurdly large: all pixels of the channel would be lost.
    """
    channel = window.x0 // CHANNEL_WIDTH
    n = window.y1
    samples = n * PADDED_WIDTH
    left, right, output = (measured[name][plane] for name in ("left", "right", "output"))
    total = np.empty(gamma.shape[1], np.complex128)
    scale = float(samples + 2 * params.two_samples_more)
    finite = _weighted_sum(gamma[0], zeta[0], alpha[0], left, right, output, scale, total)
    series = _irfft(total, samples) if finite else None
    if series is None or not max(series.max(), -series.min()) < LARGEST:
        given = {"gamma": gamma, "zeta": zeta, "alpha": alpha}
        names = [name for name, values in given.items() if not (np.abs(values) < LARGEST).all()]
        raise InputError(
            f"CALDIR.refpix: {', '.join(names or given)} has values that are not finite, or too "
            f"large, in channel {channel + 1}"
        )
    rows = series.reshape(n, PADDED_WIDTH)[:, :CHANNEL_WIDTH].astype(np.float32)
    return rows[:, ::-1] if channel % 2 else rows


@kernel
def _weighted_sum(gamma, zeta, alpha, left, right, output, scale, total):
    """The spectrum of the correction times `scale` into `total`; whether all of it is finite."""
    zero = 0.0  # stays so while numbers are finite
    for k in range(len(total)):
        value = gamma[k] * left[k]
        value += zeta[k] * right[k]
        value += alpha[k] * output[k]
        value *= scale
        total[k] = value
        zero += 0.0 * value.real + 0.0 * value.imag
    return zero == 0.0


def _irfft(spectrum: np.ndarray, samples: int) -> np.ndarray:
    c2r = load("ducc0").fft.c2r  # twice as fast as scipy's
    series: np.ndarray = c2r(spectrum, lastsize=samples, forward=False, inorm=2)
    return series


def correction_bytes(exposure: Exposure, params: IrrcParams) -> float:
    """Bytes that `correction` needs: three rows of coefficients, two spectra, the series and its
    work space, and a plane of the channel."""
    return 140 * exposure.side * (3 * 8 + 2 * 8 + 2 * 8) + 8 * CHANNEL_WIDTH * exposure.side


# -- a tile ----------------------------------------------------------------------------------------


@kernel
def _add_row(total, row):
    for x in range(len(row)):
        total[x] += row[x]


@kernel
def _mark_row(bad, mean, dq, total, n_res, zero_bad):
    """Pixels that count as 0, and the mean of each pixel, 0 for these."""
    for x in range(len(dq)):
        bad[x] = zero_bad & ((dq[x] & _BAD) != 0)
        mean[x] = np.float32(0) if bad[x] else np.float32(total[x] / n_res)


@kernel
def _correct_row(row, fix, mean, bad, line, skip, out):
    """One channel in one row; `line`: whether there is a trend, its slope, its level, the time of
    the first pixel, and the step from pixel to pixel."""
    trend, slope, level, start, step = line
    for x in range(len(row)):
        s = np.float32(row[x] - mean[x])
        less = np.float32(s - (slope * (start + step * x) + level))
        s = less if trend & ((s != 0) | (not skip)) else s
        s = np.float32(0) if bad[x] else s
        out[x] = np.float32(np.float32(s - fix[x]) + mean[x])


@kernel
def _correct(ramp, pixeldq, fix, slope, level, middle, place, options, out):
    """Fill `out`. `place`: first row and column of the tile. `options`: (zero_bad, remove_offset,
    remove_trends, skip_zeros)."""
    n_res, ny, nx = ramp.shape
    (y0, x0), (zero_bad, with_mean, with_trend, skip) = place, options
    mean = np.empty(nx, np.float32)
    total = np.empty(nx)
    bad = np.empty(nx, np.bool_)
    for y in range(ny):
        total[:] = 0.0
        if with_mean:
            for j in range(n_res):
                _add_row(total, ramp[j, y])
        _mark_row(bad, mean, pixeldq[y], total, n_res, zero_bad)
        x = 0
        while x < nx:
            channel = (x0 + x) // CHANNEL_WIDTH
            end = min((channel + 1) * CHANNEL_WIDTH - x0, nx)
            first = (x0 + x) % CHANNEL_WIDTH
            start = (y0 + y) * np.float64(PADDED_WIDTH) - middle
            # Exact, as times are halves of whole numbers. Odd channels are read backwards.
            start += CHANNEL_WIDTH - 1 - first if channel % 2 else first
            step = -1.0 if channel % 2 else 1.0
            for j in range(n_res):
                line = (with_trend, slope[j, channel], level[j, channel], start, step)
                _correct_row(
                    ramp[j, y, x:end],
                    fix[j, y, x:end],
                    mean[x:end],
                    bad[x:end],
                    line,
                    skip,
                    out[j, y, x:end],
                )
            x = end


def subtract_irrc(
    ramp: np.ndarray,
    pixeldq: np.ndarray,
    correction: np.ndarray,
    *,
    tile: Tile,
    params: IrrcParams,
    measured: Mapping[str, Any],
) -> np.ndarray:
    """Subtract the trend of the channel and its correction.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    pixeldq : ndarray (y, x) of uint32
        A reference pixel with BAD_REF_PIXEL counts as 0; with `zero_active` any pixel.
    correction : ndarray (R, y, x) of float32
        DN, see `correction`.

    Returns
    -------
    ndarray (R, y, x) of float32
    """
    out, params = np.empty_like(ramp), params.in_force
    if not params.zero_active and (pixeldq[tile.active] & _BAD).any():
        pixeldq = pixeldq.copy()
        pixeldq[tile.active] &= ~_BAD
    _correct(
        ramp,
        pixeldq,
        correction,
        measured["slope"].astype(np.float64),
        measured["level"].astype(np.float64),
        (tile.side * PADDED_WIDTH - 1) / 2,
        (tile.window.y0, tile.window.x0),
        (params.zero_bad, params.remove_offset, params.remove_trends, params.skip_zeros),
        out,
    )
    return out


step = Step(
    name="refpix_irrc",
    kernel=subtract_irrc,
    reads=("ramp", "pixeldq"),
    writes=("ramp",),
    params=IrrcParams,
    reduction=Reduction(
        windows=border_strips,
        partial=border_pixels,
        combine=spectra,
        reads=("ramp", "pixeldq"),
        whole={"amp33": "l1.amp33", "reference_amp33": "l1.reference_amp33"},
        holds=spectra_bytes,
    ),
    spill=Spill(
        name="correction",
        dtype="float32",
        strips=channels,
        make=correction,
        references={
            "gamma": "refpix.gamma",
            "zeta": "refpix.zeta",
            "alpha": "refpix.alpha",
        },
        part=coefficients_of,
        only=("left", "right", "output"),
        holds=correction_bytes,
    ),
    cal_step="refpix",
    imports=("ducc0",),
)
