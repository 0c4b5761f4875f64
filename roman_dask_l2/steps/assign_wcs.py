"""World coordinates: where those of the image come from. No array is changed."""

from __future__ import annotations

from ..core.step import Params, Step


class AssignWcsParams(Params):
    """Parameters of the step."""

    level1: bool = True
    """Take `meta.wcs` of the Level-1 file where it has one, and pointing and distortion file only
    where it has none (romancal never takes `meta.wcs`)."""


def keep() -> tuple[()]:
    """No array is changed: the coordinates are made when the files are opened."""
    return ()


step = Step(name="assign_wcs", kernel=keep, params=AssignWcsParams, cal_step="assign_wcs")
