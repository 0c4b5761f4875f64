"""Flat field, with the pixels' solid angles, and flags where the flat or the gain is unusable."""

from __future__ import annotations

import numpy as np

from ..core.dq import PIXEL
from ..core.float16 import round_to_float16
from ..core.jit import kernel as compiled
from ..core.step import Params, Step, Tile
from .common import all_finite, with_reference_flags
from .ipc import LARGEST_GAIN, deconvolve, usable_references

LOWEST, HIGHEST = 0.1, 10.0
"""A flat outside this range sets NO_FLAT_FIELD; a gain up to `LOWEST`, or above `LARGEST_GAIN`,
sets NO_GAIN_VALUE."""

_NONE = np.uint32(0)
_NO_FLAT = np.uint32(PIXEL["NO_FLAT_FIELD"])
_NO_GAIN = np.uint32(PIXEL["NO_GAIN_VALUE"])


class FlatParams(Params):
    """Parameters of `divide_flat`."""

    order: int = 2
    """Terms of the IPC inversion of the flat; 0 leaves it as it is."""
    area_shift: int = 0
    """Offset (pixels) in x and y at which the solid angle is looked up (romanimpreprocess: 4)."""
    check_references: bool = True
    """As the option of `ipc`."""
    reference_dq: bool = True
    """Join the flags of the flat and the gain file, if they have any."""
    half_precision_errors: bool = False
    """Round err and var_poisson to float16 again, as romanimpreprocess does."""
    flag_nan: bool = True
    """Set DO_NOT_USE where rate or error is not finite (romanimpreprocess leaves such pixels
    without a flag)."""


@compiled
def _flag_and_clip(flat, gain, rows, columns, limits, dq, f, g):
    """Flag unusable flats and gains, and clip them: `f` to its limits on active pixels, 1 where not
    finite; `g` to its lower limit everywhere, 1 where not finite or above the upper limit."""
    low, high, least, most = limits
    (y0, y1), (x0, x1) = rows, columns
    for y in range(len(g)):
        for x in range(g.shape[1]):
            value = gain[y, x]
            value = value if np.isfinite(value) and value <= most else least / least
            g[y, x] = max(value, least)
        if y0 <= y < y1:
            field, level, flags, clipped = flat[y, x0:x1], gain[y, x0:x1], dq[y, x0:x1], f[y, x0:x1]
            for x in range(len(field)):
                known = np.isfinite(field[x])
                bad = not known or field[x] < low or field[x] > high
                value = field[x] if known else np.float32(1)
                clipped[x] = min(max(value, low), high)
                no_gain = not (level[x] > least) or not level[x] <= most
                no_gain = no_gain or not np.isfinite(level[x])
                flags[x] |= (_NO_FLAT if bad else _NONE) | (_NO_GAIN if no_gain else _NONE)


@compiled
def _divide(rate, poisson, read, dumo, flat, out_rate, err, out_poisson, out_read, out_dumo):
    """Divide everything by `flat`, rounded as by NumPy's functions one after the other."""
    ny, nx = rate.shape
    sigma = np.empty(nx, np.float32)
    for y in range(ny):
        # In short loops: with more arrays in one loop the compiler does not vectorise it.
        f = flat[y]
        a, b, c, d = rate[y], dumo[y], out_rate[y], out_dumo[y]
        for x in range(nx):
            c[x] = a[x] / f[x]
        for x in range(nx):
            d[x] = b[x] / f[x]
        a, b, c, d = poisson[y], read[y], out_poisson[y], out_read[y]
        total = err[y]
        for x in range(nx):
            sigma[x] = np.sqrt(a[x]) / f[x]
            c[x] = sigma[x] * sigma[x]
        for x in range(nx):
            noise = np.sqrt(b[x]) / f[x]
            d[x] = noise * noise
            squares = np.float64(noise) * noise + np.float64(sigma[x]) * sigma[x]
            total[x] = np.float32(np.sqrt(squares))  # as hypotf does


