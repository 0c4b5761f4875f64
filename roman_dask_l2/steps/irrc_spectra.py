"""What the improved Roman reference correction measures: trends of the channels, spectra of the
left and right border and of the reference output."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH, PADDED_WIDTH, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from .common import replace_bad
from .irrc_params import IrrcParams

log = logging.getLogger(__name__)

_BAD = np.uint32(PIXEL["BAD_REF_PIXEL"])
_GAP = PADDED_WIDTH - CHANNEL_WIDTH
_REACH = 15
"""Samples on each side of a gap's sample that it is filled from."""


def border_strips(exposure: Exposure, params: IrrcParams) -> list[Window]:
    """The first and the last border rows, then the left and the right border columns."""
    n = exposure.side
    ends = (0, BORDER), (n - BORDER, n)
    return [*(Window(*end, 0, n) for end in ends), *(Window(0, n, *end) for end in ends)]


def border_pixels(
    ramp: np.ndarray, pixeldq: np.ndarray, *, params: IrrcParams
) -> tuple[np.ndarray, np.ndarray]:
    """A strip of the border without each pixel's mean over the resultants.

    Returns
    -------
    values : ndarray (R, y, x) of float32
        DN; 0 for bad pixels.
    missing : ndarray (y, x) of bool
        Bad pixels.
    """
    params = params.in_force
    missing = (pixeldq & _BAD != 0) & params.zero_bad
    values = np.where(missing, np.float32(0), ramp)
    if params.remove_offset:
        values -= _mean(values)
    return values, missing


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over resultants, rounded once; added up in their order, as the kernel of tiles does."""
    total = np.zeros(values.shape[1:])
    for plane in values:
        total += plane
    return (total / len(values)).astype(np.float32)


def spectra(
    partials: Sequence[tuple[np.ndarray, np.ndarray]],
    amp33: np.ndarray,
    reference_amp33: np.ndarray | None,
    *,
    exposure: Exposure,
    params: IrrcParams,
) -> Mapping[str, np.ndarray]:
    """Trends and spectra of all resultants.

    Parameters
    ----------
    partials : sequence of tuple
        `border_pixels` on each of `border_strips`.
    amp33 : ndarray (R, N, 128) of uint16
        Reference output, DN; `reference_amp33` (N, 128) was subtracted from it on board.

    Returns
    -------
    mapping
        ``slope`` (DN per sample) and ``level`` (DN), float32 (R, N / 128 + 1), the line of each
        channel and of the reference output about the middle of the frame; ``left``, ``right``,
        ``output``, complex64 (R, L / 2 + 1), DN, for L = 140 N samples; with ``replace_amp33`` also
        ``amp33``, uint16 (R, N, 128), DN, the reference output without its line.
    """
    params = params.in_force
    n, n_res = exposure.side, exposure.n_resultants
    n_channels = n // CHANNEL_WIDTH
    (low, low_bad), (high, high_bad), (left, left_bad), (right, right_bad) = partials
    rows = np.concatenate([low, high], axis=1)
    rows_bad = np.concatenate([low_bad, high_bad])
    places = np.r_[:BORDER, n - BORDER : n]
    offset = _output_mean(amp33, reference_amp33, exposure, params)
    size = n * PADDED_WIDTH // 2 + 1
    shape = (n_res, n_channels + 1)
    found = {name: np.zeros(shape, np.float32) for name in ("slope", "level")}
    found |= {name: np.empty((n_res, size), np.complex64) for name in ("left", "right", "output")}
    if params.replace_amp33:
        found["amp33"] = np.empty_like(amp33)
    last = n_channels - 1
    _warn_of_gaps(rows_bad, left_bad, right_bad)
    for j in range(n_res):
        output = _output(amp33[j], reference_amp33, exposure) - offset
        if params.remove_trends:
            for c in range(n_channels):
                cut = np.s_[:, c * CHANNEL_WIDTH : (c + 1) * CHANNEL_WIDTH]
                line = _line(rows[j][cut], ~rows_bad[cut], places, c, n, params)
                found["slope"][j, c], found["level"][j, c] = line
            whole = np.ones((2 * BORDER, CHANNEL_WIDTH), bool)
            line = _line(output[places], whole, places, 0, n, params)
            found["slope"][j, -1], found["level"][j, -1] = line
            times = _times(np.arange(n), np.arange(CHANNEL_WIDTH), n)
            output = _without_line(output, times, line, np.ones_like(output, bool), params)
        lines = np.stack([found["slope"][j], found["level"][j]], axis=1)
        for name, values, bad, channel, columns in (
            ("left", left[j], left_bad, 0, np.arange(BORDER)),
            ("right", right[j], right_bad, last, np.arange(CHANNEL_WIDTH)[-BORDER:]),
        ):
            order = CHANNEL_WIDTH - 1 - columns if channel % 2 else columns
            if params.remove_trends:
                times = _times(np.arange(n), order, n)
                values = _without_line(values, times, lines[channel], ~bad, params)
            padded = np.zeros((n, PADDED_WIDTH), np.float32)
            padded[:, order] = values
            found[name][j] = _rfft(padded) * np.float32(PADDED_WIDTH / BORDER)
        series = _filled(output, params)
        found["output"][j] = _rfft(series)
        if params.replace_amp33:
            back = series[:, :CHANNEL_WIDTH] + offset
            found["amp33"][j] = np.minimum(np.abs(back), 65535).astype(np.uint16)
    return found


def _warn_of_gaps(rows: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
    """Say where no reference pixel can be used (bool, True where one cannot)."""
    empty = 1 + np.flatnonzero(rows.reshape(len(rows), -1, CHANNEL_WIDTH).all(axis=(0, 2)))
    gaps = [f"in the rows of channel {', '.join(map(str, empty))}"] if empty.size else []
    gaps += [f"on the {side} side" for side, bad in (("left", left), ("right", right)) if bad.all()]
    if gaps:
        log.warning("no usable reference pixel %s: that noise stays", " and ".join(gaps))


def _times(rows: np.ndarray, columns: np.ndarray, n: int) -> np.ndarray:
    """Times in samples from the middle of the frame, (y, x)."""
    times: np.ndarray = rows[:, None] * PADDED_WIDTH + columns - (n * PADDED_WIDTH - 1) / 2
    return times


def _used(values: np.ndarray, good: np.ndarray, params: IrrcParams) -> np.ndarray:
    return good & (values != 0) if params.skip_zeros else good


def _line(
    values: np.ndarray,
    good: np.ndarray,
    rows: np.ndarray,
    channel: int,
    n: int,
    params: IrrcParams,
) -> tuple[np.float32, np.float32]:
    """Slope and level of the least-squares line through the samples of one channel; 0 where there
    are none, a level alone where there is only one time."""
    columns = np.arange(CHANNEL_WIDTH)
    times = _times(rows, columns[::-1] if channel % 2 else columns, n)
    used = _used(values, good, params)
    if not used.any():
        return np.float32(0), np.float32(0)
    t, s = times[used], values[used].astype(np.float64)
    middle, mean = t.mean(), s.mean()
    spread = ((t - middle) ** 2).sum()
    slope = ((t - middle) * (s - mean)).sum() / spread if spread > 0 else 0.0
    return np.float32(slope), np.float32(mean - slope * middle)


def _without_line(
    values: np.ndarray, times: np.ndarray, line: Any, good: np.ndarray, params: IrrcParams
) -> np.ndarray:
    """The samples less the line, rounded once."""
    slope, level = float(line[0]), float(line[1])
    less = (values - (slope * times + level)).astype(np.float32)
    return np.where(_used(values, good, params), less, values)


def _output(amp33: np.ndarray, reference: np.ndarray | None, exposure: Exposure) -> np.ndarray:
    """One resultant of the reference output, float32 (N, 128), DN."""
    values = amp33.astype(np.float32)
    if reference is not None:
        values += replace_bad(reference.astype(np.float32), 0.0)[0]
    values -= np.float32(exposure.encoding_offset)
    return values


def _output_mean(
    amp33: np.ndarray, reference: np.ndarray | None, exposure: Exposure, params: IrrcParams
) -> np.ndarray:
    """Mean of the reference output over the resultants, float32 (N, 128), DN."""
    if not params.remove_offset:
        return np.zeros(amp33.shape[1:], np.float32)
    total = np.zeros(amp33.shape[1:])
    for plane in amp33:
        total += _output(plane, reference, exposure)
    return (total / len(amp33)).astype(np.float32)


@kernel
def _fill(series, missing, weights):
    """Put a weighted mean of the samples around in the place of each that is missing, 0 where all
    around are missing too."""
    reach, last = len(weights) // 2, len(series) - 1
    for i in range(len(series)):
        if missing[i]:
            total = weight = 0.0
            for k in range(max(i - reach, 0), min(i + reach, last) + 1):
                if not missing[k]:
                    w = weights[k - i + reach]
                    total += w * series[k]
                    weight += w
            series[i] = np.float32(total / weight) if weight > 0 else np.float32(0)


def _filled(output: np.ndarray, params: IrrcParams) -> np.ndarray:
    """The reference output with its gaps filled, float32 (N, 140)."""
    n = len(output)
    padded = np.zeros((n, PADDED_WIDTH), np.float32)
    padded[:, :CHANNEL_WIDTH] = output
    missing = np.zeros(padded.shape, bool)
    missing[:, CHANNEL_WIDTH:] = True
    if params.skip_zeros:
        missing |= padded == 0
    if params.cosine_interpolate:
        weights = np.sin(np.pi * np.arange(1, 2 * _REACH + 2) / (2 * _REACH + 2))
        _fill(padded.ravel(), missing.ravel(), weights)
    if params.fft_interpolate:
        # The low-pass (1 + cos(2 pi k / L)) / 2 is the mean with weights 1, 2, 1 around a circle.
        # Only gaps are replaced: they, the sample before each, and the one after.
        series = np.empty((n, _GAP + 2))
        series[:, 0] = padded[:, CHANNEL_WIDTH - 1]
        series[:, -1] = np.roll(padded[:, 0], -1)
        gaps = padded[:, CHANNEL_WIDTH:]
        for _ in range(3):
            series[:, 1:-1] = gaps
            gaps[:] = (series[:, :-2] + 2 * series[:, 1:-1] + series[:, 2:]) / 4
    return padded


def _rfft(padded: np.ndarray) -> np.ndarray:
    """Transform of the samples over their number, complex64."""
    from scipy.fft import rfft  # slow to import

    found: np.ndarray = rfft(padded.ravel(), norm="forward")
    return found


def spectra_bytes(exposure: Exposure, params: IrrcParams) -> float:
    """Bytes that `spectra` holds: three spectra of each resultant, the reference output and the
    border, and about 80 bytes for each sample of the resultant at work."""
    n, r = exposure.side, exposure.n_resultants
    samples = n * PADDED_WIDTH
    border = 16 * BORDER * n * 4
    copies = 1 + params.replace_amp33
    return r * (3 * 4 * samples + copies * 2 * n * CHANNEL_WIDTH + border) + 80 * samples
