"""Dark current subtracted from the rate, as the observatory's pipeline does."""

from __future__ import annotations

import numpy as np

from ..core.dq import PIXEL
from ..core.step import Params, Step, Tile
from .common import usable_dark


class DarkRateObservatoryParams(Params):
    """Parameters of `subtract_rate`."""

    check_references: bool = True
    """Subtract nothing where the dark current is not finite, absurd or below -1 DN/s, and flag
    UNRELIABLE_DARK and DO_NOT_USE (romancal subtracts what is there)."""


_DEFAULT = DarkRateObservatoryParams()


def subtract_rate(
    rate: np.ndarray,
    dq: np.ndarray,
    dark_slope: np.ndarray,
    dark_dq: np.ndarray,
    *,
    tile: Tile,
    params: DarkRateObservatoryParams = _DEFAULT,
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the dark current from the rate of active pixels.

    The errors stay: the shot noise of the dark current is part of the fitted ramp.

    Parameters
    ----------
    rate : ndarray (y, x) of float32
        DN/s.
    dq : ndarray (y, x) of uint32
    dark_slope : ndarray (y, x) of float32
        DN/s.
    dark_dq : ndarray (y, x) of uint32

    Returns
    -------
    rate, dq : ndarray
    """
    act = tile.active
    rate, dq, slope, bad = rate.copy(), dq.copy(), dark_slope[act], None
    if params.check_references:
        slope, bad = usable_dark(slope)
    rate[act] -= slope
    dq[act] |= dark_dq[act]
    if bad is not None:
        dq[act][bad] |= np.uint32(PIXEL["UNRELIABLE_DARK"] | PIXEL["DO_NOT_USE"])
    return rate, dq


step = Step(
    name="dark_rate_observatory",
    kernel=subtract_rate,
    reads=("rate", "dq"),
    writes=("rate", "dq"),
    references={"dark_slope": "dark.dark_slope", "dark_dq": "dark.dq"},
    params=DarkRateObservatoryParams,
    sets={"dq": ("DO_NOT_USE", "UNRELIABLE_DARK")},
    cal_step="dark",
)