def prepare(
    flat: np.ndarray,
    gain: np.ndarray,
    ipc: np.ndarray | None = None,
    flat_dq: np.ndarray | None = None,
    gain_dq: np.ndarray | None = None,
    *,
    tile: Tile,
    params: FlatParams,
) -> tuple[np.ndarray, np.ndarray]:
    """The flat that everything is divided by, and the flags.

    Inter-pixel capacitance is taken out of it.

    Parameters
    ----------
    flat : ndarray (y, x) of float32
        Response of each pixel to a uniform surface brightness, relative.
    gain : ndarray (y, x) of float32 or float64
        e/DN.
    ipc : ndarray (3, 3, y, x) of float32, optional
    flat_dq, gain_dq : ndarray (y, x) of uint32, optional

    Returns
    -------
    flat : ndarray (y, x) of float32
    dq : ndarray (y, x) of uint32
        NO_FLAT_FIELD and NO_GAIN_VALUE on active pixels, and the flags of the files.
    """
    rows, columns = ((s.start, s.stop) for s in tile.active)
    dq, f = np.zeros(flat.shape, np.uint32), np.ones(flat.shape, np.float32)
    g = np.empty_like(gain)
    most = LARGEST_GAIN if params.check_references else np.finfo(gain.dtype).max
    kind = gain.dtype.type
    limits = (np.float32(LOWEST), np.float32(HIGHEST), kind(LOWEST), kind(most))
    _flag_and_clip(np.asarray(flat, np.float32), gain, rows, columns, limits, dq, f, g)
    if ipc is not None:
        _, kernel, _ = usable_references(gain, ipc, tile, params.check_references)
        f = deconvolve(f, g, kernel, tile, params.order)
    for more in (flat_dq, gain_dq):
        dq = with_reference_flags(dq, more, tile.active)
    return f, dq


def divide_flat(
    rate: np.ndarray,
    var_poisson: np.ndarray,
    var_rnoise: np.ndarray,
    dumo: np.ndarray,
    dq: np.ndarray,
    area: np.ndarray,
    *,
    prepared: tuple[np.ndarray, np.ndarray],
    params: FlatParams,
) -> tuple[np.ndarray, ...]:
    """Divide rate and errors by the flat over the area of pixels.

    Parameters
    ----------
    rate, dumo : ndarray (y, x) of float32
        DN/s.
    var_poisson, var_rnoise : ndarray (y, x) of float32
        (DN/s)^2.
    dq : ndarray (y, x) of uint32
    area : ndarray (y, x) of float64
        Solid angle of each pixel over that of a (0.11 arcsec)^2 one.
    prepared : (ndarray (y, x) of float32, ndarray (y, x) of uint32)
        Flat, and flags to join.

    Returns
    -------
    rate, err, var_poisson, var_rnoise, dumo : ndarray (y, x) of float32
    dq : ndarray (y, x) of uint32
        With NO_FLAT_FIELD and NO_GAIN_VALUE on active pixels. A pixel whose rate or error is not
        finite is flagged DO_NOT_USE, unless an option says not to.
    """
    flat, flags = prepared
    with np.errstate(all="ignore"):
        response = np.divide(flat, area).astype(np.float32)
    dq = dq | flags
    made = tuple(np.empty(rate.shape, np.float32) for _ in range(5))
    _divide(rate, var_poisson, var_rnoise, dumo, response, *made)
    out_rate, err, var_poisson, var_rnoise, out_dumo = made
    if params.half_precision_errors:
        err, var_poisson = round_to_float16(err), round_to_float16(var_poisson)
    for array in (out_rate, err) if params.flag_nan else ():
        if not all_finite(array):
            dq[~np.isfinite(array)] |= np.uint32(PIXEL["DO_NOT_USE"])
    return out_rate, err, var_poisson, var_rnoise, out_dumo, dq


def _references(params: FlatParams) -> dict[str, str]:
    references = {
        "flat": "flat.data",
        "gain": "gain.data",
        "area": f"wcs.area+{params.area_shift}" if params.area_shift else "wcs.area",
    }
    references |= {"ipc": "ipc4d.data"} if params.order else {}
    flags = {"flat_dq": "flat.dq", "gain_dq": "gain.dq"}
    return references | (flags if params.reference_dq else {})


step = Step(
    name="flat",
    kernel=divide_flat,
    reads=("rate", "var_poisson", "var_rnoise", "dumo", "dq"),
    writes=("rate", "err", "var_poisson", "var_rnoise", "dumo", "dq"),
    references=_references,
    prepare=prepare,
    reference_halo=lambda params: params.order,
    params=FlatParams,
    sets={"dq": ("DO_NOT_USE", "NO_FLAT_FIELD", "NO_GAIN_VALUE")},
    cal_step="flat_field",
    uniform_light="solid angle",
)
