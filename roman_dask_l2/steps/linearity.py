"""Classical linearity: a Legendre series per pixel turns raw DN into linear DN."""

from __future__ import annotations

import numpy as np

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import LARGEST, places_of, replace_bad
from .linearity_check import implausible

_NO_LIN = np.uint32(PIXEL["NO_LIN_CORR"])
_SKIP = np.uint32(PIXEL["NO_LIN_CORR"] | PIXEL["REFERENCE_PIXEL"])
_SATURATED = np.uint8(GROUP["SATURATED"])
_CHUNK = 1024


class LinearityParams(Params):
    """Parameters of `linearise`."""

    check_references: bool = True
    """Do not correct a pixel with an implausible curve (`linearity_check.implausible`);
    romanimpreprocess uses any numbers."""


@kernel
def _outside(coef, z):
    """The series beyond |z| = 1, where each P_L is continued along its tangent."""
    one = np.float32(1)
    sign = one if z > 0 else -one
    total, parity = coef[0], one
    for L in range(1, len(coef)):
        parity *= sign
        total += coef[L] * (parity * (one + np.float32(L * (L + 1) / 2) * (abs(z) - one)))
    return total


@kernel
def _linearise(ramp, groupdq, coef, smin, smax, sref, dq, first_is_reset, out, out_dq):
    """Fill `out` (R, y, x) and `out_dq` (y, x); see `linearise`.

    A piece of a row at a time, so that the recurrence runs over pixels, is vectorised and stays in
    the processor's nearest cache; the few pixels that are flagged or out of range
    are computed again.
    """
    one, two = np.float32(1), np.float32(2)
    n_coef = coef.shape[0]
    n_res, ny, width = ramp.shape
    widest = np.empty((3, _CHUNK), np.float32)
    for y, x0 in [(y, x0) for y in range(ny) for x0 in range(0, width, _CHUNK)]:
        nx = min(_CHUNK, width - x0)
        x1 = x0 + nx
        z, below, here = widest[0, :nx], widest[1, :nx], widest[2, :nx]
        flags = dq[y, x0:x1].copy()
        low, high, zero = smin[y, x0:x1], smax[y, x0:x1], sref[y, x0:x1]
        for j in range(n_res):
            s, total = ramp[j, y, x0:x1], out[j, y, x0:x1]
            saturated = groupdq[j, y, x0:x1]
            for x in range(nx):
                z[x] = -one + two * (s[x] - low[x]) / (high[x] - low[x])
            if j == 0 and first_is_reset:
                for x in range(nx):
                    z[x] = min(max(z[x], -one), one)
            c = coef[0, y, x0:x1]
            for x in range(nx):
                total[x] = c[x]
                below[x] = one
                here[x] = z[x]
            for L in range(1, n_coef):
                c = coef[L, y, x0:x1]
                up, down = np.float32((2 * L + 1) / (L + 1)), np.float32(L / (L + 1))
                for x in range(nx):
                    total[x] += c[x] * here[x]
                    after = up * z[x] * here[x] - down * below[x]
                    below[x] = here[x]
                    here[x] = after
            for x in range(nx):
                skip = flags[x] & _SKIP
                over = abs(z[x]) > one
                if over and not saturated[x] & _SATURATED:
                    flags[x] |= _NO_LIN
                if skip:
                    total[x] = s[x] - zero[x]
                elif over:
                    total[x] = _outside(coef[:, y, x0 + x], z[x])
        target = out_dq[y, x0:x1]
        for x in range(nx):
            target[x] |= flags[x]


Curves = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def prepare(
    coef: np.ndarray,
    Smin: np.ndarray,
    Smax: np.ndarray,
    Sref: np.ndarray,
    linearity_dq: np.ndarray,
    *,
    tile: Tile,
    params: LinearityParams,
) -> Curves:
    """The references as they are used, and their flags with NO_LIN_CORR where they are replaced."""
    bad = _bad(coef, Smin, Smax, Sref, tile, params.check_references)
    if bad is None:
        return coef, Smin, Smax, Sref, linearity_dq
    return (
        np.where(bad, np.float32(0), coef),
        np.where(bad, np.float32(0), Smin),
        np.where(bad, np.float32(65535), Smax),
        replace_bad(Sref, 0.0)[0],
        linearity_dq | np.where(bad, _NO_LIN, np.uint32(0)),
    )


def linearise(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    *,
    prepared: Curves,
    exposure: Exposure,
) -> tuple[np.ndarray, np.ndarray]:
    """Make the signal linear, by a Legendre series for each pixel.

    The series is ``sum_L coef_L P_L(z)`` with ``z = -1 + 2 (S - Smin)/(Smax - Smin)``.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal S, DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    prepared : tuple of ndarray
        Legendre coefficients (order + 1, y, x), linear DN; Smin, Smax and Sref (y, x), the range of
        the fit and the signal of an empty well, DN, all float32; flags (y, x) of uint32.

    Returns
    -------
    ramp : ndarray (R, y, x) of float32
        Linear DN. ``S - Sref`` where the linearity flags, or an earlier resultant of this
        exposure, say NO_LIN_CORR or REFERENCE_PIXEL.
    pixeldq : ndarray (y, x) of uint32
        With the linearity flags, and NO_LIN_CORR where an unsaturated resultant left the range
        of the fit, a reference value is not finite, or the curve of an active pixel is implausible.

    Notes
    -----
    Outside the range each polynomial is continued along its tangent,
    ``sign(z)^L (1 + L (L + 1) / 2 (|z| - 1))``, because ``P_L'(1) = L (L + 1) / 2``. A first
    resultant that is frame 0 alone is taken during reset: its z is clipped and never flagged.
    """
    coef, Smin, Smax, Sref, dq = prepared
    out = np.empty_like(ramp)
    out_dq = pixeldq.copy()
    first_is_reset = exposure.read_pattern[0] == (0,)
    _linearise(ramp, groupdq, coef, Smin, Smax, Sref, dq, first_is_reset, out, out_dq)
    return out, out_dq


def _bad(coef, Smin, Smax, Sref, tile: Tile, check: bool) -> np.ndarray | None:
    """Pixels whose references cannot be used, None if there are none; without `check`, and on the
    border, only numbers that are missing and empty ranges count."""
    bad = implausible(coef, Smin, Smax, Sref)
    if bad is None:
        return None
    places = places_of(bad)
    missing = ~(Smax[places] > Smin[places])
    for values in (Smin, Smax, Sref, *coef):
        missing |= ~(np.abs(values[places]) < LARGEST)
    if check:
        active = np.zeros(bad.shape, np.bool_)
        active[tile.active] = True
        missing |= active[places]
    bad[places] = missing
    return bad if missing.any() else None


step = Step(
    name="linearity",
    kernel=linearise,
    reads=("ramp", "groupdq", "pixeldq"),
    writes=("ramp", "pixeldq"),
    references={
        "coef": "linearitylegendre.data",
        "Smin": "linearitylegendre.Smin",
        "Smax": "linearitylegendre.Smax",
        "Sref": "linearitylegendre.Sref",
        "linearity_dq": "linearitylegendre.dq",
    },
    prepare=prepare,
    params=LinearityParams,
    sets={"pixeldq": ("NO_LIN_CORR",)},
    cal_step="linearity",
)
