"""Median and scatter of the finished image, for ``meta.statistics``; no array is changed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import numpy as np

from ..core.detector import BORDER, Window
from ..core.dq import PIXEL
from ..core.exposure import Exposure
from ..core.median import median
from ..core.step import Params, Reduction, Step, Tile

log = logging.getLogger(__name__)

TO_SIGMA = 1.4826
"""Standard deviation of a Gaussian over its median absolute deviation."""
BAND = 64
"""Rows that are looked at together (any number gives the same result)."""


def bands(exposure: Exposure, params: Params) -> list[Window]:
    """Bands of full rows over the frame."""
    n = exposure.side
    return [Window(y, min(y + BAND, n), 0, n) for y in range(0, n, BAND)]


def good_values(rate: np.ndarray, err: np.ndarray, dq: np.ndarray, *, tile: Tile) -> np.ndarray:
    """Rates of good active pixels: finite, without DO_NOT_USE, with an error above zero.

    Parameters
    ----------
    rate, err : ndarray (y, x) of float32
        DN/s.
    dq : ndarray (y, x) of uint32

    Returns
    -------
    ndarray (n,) of float32, DN/s
    """
    act = tile.active
    good = np.isfinite(rate[act]) & (err[act] > 0)
    good &= (dq[act] & np.uint32(PIXEL["DO_NOT_USE"])) == 0
    return rate[act][good]


def summarise(partials: Sequence[np.ndarray], *, exposure: Exposure) -> Mapping[str, float | None]:
    """Exact median, scatter and share of good pixels.

    Parameters
    ----------
    partials : sequence of ndarray (n,) of float32
        Good pixels of each band, DN/s.

    Returns
    -------
    mapping
        ``image_median`` and ``image_rms`` (DN/s; 1.4826 times the median absolute deviation), None
        if no pixel is good; ``good_pixel_fraction`` of all active pixels; ``zodiacal_light``, which
        nobody measures: -1.
    """
    values = np.concatenate(partials)
    if not len(values):
        log.warning("no pixel of the image can be used: all are DO_NOT_USE or have no rate")
    middle = scatter = None
    if len(values):
        middle = median(values)
        scatter = TO_SIGMA * median(np.abs(values - np.float32(middle)))
    return {
        "image_median": middle,
        "image_rms": scatter,
        "good_pixel_fraction": len(values) / (exposure.side - 2 * BORDER) ** 2,
        "zodiacal_light": -1.0,
    }


def held(exposure: Exposure, params: Params) -> float:
    """Bytes of the good pixels, as they come and joined, and of their deviations."""
    return 4.0 * 3 * exposure.side**2


def keep() -> tuple[()]:
    """No array is changed."""
    return ()


step = Step(
    name="statistics",
    kernel=keep,
    reduction=Reduction(
        windows=bands,
        partial=good_values,
        combine=summarise,
        reads=("rate", "err", "dq"),
        thin=False,
        holds=held,
    ),
)
