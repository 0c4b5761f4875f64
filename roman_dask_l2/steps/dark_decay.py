"""Dark decay: a signal after reset that decays exponentially."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..core.exposure import Exposure
from ..core.step import Params, Step, Tile


class DarkDecayParams(Params):
    """Parameters of `subtract_decay`."""

    border: bool = False
    """Correct the reference border too, as romancal does (the amplifiers' signal that the border
    measures does not decay)."""
    double: bool = False
    """Subtract in float64 and round once (romancal), instead of in float32."""


_DEFAULT = DarkDecayParams()


def subtract_decay(
    ramp: np.ndarray,
    read_time: np.ndarray,
    table: Mapping[str, Mapping[str, float]],
    *,
    tile: Tile,
    exposure: Exposure,
    params: DarkDecayParams = _DEFAULT,
) -> np.ndarray:
    """Subtract a signal that decays exponentially after reset.

    That is the mean over a resultant's reads of ``amplitude exp(-t / time_constant)``.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    read_time : ndarray (y, x) of float64
        Time within a frame at which each pixel is read, s.
    table : mapping
        Detector name -> ``amplitude`` (DN) and ``time_constant`` (s).

    Returns
    -------
    ndarray (R, y, x) of float32
        Active pixels corrected (with `border`, all); t is the pixel's read time at frame f - 1.5.
    """
    amplitude = float(table[exposure.detector]["amplitude"])
    constant = float(table[exposure.detector]["time_constant"])
    act = (slice(None), slice(None)) if params.border else tile.active
    # exp factorises: one exponential per pixel, one factor per resultant.
    at_start = amplitude * np.exp(-read_time[act] / constant)
    out = ramp.copy()
    for j, reads in enumerate(exposure.read_pattern):
        start = (np.array(reads) - 1.5) * exposure.frame_time
        decay = at_start * np.exp(-start / constant).mean()
        if params.double:
            out[(j, *act)] = ramp[(j, *act)].astype(np.float64) - decay
        else:
            out[(j, *act)] -= decay.astype(np.float32)
    return out


step = Step(
    name="dark_decay",
    kernel=subtract_decay,
    reads=("ramp",),
    writes=("ramp",),
    references={"read_time": "detector.read_time", "table": "dark_decay.decay_table"},
    params=DarkDecayParams,
    when=lambda exposure, params, available: available("dark_decay.decay_table"),
    cal_step="dark_decay",
)
