"""Flag pixels whose rate is too negative to be noise."""

import numpy as np

from roman_dask_l2 import PIXEL, Params, Step


class NegativeParams(Params):
    """Options of `flag_negative`."""

    sigma: float = 5.0
    """Standard deviations below zero."""


def flag_negative(rate, err, dq, *, params):
    """Set UNRELIABLE_SLOPE where ``rate < -sigma * err`` (DN/s); dq is (y, x) uint32."""
    bad = rate < -params.sigma * err
    return dq | np.where(bad, np.uint32(PIXEL["UNRELIABLE_SLOPE"]), np.uint32(0))


step = Step(
    name="negative",
    kernel=flag_negative,
    reads=("rate", "err", "dq"),
    writes=("dq",),
    params=NegativeParams,
    sets={"dq": ("UNRELIABLE_SLOPE",)},
)
