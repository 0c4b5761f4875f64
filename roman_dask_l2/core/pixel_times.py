"""The time within a frame at which each pixel is read."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .detector import CHANNEL_WIDTH, Window

CLOCK_PERIOD = 4.915263e-6
"""Time of one pixel clock before scaling, s."""
ROW_OVERHEAD = 14
"""Clocks between the last pixel of a row and the first of the next."""
GUIDE_ROWS = 256
"""The guide window is read after every so many rows."""
GUIDE_STRETCH = 1.5
"""Length of a guide-window readout relative to its even share of the leftover clocks."""


def _row_clocks(side: int, frame_time: float) -> tuple[NDArray[np.float64], float]:
    """Clock at which the first pixel of each row is read, in readout order, and s per clock."""
    row = np.arange(side)
    last_column = CHANNEL_WIDTH - 1
    clocks = (row * (CHANNEL_WIDTH + ROW_OVERHEAD)).astype(np.float64)
    readouts = -(-side // GUIDE_ROWS)
    leftover = frame_time / CLOCK_PERIOD - (float(clocks[-1]) + last_column)
    if not leftover > 0:
        raise InputError(
            f"frame time {frame_time} s is too short for {side} rows, expected more than "
            f"{frame_time - leftover * CLOCK_PERIOD:.4f} s"
        )
    guide = GUIDE_STRETCH * leftover / readouts
    clocks += row // GUIDE_ROWS * guide
    return clocks, frame_time / (float(clocks[-1]) + last_column + guide)


def _flips_columns(detector_number: int) -> bool:
    return detector_number % 3 == 0


def pixel_times(
    detector_number: int, side: int, frame_time: float, window: Window
) -> NDArray[np.float64]:
    """Time after the start of a frame at which each pixel is read.

    Every channel of 128 columns is read at the same time, row by row, with 142 clocks a row: pixel
    `col` of row `row` waits for ``142 row + col`` clocks of 4.915263 us. A frame lasts longer than
    that. The clocks left over, ``L = frame_time / period - (142 (side - 1) + 127)``, go into
    guide-window readouts, one after every 256 rows and one after the last (n = 16 for a side of
    4096), of ``G = 1.5 L / n`` clocks each. So

        t = s (142 row + col + G (row // 256)),

    where s makes the time of the last pixel plus one more readout equal to `frame_time`.

    In readout order odd channels run from high to low column. The science frame then has columns
    reversed on detectors whose number is a multiple of 3, and rows reversed on all others.

    Parameters
    ----------
    detector_number : int
        1 to 18, the number in "WFI01" to "WFI18".
    side : int
        Side of the detector with its border, pixels.
    frame_time : float
        Time of one frame, s.
    window : Window
        Part of the full science frame, border included.

    Returns
    -------
    ndarray of float64, shape (ny, nx)
        Seconds.

    Raises
    ------
    InputError
        If `frame_time` is too short to read all pixels.
    """
    clocks, second = _row_clocks(side, frame_time)
    column = np.arange(side)
    along = np.where(
        column // CHANNEL_WIDTH % 2,
        CHANNEL_WIDTH - 1 - column % CHANNEL_WIDTH,
        column % CHANNEL_WIDTH,
    ).astype(float)
    if _flips_columns(detector_number):
        along = along[::-1]
    else:
        clocks = clocks[::-1]
    rows, columns = window.slices
    return np.asarray(second * (clocks[rows, None] + along[None, columns]))
