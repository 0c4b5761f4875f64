"""Read noise: noisy Level-1 planes, one resultant at a time.

White noise and 1/f noise of the channels, reset noise of the reference pixels, and the reference
output (amp33). A frame is made channel by channel in a fixed order of draws, so the bits depend on
the streams alone.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH
from ..core.jit import kernel
from .fourier import Workspace, first_half, workspace
from .streams import DrawKind, Streams


def pink_series(normals: np.ndarray) -> np.ndarray:
    """One realisation of 1/f noise in the order in which a channel is read out.

    The first half of the periodic series of length L = 256 `side`

        x_n = sum_{k=1}^{L/2} k^(-1/2) (c_k cos(2 pi k n / L) + s_k sin(2 pi k n / L))

    with independent unit normals c_k, s_k, less the mean of that half. Mode k has the variance
    1/k: 1 per unit of ln(frequency). (The last mode has a cosine only, as sin(pi n) = 0; its
    variance is 1/k as well.) Half of the period is used so that the end does not join on to the
    beginning, as it would in a whole one.

    Parameters
    ----------
    normals : ndarray (256 N,) of float32
        c_{L/2}, c_1, c_2, .. c_{L/2-1}, then s_k in the same order.

    Returns
    -------
    ndarray (N, 128) of float32
        Without unit.
    """
    fourier = _scratch(len(normals) // (2 * CHANNEL_WIDTH)).fourier
    np.multiply(normals, _amplitudes(len(normals) // 2), out=fourier.modes.reshape(-1))
    return _without_mean(*_series_of(fourier))


class _Scratch(NamedTuple):
    """Memory of a thread for one channel after the other."""

    white: np.ndarray
    """(N, 128) float32."""
    fourier: Workspace


_kept = threading.local()


def _scratch(n: int) -> _Scratch:
    """The thread's memory for a detector of side `n`, which it keeps for the next plane.

    Blocks allocated and freed for each channel would come as new pages again and again."""
    scratch: _Scratch | None = getattr(_kept, "scratch", None)
    if scratch is None or len(scratch.white) != n:
        white = np.empty((n, CHANNEL_WIDTH), np.float32)
        scratch = _kept.scratch = _Scratch(white, workspace(CHANNEL_WIDTH * n))
    return scratch


def _pink(
    streams: Streams, kind: DrawKind, resultant: int, block: int, side: int
) -> tuple[np.ndarray, np.float32]:
    """The 1/f noise of a stream, see `pink_series`, in memory that the thread uses again, and its
    mean, which is to be subtracted."""
    fourier = _scratch(side).fourier
    modes = fourier.modes.reshape(-1)
    streams.fill(kind, resultant, block, modes, _amplitudes(modes.size // 2))
    return _series_of(fourier)


def _series_of(work: Workspace) -> tuple[np.ndarray, np.float32]:
    """The series (N, 128) of a spectrum, and its mean."""
    series = first_half(work).reshape(-1, CHANNEL_WIDTH)
    return series, np.float32(_sum(series) / series.size)


@kernel
def _sum(series):
    """In columns, which makes vector loops."""
    sums = np.zeros(series.shape[1])
    for y in range(series.shape[0]):
        row = series[y]
        for x in range(sums.size):
            sums[x] += row[x]
    return sums.sum()


def _without_mean(series: np.ndarray, mean: np.float32) -> np.ndarray:
    return series - mean


@lru_cache(maxsize=2)  # sides: one in a run, 4 MB of a flight detector
def _amplitudes(m: int) -> np.ndarray:
    """Factors (L,) float32 that make a spectrum of L normals, see `Workspace`.

    The inverse transform adds 2 Re(X_k exp(i ..)) of every mode but the last, of which it adds
    Re(X_k cos ..): X_k = k^(-1/2) (c_k - i s_k) / 2, the last k^(-1/2) c_k.
    """
    amplitude = np.r_[2 * m**-0.5, np.arange(1, m) ** -0.5] / 2
    factors = np.r_[amplitude, -amplitude].astype(np.float32)
    factors.flags.writeable = False
    return factors


def common_series(streams: Streams, resultant: int, side: int) -> np.ndarray:
    """The 1/f noise that all channels of a resultant share, for `PlaneNoise` and `noisy_amp33`.

    Parameters
    ----------
    streams : Streams
        The layer's streams.
    resultant : int
    side : int
        Detector side N.

    Returns
    -------
    ndarray (N, 128) of float32
        Without unit, in readout order; see `pink_series`.
    """
    return _without_mean(*_pink(streams, DrawKind.PINK_COMMON, resultant, 0, side))


def base_plane(dark: np.ndarray) -> np.ndarray:
    """A plane of the dark cube as Level-1 data: truncated, 0 where not finite.

    Parameters
    ----------
    dark : ndarray (N, N) of float
        DN.

    Returns
    -------
    ndarray (N, N) of uint16
        DN.
    """
    out = np.empty(dark.shape, np.uint16)
    _truncate(np.ascontiguousarray(dark).reshape(-1), out.reshape(-1))
    return out


class Border(NamedTuple):
    """The reference pixels of a plane."""

    rows: np.ndarray
    """(8, N) float32: the first four rows, then the last four."""
    columns: np.ndarray
    """(N, 8) float32: the first four columns, then the last four."""


@kernel
def _truncate(values, out):
    for i in range(out.size):
        value = values[i] if np.isfinite(values[i]) else values.dtype.type(0)
        value = min(max(value, values.dtype.type(0)), values.dtype.type(65535))
        out[i] = np.uint16(value)


@kernel
def _finite_or_zero(value):
    """The value, 0 if it is NaN or infinite."""
    return value if np.isfinite(value) else np.float32(0)


@kernel
def _level1(value):
    """Rounded to the nearest (ties to even) and clipped to uint16; 0 for NaN."""
    value = np.rint(value)
    value = value if value > 0 else np.float32(0)
    return value if value < 65535 else np.float32(65535)


@kernel
def _add_to_channel(plane, sigma, rows, columns, white, own, mean, common, u, c, scale, x0, left):
    """Add noise to the columns ``x0:x0 + 128`` of a frame in place.

    `plane` and `sigma` hold the columns from `left` on of all rows.
    `rows` (8, N) and `columns` (N, 8) are the reference pixels without read noise; `white` and
    `common` (N, 128) the draws of the channel, in the order of x, `own` (N, 128) its 1/f noise in
    the order of readout, from which `mean` is subtracted, or (0, 128). `scale` is 1/sqrt(N_j).
    """
    n = plane.shape[0]
    sums = np.empty(CHANNEL_WIDTH, np.float32)
    series = np.zeros(CHANNEL_WIDTH, np.float32)  # a row's own noise in the order of x
    backwards = x0 // CHANNEL_WIDTH % 2
    for y in range(n):
        if own.shape[0] > 0:
            read = own[y]
            if backwards:
                for i in range(CHANNEL_WIDTH):
                    series[i] = read[CHANNEL_WIDTH - 1 - i] - mean
            else:
                for i in range(CHANNEL_WIDTH):
                    series[i] = read[i] - mean
        inside = 4 <= y < n - 4
        first = max(x0, 4) if inside else x0 + 128
        last = max(min(x0 + 128, n - 4), first)
        # Slices of one row: without index arithmetic the compiler makes these loops vector loops.
        row, noise = plane[y, first - left : last - left], sigma[y, first - left : last - left]
        w, o, p = white[y, first - x0 :], series[first - x0 :], common[y, first - x0 :]
        for i in range(row.size):
            value = _level1(np.float32(row[i]) + _finite_or_zero(noise[i]) * w[i] * scale)
            sums[i] = _level1(value + (c * p[i] + u * o[i]) * scale)
        for i in range(row.size):
            row[i] = np.uint16(np.int32(sums[i]))
        for x in range(x0, x0 + 128 - row.size):  # the others, to the left and to the right
            if x >= first:
                x += row.size
            i = x - x0
            if inside:
                value = columns[y, x if x < 4 else x - n + 8]
            else:
                value = rows[y if y < 4 else y - n + 8, x]
            value = value + _finite_or_zero(sigma[y, x - left]) * white[y, i] * scale
            plane[y, x - left] = np.uint16(
                _level1(value + (c * common[y, i] + u * series[i]) * scale)
            )


class PlaneNoise:
    """The noise of the detector in one resultant of a ramp, for `add` to any of its channels.

    Active pixels are the base plus white noise ``read_noise / sqrt(n_reads)``, rounded and clipped.
    Reference pixels are the dark plus such noise, plus reset noise that is the same in every
    resultant. To all pixels 1/f noise ``(c_pink * common + u_pink * own) / sqrt(n_reads)`` is
    added, `own` being the channel's, both reversed along x in odd channels (counted from 0); then
    all are rounded and clipped.

    Parameters
    ----------
    dark : Border
        Mean of the reference pixels in this resultant, DN.
    reset_noise : Border
        Reset noise of the reference pixels, DN.
    c_pink, u_pink : float
        C_PINK and U_PINK: 1/f noise common to the channels and of each, DN.
    n_reads : float
        Reads averaged into this resultant, N_j.
    common : ndarray (N, 128) of float32
        See `common_series`.
    streams : Streams
        The layer's streams.
    resultant : int

    Notes
    -----
    Values of references that are not finite count as 0, and so does a whole 1/f term whose
    amplitude is not finite. Inputs are not changed.
    """

    def __init__(
        self,
        dark: Border,
        reset_noise: Border,
        c_pink: float,
        u_pink: float,
        n_reads: float,
        common: np.ndarray,
        streams: Streams,
        resultant: int,
    ) -> None:
        self._c, self._u = _amplitude(c_pink), _amplitude(u_pink)
        self._scale = np.float32(1 / np.sqrt(n_reads))
        self._side = len(common)
        draws = streams.normals(DrawKind.RESET, None, 0, (2, 2 * BORDER * self._side))
        self._rows, self._columns = (
            _finite(mean) + _finite(sigma) * draw.reshape(mean.shape)
            for mean, sigma, draw in zip(dark, reset_noise, draws, strict=True)
        )
        self._along_x = common, np.ascontiguousarray(common[:, ::-1])  # in even and odd channels
        self._streams, self._resultant = streams, resultant

    def add(self, base: np.ndarray, read_noise: np.ndarray, left: int = 0) -> None:
        """Add the noise of whole channels in place.

        Parameters
        ----------
        base : ndarray (N, W) of uint16
            Columns of the noise-free ramp, DN; they become the noisy ones.
        read_noise : ndarray (N, W) of float32
            White noise of one read in them, DN.
        left : int
            The first column; a multiple of 128, as W is.
        """
        n, streams, j = self._side, self._streams, self._resultant
        read_noise = np.asarray(read_noise, np.float32)
        white, _ = _scratch(n)
        own, mean = np.empty((0, CHANNEL_WIDTH), np.float32), np.float32(0)
        for channel in range(left // CHANNEL_WIDTH, (left + base.shape[1]) // CHANNEL_WIDTH):
            if self._u != 0:
                own, mean = _pink(streams, DrawKind.PINK_CHANNEL, j, channel, n)
            streams.fill(DrawKind.WHITE, j, channel, white.reshape(-1))
            _add_to_channel(
                base, read_noise, self._rows, self._columns, white, own, mean,
                self._along_x[channel % 2], self._u, self._c, self._scale,
                channel * CHANNEL_WIDTH, left,
            )  # fmt: skip


def noisy_amp33(
    median: np.ndarray,
    std: np.ndarray,
    m_pink: float,
    ru_pink: float,
    c_pink: float,
    n_reads: float,
    common: np.ndarray,
    streams: Streams,
    resultant: int,
) -> np.ndarray:
    """One resultant of the reference output with new noise.

    ``median + (std * white + ru_pink * own + m_pink * c_pink * common) / sqrt(n_reads)``, rounded
    and clipped. The reference output sees the part `m_pink` of the detector's common noise,
    ``c_pink * common``: its covariance with a channel is then M C^2 and its own variance
    M^2 C^2 + RU^2, as in `roman_dask_l2.steps.refpix.row_weight`.

    Parameters
    ----------
    median, std : ndarray (N, 128) of float
        Mean and white noise of the reference output, DN.
    m_pink : float
        M_PINK, without unit.
    ru_pink : float
        RU_PINK, 1/f noise of the reference output alone, DN.
    c_pink : float
        C_PINK, DN.
    n_reads : float
        Reads averaged into this resultant, N_j.
    common : ndarray (N, 128) of float32
        The same as for `PlaneNoise`.
    streams : Streams
        The layer's streams.
    resultant : int

    Returns
    -------
    ndarray (N, 128) of uint16
        DN.

    Notes
    -----
    Values that are not finite count as 0. It is read out as even channels are, not reversed.
    """
    median, std = np.asarray(median, np.float32), np.asarray(std, np.float32)
    shared, ru = _amplitude(m_pink) * _amplitude(c_pink), _amplitude(ru_pink)
    n = median.shape[0]
    white, _ = _scratch(n)
    streams.fill(DrawKind.AMP33_WHITE, resultant, 0, white.reshape(-1))
    own, mean = np.empty((0, CHANNEL_WIDTH), np.float32), np.float32(0)
    if ru != 0:
        own, mean = _pink(streams, DrawKind.AMP33_PINK, resultant, 0, n)
    out = np.empty((n, CHANNEL_WIDTH), np.uint16)
    scale = np.float32(1 / np.sqrt(n_reads))
    _make_amp33(median, std, white, own, mean, common, ru, shared, scale, out)
    return out


@kernel
def _make_amp33(median, std, white, own, mean, common, ru, shared, scale, out):
    for y in range(out.shape[0]):
        for x in range(out.shape[1]):
            noise = white[y, x] * _finite_or_zero(std[y, x]) + shared * common[y, x]
            if own.shape[0] > 0:
                noise += ru * (own[y, x] - mean)
            value = _level1(noise * scale + _finite_or_zero(median[y, x]))
            out[y, x] = np.uint16(np.int32(value))


def _finite(array: np.ndarray) -> np.ndarray:
    """As float32, 0 where not finite."""
    return np.nan_to_num(np.asarray(array, np.float32), nan=0.0, posinf=0.0, neginf=0.0)


def _amplitude(value: float) -> np.float32:
    """A scalar of the read file, 0 if it is not finite."""
    return np.float32(value if np.isfinite(value) else 0.0)
