"""Dark current: subtracted from the ramp, or (as romanimpreprocess 1.0 does) from the rate."""

from __future__ import annotations

import numpy as np

from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import copy, replace_bad, usable_dark, with_flag
from .ipc import deconvolve, usable_references


@kernel
def _subtract(ramp, slope, times, rows, columns, out):
    """``ramp - time * slope`` inside `rows` and `columns`, the ramp itself outside."""
    y0, y1 = rows
    x0, x1 = columns
    for j in range(ramp.shape[0]):
        t = times[j]
        for y in range(ramp.shape[1]):
            copy(ramp[j, y], out[j, y])
            if y0 <= y < y1:
                s, d, target = ramp[j, y, x0:x1], slope[y, x0:x1], out[j, y, x0:x1]
                for x in range(len(s)):
                    target[x] = s[x] - t * d[x]


def subtract_dark(
    ramp: np.ndarray,
    pixeldq: np.ndarray,
    dark_slope: np.ndarray,
    dark_dq: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the dark current from every resultant.

    That is ``tbar_j * dark_slope`` from the active pixels of resultant j.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Linear DN.
    pixeldq : ndarray (y, x) of uint32
    dark_slope : ndarray (y, x) of float32
        Linear DN/s as measured, including inter-pixel capacitance.
    dark_dq : ndarray (y, x) of uint32

    Returns
    -------
    ramp, pixeldq : ndarray
        UNRELIABLE_DARK where the dark current is not finite or below -1 DN/s (then nothing is
        subtracted).
    """
    slope, pixeldq = _slope_and_flags(pixeldq, dark_slope, dark_dq, tile)
    rows, columns = tile.active
    out = np.empty_like(ramp)
    times = exposure.tbar.astype(np.float32)
    _subtract(ramp, slope, times, (rows.start, rows.stop), (columns.start, columns.stop), out)
    return out, pixeldq


def _slope_and_flags(pixeldq, dark_slope, dark_dq, tile, check=True):
    slope, bad = usable_dark(dark_slope) if check else replace_bad(dark_slope, 0.0)
    pixeldq = pixeldq.copy()
    pixeldq[tile.active] |= dark_dq[tile.active]
    return slope, with_flag(pixeldq, bad, PIXEL["UNRELIABLE_DARK"], tile.active)


step = Step(
    name="dark",
    kernel=subtract_dark,
    reads=("ramp", "pixeldq"),
    writes=("ramp", "pixeldq"),
    references={"dark_slope": "dark.dark_slope", "dark_dq": "dark.dq"},
    sets={"pixeldq": ("UNRELIABLE_DARK",)},
    cal_step="dark",
)


class DarkRateParams(Params):
    """Parameters of `subtract_dark_rate`."""

    order: int = 2
    """Terms of the IPC inversion of the dark current; 0: none."""
    check_references: bool = True
    """As the option of `ipc`; and do not believe a dark current below -1 DN/s."""


def _rate_references(params: DarkRateParams) -> dict[str, str]:
    references = {"dark_slope": "dark.dark_slope", "dark_dq": "dark.dq"}
    if params.order:
        references |= {"gain": "gain.data", "ipc": "ipc4d.data"}
    return references


def subtract_dark_rate(
    rate: np.ndarray,
    dq: np.ndarray,
    dark_slope: np.ndarray,
    dark_dq: np.ndarray,
    gain: np.ndarray | None = None,
    ipc: np.ndarray | None = None,
    *,
    tile: Tile,
    params: DarkRateParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the dark current from the fitted rate.

    Inter-pixel capacitance is first removed from it.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        DN/s.
    dq : ndarray (y, x) of uint32
    dark_slope : ndarray (y, x) of float32
        DN/s.
    dark_dq : ndarray (y, x) of uint32
    gain : ndarray (y, x), optional
        e/DN.
    ipc : ndarray (3, 3, y, x), optional

    Returns
    -------
    rate, dq : ndarray
    """
    slope, dq = _slope_and_flags(dq, dark_slope, dark_dq, tile, params.check_references)
    if gain is not None and ipc is not None:
        gain, ipc, _ = usable_references(gain, ipc, tile, params.check_references)
        slope = deconvolve(slope, gain, ipc, tile, params.order)
    out = rate.copy()
    out[tile.active] -= slope[tile.active]
    return out, dq


rate_step = Step(
    name="dark_rate",
    kernel=subtract_dark_rate,
    reads=("rate", "dq"),
    writes=("rate", "dq"),
    references=_rate_references,
    reference_halo=lambda params: params.order,
    params=DarkRateParams,
    sets={"dq": ("UNRELIABLE_DARK",)},
    cal_step="dark",
)
