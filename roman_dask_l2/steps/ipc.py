"""Inter-pixel capacitance: undo the sharing of charge between neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dq import PIXEL
from ..jit import kernel
from ..step import Params, Step, Tile
from .common import copy, finite, flagged


class IpcParams(Params):
    """Parameters of `correct_ipc`."""

    order: int = 2
    """Terms of the series that inverts the kernel; each reaches one pixel further."""


_BLOCK = 256
"""Columns that are worked on together, so that kernel and charge stay in the processor's cache for
all planes."""
_U = np.uint64


@kernel
def _step(o, k, e, ny, n, width, out):
    """``out = o + e - K o`` on a block of `ny` rows of `n` pixels in a border of zeros.

    All arrays are flat, in rows of `width` = n + 2 (at least), k nine such planes. The shares are
    added in the order in which they stand: it decides the last bit. Indices are unsigned: one that
    might be negative is not vectorised, and views of rows cost more than the work on them.
    """
    plane, w, one = _U((ny + 2) * width), _U(width), _U(1)
    for y in range(1, ny + 1):
        first = _U(y * width + 1)
        for x in range(_U(n)):
            i = first + _U(x)
            spread = k[_U(4) * plane + i] * o[i]
            spread += k[_U(7) * plane + i - w] * o[i - w]
            spread += k[_U(1) * plane + i + w] * o[i + w]
            spread += k[_U(5) * plane + i - one] * o[i - one]
            spread += k[_U(3) * plane + i + one] * o[i + one]
            spread += k[_U(8) * plane + i - w - one] * o[i - w - one]
            spread += k[_U(6) * plane + i - w + one] * o[i - w + one]
            spread += k[_U(2) * plane + i + w - one] * o[i + w - one]
            spread += k[_U(0) * plane + i + w + one] * o[i + w + one]
            out[i] = (o[i] + e[i]) - spread


@kernel
def _deconvolve(planes, gain, ipc, rows, columns, order, out):
    """See `deconvolve`; `rows` and `columns` are the limits of the active pixels."""
    y0, y1 = rows
    x0, x1 = columns
    ny = y1 - y0
    width = min(_BLOCK + 2 * order, x1 - x0) + 2
    size = (ny + 2) * width
    k = np.zeros(9 * size, ipc.dtype)
    e = np.zeros(size, gain.dtype)
    o, o_next = np.zeros_like(e), np.zeros_like(e)
    for p in range(len(planes)):
        for y in range(planes.shape[1]):
            if y < y0 or y >= y1:
                copy(planes[p, y], out[p, y])
            else:
                copy(planes[p, y, :x0], out[p, y, :x0])
                copy(planes[p, y, x1:], out[p, y, x1:])
    for left in range(x0, x1, _BLOCK):
        right = min(left + _BLOCK, x1)
        lo, hi = max(left - order, x0), min(right + order, x1)
        n = hi - lo
        for i in range(3):
            for j in range(3):
                for y in range(ny):
                    start = (3 * i + j) * size + (y + 1) * width + 1
                    copy(ipc[i, j, y0 + y, lo:hi], k[start : start + n])
                    k[start + n] = 0
        for y in range(1, ny + 1):  # what a wider block has left behind
            e[y * width + n + 1] = 0
            o[y * width + n + 1] = 0
            o_next[y * width + n + 1] = 0
        for p in range(len(planes)):
            for y in range(ny):
                start = (y + 1) * width + 1
                s, g, charge = planes[p, y0 + y, lo:hi], gain[y0 + y, lo:hi], e[start : start + n]
                for x in range(n):
                    charge[x] = s[x] * g[x]
            last = e
            for _ in range(order):
                _step(last, k, e, ny, n, width, o)
                last, o, o_next = o, o_next, o
            for y in range(ny):
                start = (y + 1) * width + 1 + left - lo
                target, g = out[p, y0 + y, left:right], gain[y0 + y, left:right]
                charge = last[start : start + right - left]
                for x in range(right - left):
                    target[x] = charge[x] / g[x]


def deconvolve(
    signal: np.ndarray, gain: np.ndarray, ipc: np.ndarray, tile: Tile, order: int = 2
) -> np.ndarray:
    """Undo inter-pixel capacitance on the active pixels of one or several planes.

    Parameters
    ----------
    signal : ndarray (..., y, x) of float32
        Linear DN or DN/s.
    gain : ndarray (y, x) of float32 or float64
        e/DN; its precision is that of the arithmetic.
    ipc : ndarray (3, 3, y, x) of float32
        Share of the charge of pixel (y, x) that appears at (y + dy, x + dx), index 1 + dy, 1 + dx.
    tile : Tile
    order : int
        The result needs `order` pixels of halo.

    Returns
    -------
    ndarray, like `signal`
        With ``e = gain * signal``: start with o = e, then `order` times o <- o + e - K o, over
        gain. Reference pixels are unchanged and share no charge.
    """
    rows, columns = tile.active
    if not (rows.start < rows.stop and columns.start < columns.stop):
        return signal.copy()
    out = np.empty_like(signal)
    planes = signal.reshape(-1, *signal.shape[-2:])
    limits = (rows.start, rows.stop), (columns.start, columns.stop)
    _deconvolve(planes, gain, ipc, *limits, order, out.reshape(planes.shape))
    return out


def repaired(gain: np.ndarray, ipc: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Gain and kernel with non-finite values made harmless (gain 1, no sharing), and where the
    kernel was bad."""
    gain, _ = finite(gain, 1.0)
    ipc, bad = finite(ipc, 0.0)
    if bad is None:
        return gain, ipc, None
    where: Any = bad.any(axis=(0, 1))
    identity = np.zeros((3, 3, 1), ipc.dtype)
    identity[1, 1] = 1
    ipc[:, :, where] = identity
    return gain, ipc, where


def correct_ipc(
    ramp: np.ndarray,
    pixeldq: np.ndarray,
    gain: np.ndarray,
    ipc: np.ndarray,
    *,
    tile: Tile,
    params: IpcParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Undo inter-pixel capacitance in every resultant.

    `deconvolve` says how.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    pixeldq : ndarray (y, x) of uint32
    gain : ndarray (y, x) of float32 or float64
    ipc : ndarray (3, 3, y, x) of float32

    Returns
    -------
    ramp, pixeldq : ndarray
        OTHER_BAD_PIXEL where the kernel is not finite (that pixel then shares no charge).
    """
    gain, ipc, bad = repaired(gain, ipc)
    return (
        deconvolve(ramp, gain, ipc, tile, params.order),
        flagged(pixeldq, bad, PIXEL["OTHER_BAD_PIXEL"], tile.active),
    )


step = Step(
    name="ipc",
    kernel=correct_ipc,
    reads=("ramp", "pixeldq"),
    writes=("ramp", "pixeldq"),
    references={"gain": "gain.data", "ipc": "ipc4d.data"},
    halo=lambda params: params.order,
    params=IpcParams,
    when=lambda exposure, params, available: available("ipc4d.data"),
    sets={"pixeldq": ("OTHER_BAD_PIXEL",)},
)
