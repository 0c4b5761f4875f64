"""Flat field as the observatory's pipeline divides by it: uniform light comes out uniform."""

from __future__ import annotations

import numpy as np

from ..core.dq import PIXEL
from ..core.float16 import round_to_float16
from ..core.step import Params, Step, Tile
from .common import LARGEST, replace_bad

_NO_FLAT, _UNUSABLE, _UNRELIABLE = (
    np.uint32(PIXEL[name]) for name in ("NO_FLAT_FIELD", "DO_NOT_USE", "UNRELIABLE_FLAT")
)

LEAST = np.float32(1e-4)
"""No pixel that responds less than this, relative to the others, sees any light."""


class FlatObservatoryParams(Params):
    """Parameters of `divide`."""

    check_references: bool = True
    """Do not divide by a negative, infinite or absurd flat either, and set NO_FLAT_FIELD (romancal
    leaves out NaN and 0 alone); set UNRELIABLE_FLAT where the flat's error cannot be used."""
    include_var_flat: bool = False
    """Add the variance of the flat itself to the error."""
    half_precision_errors: bool = False
    """Round err and var_poisson to float16, as romancal does after each step."""
    flag_nan: bool = True
    """Set DO_NOT_USE where rate or error is not finite (romancal leaves such pixels without a
    flag)."""


_DEFAULT = FlatObservatoryParams()


def divide(
    rate: np.ndarray,
    err: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    dumo: np.ndarray,
    dq: np.ndarray,
    flat: np.ndarray,
    flat_dq: np.ndarray | None = None,
    flat_err: np.ndarray | None = None,
    *,
    tile: Tile,
    params: FlatObservatoryParams = _DEFAULT,
) -> tuple[np.ndarray, ...]:
    """Divide active pixels by the flat, which contains their solid angles.

    Parameters
    ----------
    rate, err, dumo : ndarray (y, x) of float32
        DN/s.
    var_poisson, var_rnoise : ndarray (y, x) of float32
        (DN/s)^2.
    dq : ndarray (y, x) of uint32
    flat : ndarray (y, x) of float32
    flat_dq : ndarray (y, x) of uint32, optional
    flat_err : ndarray (y, x) of float32, optional
        Standard deviation of `flat`; only with `include_var_flat`.

    Returns
    -------
    rate, err, var_poisson, var_rnoise, dumo : ndarray (y, x) of float32
    dq : ndarray (y, x) of uint32
    """
    act = tile.active
    known = np.zeros(flat[act].shape, np.uint32) if flat_dq is None else flat_dq[act]
    f, flags = _usable_flat(flat[act], known, params.check_references)
    out = [array.copy() for array in (rate, err, var_poisson, var_rnoise, dumo)]
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # unchecked values
        square = f * f
        for array, divisor in zip(out, (f, f, square, square, f), strict=True):
            array[act] /= divisor
    rate, err, var_poisson, var_rnoise, dumo = out
    if params.half_precision_errors:
        err, var_poisson = round_to_float16(err), round_to_float16(var_poisson)
    if params.include_var_flat and flat_err is not None:
        sigma, bad = flat_err[act], None
        if params.check_references:
            sigma, bad = replace_bad(sigma, 0.0)
        variance = rate[act] ** 2 / square * sigma**2
        err[act] = np.sqrt(err[act] ** 2 + variance)
        if bad is not None:
            flags[bad] |= _UNRELIABLE
        if params.half_precision_errors:
            err = round_to_float16(err)
    if params.flag_nan:
        flags[~(np.isfinite(rate[act]) & np.isfinite(err[act]))] |= _UNUSABLE
    dq = dq.copy()
    dq[act] |= flags
    return rate, err, var_poisson, var_rnoise, dumo, dq


def _usable_flat(flat: np.ndarray, known: np.ndarray, check: bool) -> tuple[np.ndarray, np.ndarray]:
    """The flat with 1 where there is none, and its flags with NO_FLAT_FIELD there."""
    usable = ~np.isnan(flat) & (flat != 0) & ((known & _NO_FLAT) == 0)
    if check:
        usable &= (flat >= LEAST) & (flat < LARGEST)
    flags = known | np.where(usable, np.uint32(0), _NO_FLAT)
    return np.where(usable, flat, np.float32(1)), flags


def _references(params: FlatObservatoryParams) -> dict[str, str]:
    references = {"flat": "flat.data", "flat_dq": "flat.dq"}
    return references | ({"flat_err": "flat.err"} if params.include_var_flat else {})


IMAGES = {"WFI_IMAGE", "WFI_LOLO", "WFI_WFSC"}
"""Types of exposures that the flat is for. Others, such as spectra, stay as they are."""


step = Step(
    name="flat_observatory",
    kernel=divide,
    reads=("rate", "err", "var_poisson", "var_rnoise", "dumo", "dq"),
    writes=("rate", "err", "var_poisson", "var_rnoise", "dumo", "dq"),
    references=_references,
    params=FlatObservatoryParams,
    sets={"dq": ("DO_NOT_USE", "NO_FLAT_FIELD", "UNRELIABLE_FLAT")},
    when=lambda exposure, params, available: exposure.exposure_type in IMAGES,
    cal_step="flat_field",
    uniform_light="uniform",
)
