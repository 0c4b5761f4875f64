"""Initialisation: the ramp in float32, and the flags known before any correction."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..core.detector import Window
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.step import Params, Step, Tile
from .common import replace_bad, with_flag
from .interpolation import interpolate_excluded


class DqInitParams(Params):
    """Parameters of `initialise`."""

    interpolate: bool = True
    """Interpolate where `l1.resultantdq` is DO_NOT_USE or DROPOUT (romanimpreprocess
    keeps the values)."""
    guide_window_growth: int = Field(default=1, ge=0)
    """Pixels around the guide window that are flagged DO_NOT_USE as well (romancal: 0)."""


_DEFAULT = DqInitParams()


def initialise(
    science: np.ndarray,
    reference_read: np.ndarray | None = None,
    resultantdq: np.ndarray | None = None,
    mask_dq: np.ndarray | None = None,
    *,
    tile: Tile,
    exposure: Exposure,
    params: DqInitParams = _DEFAULT,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert the ramp to float32 and collect the flags of the files.

    Parameters
    ----------
    science : ndarray (R, y, x), uint16
        Raw data, DN.
    reference_read : ndarray (y, x), optional
        Read subtracted on board, DN.
    resultantdq : ndarray (R, y, x) of uint8, optional
    mask_dq : ndarray (y, x) of uint32, optional

    Returns
    -------
    ramp : ndarray (R, y, x) of float32
        ``science + reference_read - encoding_offset``, DN. In float32, as uint16 would overflow.
        With `interpolate`, see `interpolate_excluded`.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
        The mask file's flags, GW_AFFECTED_DATA and DO_NOT_USE in and around the guide window, and
        UNRELIABLE_BIAS where the reference read is not finite.
    """
    ramp = science.astype(np.float32)
    lost = None
    if reference_read is not None:
        reference_read, lost = replace_bad(reference_read.astype(np.float32), 0.0)
        ramp += reference_read
    if exposure.encoding_offset:
        ramp -= np.float32(exposure.encoding_offset)

    groupdq = (
        np.zeros(science.shape, np.uint8) if resultantdq is None else resultantdq.astype(np.uint8)
    )
    if resultantdq is not None and params.interpolate:
        interpolate_excluded(ramp, groupdq, exposure, tile.active)
    if exposure.exclude_first:
        groupdq[0] |= GROUP["DO_NOT_USE"]

    shape = science.shape[1:]
    pixeldq = np.zeros(shape, np.uint32) if mask_dq is None else mask_dq.astype(np.uint32)
    _flag_guide_window(pixeldq, tile, exposure, params.guide_window_growth)
    return ramp, groupdq, with_flag(pixeldq, lost, PIXEL["UNRELIABLE_BIAS"])


def _flag_guide_window(pixeldq: np.ndarray, tile: Tile, exposure: Exposure, growth: int) -> None:
    """Flag the guide window's columns over all rows, and the window as grown as unusable."""
    if exposure.guide_window is None:
        return
    xstart, xstop, ystart, ystop = exposure.guide_window
    side = tile.side
    if not (0 <= xstart < side and 0 <= ystart < side):
        return
    columns = Window(0, side, xstart, min(xstop, side))
    window = Window(ystart, ystop, xstart, xstop).grown(growth, side)
    affected = np.uint32(PIXEL["GW_AFFECTED_DATA"])
    pixeldq[_overlap(columns, tile.window)] |= affected
    pixeldq[_overlap(window, tile.window)] |= affected | np.uint32(PIXEL["DO_NOT_USE"])


def _overlap(region: Window, window: Window) -> tuple[slice, slice]:
    """Slices of an array over `window` that lie in `region` (empty if they do not overlap)."""
    y0, x0 = max(region.y0, window.y0), max(region.x0, window.x0)
    y1, x1 = max(min(region.y1, window.y1), y0), max(min(region.x1, window.x1), x0)
    return Window(y0, y1, x0, x1).within(window)


step = Step(
    name="dq_init",
    kernel=initialise,
    writes=("ramp", "groupdq", "pixeldq"),
    references={
        "science": "l1.data",
        "reference_read": "l1.reference_read",
        "resultantdq": "l1.resultantdq",
        "mask_dq": "mask.dq",
    },
    params=DqInitParams,
    sets={
        "groupdq": ("DO_NOT_USE",),
        "pixeldq": ("DO_NOT_USE", "GW_AFFECTED_DATA", "UNRELIABLE_BIAS"),
    },
    cal_step="dq_init",
)
