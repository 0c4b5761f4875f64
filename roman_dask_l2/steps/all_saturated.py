"""An exposure of which every pixel is saturated: a blank image, as romancal leaves it.

Without these two steps such pixels have what the fit makes of them: no rate, and their flags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.step import Reduction, Step
from .statistics import bands

_SATURATED = np.uint32(PIXEL["SATURATED"])
_GROUP_SATURATED = np.uint8(GROUP["SATURATED"])
_LOST = np.uint8(1)
_KNOWN = np.uint8(2)


def record(groupdq: np.ndarray, pixeldq: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Note for each pixel whether it is saturated, and the flags that it then has.

    Parameters
    ----------
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32

    Returns
    -------
    blank : ndarray (y, x) of uint8
        1 where every resultant is SATURATED, plus 2 where `pixeldq` has SATURATED.
    blank_dq : ndarray (y, x) of uint32
        ``pixeldq | groupdq[0] | SATURATED``.
    """
    lost = (np.bitwise_and.reduce(groupdq, axis=0) & _GROUP_SATURATED) != 0
    known = (pixeldq & _SATURATED) != 0
    blank = np.where(lost, _LOST, np.uint8(0)) | np.where(known, _KNOWN, np.uint8(0))
    return blank, pixeldq | groupdq[0] | _SATURATED


def bits_in_common(blank: np.ndarray) -> int:
    """The bits that all pixels of a band have."""
    return int(np.bitwise_and.reduce(blank, axis=None))


def combine(partials: Sequence[int]) -> Mapping[str, bool]:
    """Whether one of the two holds for every pixel of the frame, border included."""
    return {"all": int(np.bitwise_and.reduce(partials)) != 0}


def blank_out(
    rate: np.ndarray,
    err: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    dq: np.ndarray,
    blank_dq: np.ndarray,
    *,
    measured: Mapping[str, bool],
) -> tuple[np.ndarray, ...]:
    """Zeros and the flags of `record`, if the whole frame is saturated; else everything as it is.

    Parameters
    ----------
    rate, err : ndarray (y, x) of float32
        DN/s.
    var_poisson, var_rnoise : ndarray (y, x) of float32
        (DN/s)^2.
    dq, blank_dq : ndarray (y, x) of uint32

    Returns
    -------
    rate, err, var_poisson, var_rnoise, dq : ndarray
    """
    images = (rate, err, var_poisson, var_rnoise)
    if not measured["all"]:
        return *images, dq
    return *(np.zeros_like(image) for image in images), blank_dq


record_step = Step(
    name="saturated_pixels",
    kernel=record,
    reads=("groupdq", "pixeldq"),
    writes=("blank", "blank_dq"),
    sets={"blank_dq": ("SATURATED",)},
)

step = Step(
    name="all_saturated",
    kernel=blank_out,
    reads=("rate", "err", "var_poisson", "var_rnoise", "dq", "blank_dq"),
    writes=("rate", "err", "var_poisson", "var_rnoise", "dq"),
    reduction=Reduction(
        windows=bands, partial=bits_in_common, combine=combine, reads=("blank",), thin=False
    ),
    idle=lambda measured: not measured["all"],
)
