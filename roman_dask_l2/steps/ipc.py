"""Inter-pixel capacitance: undo the sharing of charge between neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dq import PIXEL
from ..jit import kernel
from ..step import Params, Step, Tile
from .common import finite, flagged


class IpcParams(Params):
    """Parameters of `correct_ipc`."""

    order: int = 2
    """Terms of the series that inverts the kernel; each reaches one pixel further."""


_NEIGHBOURS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
"""(dy, dx) in the order in which their shares are added: it decides the last bit."""


_BLOCK = 256
"""Columns that are worked on together."""


@kernel
def _spread(e, k, out):
    """``out = K applied to e``: k[1+dy, 1+dx, y, x] of the charge in (y, x) moves by (dy, dx)."""
    ny, nx = e.shape
    for y in range(ny):
        here, share, charge = out[y], k[1, 1, y], e[y]
        for x in range(nx):
            here[x] = share[x] * charge[x]
        for dy, dx in _NEIGHBOURS:
            if 0 <= y - dy < ny:
                # Slices that start at 0, because an index that might be negative is not vectorised.
                lo, hi = max(dx, 0), nx + min(dx, 0)
                here = out[y, lo:hi]
                share, charge = (
                    k[1 + dy, 1 + dx, y - dy, lo - dx : hi - dx],
                    e[y - dy, lo - dx : hi - dx],
                )
                for i in range(hi - lo):
                    here[i] += share[i] * charge[i]


@kernel
def _deconvolve(s, gain, k, order, out):
    """`deconvolve` on arrays that hold active pixels only."""
    e = s * gain
    o = e.copy()
    spread = np.empty_like(e)
    for _ in range(order):
        _spread(o, k, spread)
        o += e
        o -= spread
    o /= gain
    ny, nx = s.shape
    for y in range(ny):
        for x in range(nx):
            out[y, x] = o[y, x]


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
    out = signal.copy()
    rows, columns = tile.active
    planes = signal.reshape(-1, *signal.shape[-2:])
    results = out.reshape(planes.shape)
    # In blocks of columns, so that the kernel stays in the processor's cache for all planes.
    for left in range(columns.start, columns.stop, _BLOCK):
        right = min(left + _BLOCK, columns.stop)
        wide = slice(max(left - order, columns.start), min(right + order, columns.stop))
        g = np.ascontiguousarray(gain[rows, wide])
        k = np.ascontiguousarray(ipc[:, :, rows, wide])
        corrected = np.empty(g.shape, np.float32)
        for plane, result in zip(planes, results, strict=True):
            _deconvolve(np.ascontiguousarray(plane[rows, wide]), g, k, order, corrected)
            inner = slice(left - wide.start, right - wide.start)
            result[rows, left:right] = corrected[:, inner]
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
    """Undo inter-pixel capacitance in every resultant; see `deconvolve`.

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
)
