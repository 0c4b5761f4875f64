"""Reference-pixel correction: row offsets from the reference output, channel lines from the border.

Only the border rows and the reference output (amp33) are needed to find the coefficients, so the
step is reduce-then-tile: strips first, then every tile subtracts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH, Window
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.median import median as exact_median
from ..core.step import Params, Reduction, Step, Tile
from .common import all_finite, replace_bad


class RefpixParams(Params):
    """Parameters of `subtract_reference`."""

    through_dark: bool = False
    """Subtract the dark cube before the correction and add it back after. The result is the same
    up to the rounding of float32, but the cube has to be read; romanimpreprocess does this."""
    first_planes: bool = False
    """Where the dark cube has a plane more than the exposure, take its first planes, not the last
    ones, as romanimpreprocess does."""


def strips(exposure: Exposure, params: RefpixParams) -> list[Window]:
    """The first and the last border rows, all columns."""
    n = exposure.side
    return [Window(0, BORDER, 0, n), Window(n - BORDER, n, 0, n)]


def above_dark(ramp: np.ndarray, dark: np.ndarray) -> np.ndarray:
    """Border rows above the mean dark, float32 (R, 4, N), DN; NaN where the dark is unusable."""
    dark, bad = replace_bad(dark, 0.0)
    above = ramp - dark
    if bad is not None:
        above[bad] = np.nan
    return above


def row_weight(common: float, own: float, own_pink: float, std: np.ndarray) -> float:
    """Share of a row's offset in the reference output that the detector's channels share.

    The Wiener weight ``M C^2 / (M^2 C^2 + RU^2 + s^2 / (128 ln 4096))``: covariance of the two
    over the variance of a row's reference-output median.

    Parameters
    ----------
    common : float
        C_PINK, 1/f noise common to all channels, DN.
    own : float
        M_PINK, response of the reference output to it.
    own_pink : float
        RU_PINK, 1/f noise of the reference output alone, DN.
    std : ndarray
        White noise of the reference output, DN; the median of its finite values counts.

    Returns
    -------
    float
        0 where there is no noise, NaN where no weight can be computed.
    """
    std = std[np.isfinite(std)]
    if std.size == 0:
        return float("nan")
    with np.errstate(over="ignore"):
        spread = np.median(std)  # squared in its own precision: the last bit counts
        white = float(spread * spread) / (CHANNEL_WIDTH * np.log(4096))
    try:
        variance = own**2 * common**2 + own_pink**2 + white
        weight = own * common**2 / variance if variance > 0 or np.isnan(variance) else 0.0
    except OverflowError:
        return float("nan")
    return weight if np.isfinite(weight) else float("nan")


def _medians(values: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Medians of the values that are finite; NaN where none is."""
    if all_finite(values):
        if axis is None and values.dtype == np.float32:
            return np.asarray(np.float32(exact_median(values)))
        return np.asarray(np.median(values, axis=axis))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of all-NaN slices
        return np.asarray(np.nanmedian(np.where(np.isfinite(values), values, np.nan), axis=axis))


def coefficients(
    partials: Sequence[np.ndarray],
    amp33: np.ndarray,
    reference_amp33: np.ndarray | None,
    median: np.ndarray | None,
    std: np.ndarray | None,
    common: Any,
    own: Any,
    own_pink: Any,
    *,
    exposure: Exposure,
) -> Mapping[str, np.ndarray]:
    """Row offsets and channel lines of every resultant.

    Parameters
    ----------
    partials : two ndarrays (R, 4, N) of float32
        Bottom and top border rows above the dark, DN.
    amp33 : ndarray (R, N, 128) of uint16
        Reference output, DN; `reference_amp33` (N, 128) was subtracted from it on board.
    median, std : ndarray (N, 128), optional
        Mean and white noise of the reference output, DN. Without them rows are not corrected.
    common, own, own_pink : float
        C_PINK, M_PINK, RU_PINK; see `row_weight`.

    Returns
    -------
    mapping
        ``rows`` float64 (R, N), DN to subtract from a row; ``slope`` and ``low`` float64 (R,
        channels), the line ``slope * y + low - 1.5 slope`` to subtract from a channel;
        ``left_out``, how many values were not finite, and ``no_weight``: rows are not corrected
        because the noise amplitudes of the read file give no weight.

    Notes
    -----
    Medians leave out what is not finite. A row without any value has the offset 0; a channel with
    values at one end has the same offset everywhere, one without any is not corrected.
    """
    bottom, top = partials
    n, n_res = exposure.side, exposure.n_resultants
    rows = np.zeros((n_res, n))
    left_out = sum(int(np.count_nonzero(~np.isfinite(strip))) for strip in partials)
    no_weight = False
    if median is not None and std is not None:
        weight = row_weight(float(common), float(own), float(own_pink), std)
        no_weight = bool(np.isnan(weight))
        median = np.asarray(median, np.float32)
        unknown = ~np.isfinite(median)
        if reference_amp33 is not None:
            unknown |= ~np.isfinite(reference_amp33)
        left_out += int(np.count_nonzero(unknown))
        if not no_weight:
            rows += weight * _row_offsets(amp33, reference_amp33, median, exposure)
    lo = _channel_medians(bottom, rows[:, :BORDER])
    hi = _channel_medians(top, rows[:, n - BORDER :])
    lo, hi = (np.where(np.isnan(own), other, own) for own, other in ((lo, hi), (hi, lo)))
    lo, hi = np.nan_to_num(lo), np.nan_to_num(hi)
    slope = (hi.astype(np.float64) - lo) / (n - BORDER)
    return {
        "rows": rows,
        "slope": slope,
        "low": lo.astype(np.float64),
        "left_out": left_out,
        "no_weight": no_weight,
    }


