"""Polynomials through the medians of an image's cells, as the sky step fits them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.detector import BORDER, Window
from ..core.exposure import Exposure
from ..io.arrays import Placed
from ..steps.sky import cell_edges, cell_median, fit_sky


def fit_background(
    level: Placed, flags: Placed | None, order: int, exposure: Exposure, waits: Any
) -> np.ndarray | None:
    """Coefficients of the background of the L2 image; None if there are none."""
    return fit_image_sky(level.read, flags, order, exposure)


def fit_image_sky(
    image: Callable[[Window], np.ndarray],
    flags: Placed | None,
    order: int,
    exposure: Exposure,
) -> np.ndarray | None:
    """Sky coefficients of an image.

    Parameters
    ----------
    image : callable
        ``image(window)`` is a part of it.
    flags : Placed or None
        Of the L2 image: pixels flagged DO_NOT_USE are left out, as are those that are not finite.
    order : int
    exposure : Exposure

    Returns
    -------
    ndarray or None
        None if too few cells have usable pixels.
    """
    n = exposure.side
    edges = cell_edges(n)
    medians = []
    for first, last in edges:
        window = Window(first + BORDER, last + BORDER, BORDER, n - BORDER)
        band = image(window)
        dq = np.zeros(band.shape, np.uint32) if flags is None else flags.read(window)
        medians += [cell_median(band[:, a:b], dq[:, a:b])[0] for a, b in edges]
    return fit_sky(medians, order, exposure)
