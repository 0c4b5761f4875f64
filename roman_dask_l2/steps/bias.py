"""Bias correction: the part of a dark that dark current and linearity do not explain."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.dq import PIXEL
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import copy, replace_bad, with_flag, with_reference_flags


class BiasParams(Params):
    """Parameters of `subtract_bias`."""

    reference_dq: bool = True
    """Join the file's flags, if it has any."""


@kernel
def _subtract(ramp, bias, rows, columns, out):
    """``ramp - bias`` inside `rows` and `columns`, the ramp itself outside."""
    y0, y1 = rows
    x0, x1 = columns
    for j in range(ramp.shape[0]):
        for y in range(ramp.shape[1]):
            copy(ramp[j, y], out[j, y])
            if y0 <= y < y1:
                s, b, target = ramp[j, y, x0:x1], bias[j, y, x0:x1], out[j, y, x0:x1]
                for x in range(len(s)):
                    target[x] = s[x] - b[x]


def prepare(bias: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """The bias cube with 0 where it is not known, and pixels of which it is not."""
    bias, bad = replace_bad(bias, 0.0)
    where: Any = None if bad is None else bad.any(axis=0)
    return bias, where


def subtract_bias(
    ramp: np.ndarray,
    pixeldq: np.ndarray,
    bias_dq: np.ndarray | None = None,
    *,
    prepared: tuple[np.ndarray, np.ndarray | None],
    tile: Tile,
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the bias cube from active pixels.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    pixeldq : ndarray (y, x) of uint32
    bias_dq : ndarray (y, x) of uint32, optional
    prepared : (ndarray, ndarray or None)
        Bias correction (R, y, x) of float32, DN, zero on reference pixels; where (y, x) it is not
        known.

    Returns
    -------
    ramp, pixeldq : ndarray
        UNRELIABLE_BIAS where the correction is not finite (then nothing is subtracted).
    """
    bias, where = prepared
    rows, columns = tile.active
    out = np.empty_like(ramp)
    _subtract(ramp, bias, (rows.start, rows.stop), (columns.start, columns.stop), out)
    pixeldq = with_reference_flags(pixeldq, bias_dq, tile.active)
    return out, with_flag(pixeldq, where, PIXEL["UNRELIABLE_BIAS"], tile.active)


def _references(params: BiasParams) -> dict[str, str]:
    return {"bias": "biascorr.data"} | ({"bias_dq": "biascorr.dq"} if params.reference_dq else {})


step = Step(
    name="bias",
    kernel=subtract_bias,
    reads=("ramp", "pixeldq"),
    writes=("ramp", "pixeldq"),
    references=_references,
    prepare=prepare,
    params=BiasParams,
    when=lambda exposure, params, available: available("biascorr.data"),
    sets={"pixeldq": ("UNRELIABLE_BIAS",)},
)
