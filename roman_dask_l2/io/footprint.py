"""Where an image lies on the sky, as words and numbers of its metadata."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .wcs import Wcs


def sky_region(wcs: Wcs, active_side: int) -> str:
    """The outline of the active array for ``meta.wcsinfo.s_region``.

    Parameters
    ----------
    wcs : Wcs
    active_side : int
        Pixels.

    Returns
    -------
    str
        ``POLYGON ICRS`` and right ascension and declination (degrees) of the outer corners of the
        pixels (0, 0), (0, n - 1), (n - 1, n - 1) and (n - 1, 0) in x and y, or of the bounding box
        that the WCS brings: the order and the digits that the mission's pipeline writes.

    Raises
    ------
    InputError
        If the WCS has no sky position there.
    """
    edges = (-0.5, active_side - 0.5)
    (left, right), (low, high) = (edges, edges) if wcs.box is None else wcs.box
    ra, dec = wcs.sky([left, left, right, right], [low, high, high, low])
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise InputError("WCS: no sky position at a corner of the active array")
    ra = np.round(ra % 360, 9) % 360
    corners = (f"{a:.9f} {d:.9f}" for a, d in zip(ra, dec, strict=True))
    return f"POLYGON ICRS  {' '.join(corners)}"


def middle(wcs: Wcs, active_side: int) -> tuple[float, float]:
    """Right ascension and declination (degrees) of the middle of the active array, which is the
    reference position of the full-frame apertures."""
    centre = (active_side - 1) / 2
    ra, dec = wcs.sky(centre, centre)
    return float(ra) % 360, float(dec)
