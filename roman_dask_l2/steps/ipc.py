"""Inter-pixel capacitance: undo the sharing of charge between neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.dq import PIXEL
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import copy, replace_bad, with_flag, with_reference_flags


class IpcParams(Params):
    """Parameters of `correct_ipc`."""

    order: int = 2
    """Terms of the series that inverts the kernel; each reaches one pixel further."""
    check_references: bool = True
    """Treat an implausible gain or kernel as missing (`usable_references`); romanimpreprocess uses
    any number."""
    reference_dq: bool = True
    """Join the kernel file's flags, if it has any."""


_BLOCK = 256
"""Columns that are processed together, so that kernel and charge stay in the processor's cache for
all planes."""
_U = np.uint64


@kernel
def _iterate(o, k, e, ny, n, width, out):
    """``out = o + e - K o`` on a block of `ny` rows of `n` pixels in a border of zeros.

    All arrays are flat, in rows of `width` = n + 2 (at least), k nine such planes. The shares are
    added in exactly this order, which determines the last bit. Indices are unsigned: one that
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
        for y in range(1, ny + 1):  # clear what a wider block left behind
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
                _iterate(last, k, e, ny, n, width, o)
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


LEAST_GAIN, LARGEST_GAIN = 0.1, 100.0
"""e/DN: a gain outside this range is implausible."""
LEAST_SHARE, LARGEST_SUM = 0.1, 1.9
"""A pixel keeps more than this share of its charge; its shares' magnitudes add up to less than
this (to 1 within a few per cent in any measured kernel): beyond, the series does not converge."""


def usable_gain(gain: np.ndarray) -> np.ndarray:
    """The gain, 1 e/DN where it is not between `LEAST_GAIN` and `LARGEST_GAIN`."""
    out = np.empty_like(gain)
    if _clean_gain(gain, out, gain.dtype.type(LEAST_GAIN), gain.dtype.type(LARGEST_GAIN)):
        return gain
    return out


@kernel
def _clean_gain(gain, out, least, largest):
    """Fill `out`; returns whether nothing had to be replaced."""
    good = True
    one = least / least
    for y in range(gain.shape[0]):
        for x in range(gain.shape[1]):
            value = gain[y, x]
            usable = (value > least) & (value <= largest)
            good &= usable
            out[y, x] = value if usable else one
    return good


@kernel
def _find_bad_kernels(ipc, rows, columns, least, most, bad):
    """Mark active pixels with an implausible kernel (NaN included) in `bad`; returns whether there
    are any."""
    (y0, y1), (x0, x1) = rows, columns
    total = np.empty(x1 - x0, ipc.dtype)
    found = False
    for y in range(y0, y1):
        for x in range(len(total)):
            total[x] = 0
        for i in range(3):
            for j in range(3):
                share = ipc[i, j, y, x0:x1]
                for x in range(len(total)):
                    total[x] += abs(share[x])
        centre, out = ipc[1, 1, y, x0:x1], bad[y, x0:x1]
        for x in range(len(total)):
            out[x] = not ((centre[x] > least) & (total[x] < most))
            found |= out[x]
    return found


def usable_references(
    gain: np.ndarray, ipc: np.ndarray, tile: Tile, check: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Replace implausible gains by 1 e/DN and implausible kernels by the identity.

    Parameters
    ----------
    gain : ndarray (y, x) of float32 or float64
        e/DN.
    ipc : ndarray (3, 3, y, x) of float32
        See `deconvolve`.
    tile : Tile
    check : bool
        Otherwise only numbers that are not finite or absurdly large are replaced.

    Returns
    -------
    gain, ipc : ndarray
        The inputs themselves if nothing was replaced.
    bad : ndarray (y, x) of bool or None
        Where the kernel was replaced; None if nowhere.
    """
    if not check:
        gain, _ = replace_bad(gain, 1.0)
        ipc, bad = replace_bad(ipc, 0.0)
        where: Any = None if bad is None else bad.any(axis=(0, 1))
        copied = bad is not None
    else:
        gain = usable_gain(gain)
        where, copied = np.zeros(ipc.shape[2:], np.bool_), False
        least, most = ipc.dtype.type(LEAST_SHARE), ipc.dtype.type(LARGEST_SUM)
        rows, columns = ((s.start, max(s.stop, s.start)) for s in tile.active)
        if not _find_bad_kernels(ipc, rows, columns, least, most, where):
            where = None
    if where is None:
        return gain, ipc, None
    ipc = ipc if copied else ipc.copy()
    identity = np.zeros((3, 3, 1), ipc.dtype)
    identity[1, 1] = 1
    ipc[:, :, where] = identity
    return gain, ipc, where


def prepare(
    gain: np.ndarray, ipc: np.ndarray, *, tile: Tile, params: IpcParams
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The gain and the kernel as they are used, and where the kernel was replaced."""
    return usable_references(gain, ipc, tile, params.check_references)


def correct_ipc(
    ramp: np.ndarray,
    pixeldq: np.ndarray,
    ipc_dq: np.ndarray | None = None,
    *,
    prepared: tuple[np.ndarray, np.ndarray, np.ndarray | None],
    tile: Tile,
    params: IpcParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Undo inter-pixel capacitance in every resultant.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    pixeldq : ndarray (y, x) of uint32
    ipc_dq : ndarray (y, x) of uint32, optional
    prepared : (ndarray, ndarray, ndarray or None)
        Gain (y, x), e/DN; kernel (3, 3, y, x); where it was replaced, see `usable_references`.

    Returns
    -------
    ramp, pixeldq : ndarray
        OTHER_BAD_PIXEL where the kernel is not finite or cannot be inverted (that pixel then shares
        no charge).
    """
    gain, ipc, bad = prepared
    pixeldq = with_reference_flags(pixeldq, ipc_dq, tile.active)
    return (
        deconvolve(ramp, gain, ipc, tile, params.order),
        with_flag(pixeldq, bad, PIXEL["OTHER_BAD_PIXEL"], tile.active),
    )


def _references(params: IpcParams) -> dict[str, str]:
    references = {"gain": "gain.data", "ipc": "ipc4d.data"}
    return references | ({"ipc_dq": "ipc4d.dq"} if params.reference_dq else {})


step = Step(
    name="ipc",
    kernel=correct_ipc,
    reads=("ramp", "pixeldq"),
    writes=("ramp", "pixeldq"),
    references=_references,
    prepare=prepare,
    halo=lambda params: params.order,
    params=IpcParams,
    when=lambda exposure, params, available: available("ipc4d.data"),
    sets={"pixeldq": ("OTHER_BAD_PIXEL",)},
)