def _row_offsets(
    amp33: np.ndarray, reference_amp33: np.ndarray | None, median: np.ndarray, exposure: Exposure
) -> np.ndarray:
    """Row medians of the reference output above their own median, float64 (R, N), DN; see
    `coefficients`."""
    offsets = np.empty(amp33.shape[:2])
    for j in range(len(amp33)):
        block = amp33[j].astype(np.float32)
        if reference_amp33 is not None:
            block += reference_amp33.astype(np.float32)
        block -= np.float32(exposure.encoding_offset)
        block -= median
        block -= _medians(block)
        medians = _medians(block, axis=1)
        offsets[j] = (medians - _medians(medians)).astype(np.float64)
    return np.nan_to_num(offsets)


def _channel_medians(strip: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Median of each channel of a border strip (R, 4, N) after the row correction."""
    corrected = (strip - rows[:, :, np.newaxis]).astype(np.float32)
    n_res, n_rows, n = corrected.shape
    channels = corrected.reshape(n_res, n_rows, n // CHANNEL_WIDTH, CHANNEL_WIDTH)
    return _medians(channels.transpose(0, 2, 1, 3).reshape(n_res, n // CHANNEL_WIDTH, -1), axis=-1)


@kernel
def _subtract(ramp, dark, rows, slope, low, y0, x0, out):
    """Subtract row offsets and channel lines, rounding to float32 after each."""
    through_dark = dark.shape[0] > 0
    nx = ramp.shape[2]
    for j in range(ramp.shape[0]):
        for y in range(ramp.shape[1]):
            row = rows[j, y0 + y]
            for c in range(x0 // 128, (x0 + nx - 1) // 128 + 1):
                a, b = max(128 * c - x0, 0), min(128 * (c + 1) - x0, nx)
                # In this order: the last bit of the line decides a few roundings.
                line = slope[j, c] * (y0 + y) + low[j, c] - 1.5 * slope[j, c]
                s, target = ramp[j, y, a:b], out[j, y, a:b]
                if through_dark:
                    d = dark[j, y, a:b]
                    for x in range(b - a):
                        above = np.float32((s[x] - d[x]) - row)
                        target[x] = np.float32(above - line) + d[x]
                else:
                    for x in range(b - a):
                        target[x] = np.float32(np.float32(s[x] - row) - line)


def subtract_reference(
    ramp: np.ndarray,
    dark: np.ndarray | None = None,
    *,
    tile: Tile,
    measured: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Subtract the row and channel offsets measured on reference pixels.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    dark : ndarray (R, y, x) of float32, optional
        Mean dark; only where the rounding of ``S - dark + dark`` is to be reproduced.

    Returns
    -------
    ndarray (R, y, x) of float32
    """
    dark = np.empty((0, 0, 0), np.float32) if dark is None else replace_bad(dark, 0.0)[0]
    out = np.empty_like(ramp)
    m = measured
    window = tile.window
    _subtract(ramp, dark, m["rows"], m["slope"], m["low"], window.y0, window.x0, out)
    return out


def _references(params: RefpixParams) -> dict[str, str]:
    return _dark(params) if params.through_dark else {}


def _dark(params: RefpixParams) -> dict[str, str]:
    return {"dark": "dark.data@first" if params.first_planes else "dark.data"}


step = Step(
    name="refpix",
    kernel=subtract_reference,
    reads=("ramp",),
    writes=("ramp",),
    references=_references,
    params=RefpixParams,
    reduction=Reduction(
        windows=strips,
        partial=above_dark,
        combine=coefficients,
        reads=("ramp",),
        references=_dark,
        whole={
            "amp33": "l1.amp33",
            "reference_amp33": "l1.reference_amp33",
            "median": "read.amp33.med",
            "std": "read.amp33.std",
            "common": "read.anc.C_PINK",
            "own": "read.amp33.M_PINK",
            "own_pink": "read.amp33.RU_PINK",
        },
    ),
    cal_step="refpix",
)
