"""Saturation and A/D-floor flags, as stcal sets them."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from .common import replace_bad

ATOD_LIMIT = 65535
"""Largest value of the analogue-to-digital converter, DN."""

_SATURATED = np.uint8(GROUP["SATURATED"])
_DO_NOT_USE = np.uint8(GROUP["DO_NOT_USE"])
_FLOOR = np.uint8(GROUP["AD_FLOOR"] | GROUP["DO_NOT_USE"])
_NO_CHECK = np.uint32(PIXEL["NO_SAT_CHECK"])
_NO_LIMIT = np.float32(ATOD_LIMIT + 1)
"""Threshold of a pixel that is not checked: above all that the converter gives."""


class SaturationParams(Params):
    """Parameters of `flag_saturation`."""

    backup: int = 1
    """Resultants by which the onset of saturation is moved back (0: as stcal finds it)."""
    grow: int = 1
    """Pixels around a saturated one that are flagged as well."""
    first: int = Field(default=1, ge=0, le=1)
    """First resultant that is looked at (romancal: 0, as it fits resultant 0 too)."""
    check_references: bool = True
    """Take a threshold of an active pixel that is not above zero, infinite or absurdly large for a
    missing one, as NaN is, and set NO_SAT_CHECK (stcal compares with any number)."""


def halo(params: SaturationParams) -> int:
    """Flags grow twice along one path: SATURATED, then the DO_NOT_USE of the resultant before."""
    return 2 * params.grow


@kernel
def _find_triggers(
    ramp, groupdq, threshold, threshold_dq, pixeldq, first, limits, no_limit, trigger
):
    """Add the threshold's flags to `pixeldq`, and find the `limits` to check for and the pixels
    near which flags are set: those that reach their threshold or zero, or are already flagged."""
    n_res, ny, nx = ramp.shape
    for y in range(ny):
        level, known, flags, found = threshold[y], threshold_dq[y], pixeldq[y], trigger[y]
        limit, without = limits[y], no_limit[y]
        for x in range(nx):
            unchecked = (level[x] != level[x]) | ((known[x] & _NO_CHECK) != 0)
            limit[x] = _NO_LIMIT if unchecked else level[x]
            without[x] = unchecked
            flags[x] |= known[x] | (_NO_CHECK if unchecked else np.uint32(0))
            found[x] = False
        for j in range(first, n_res):
            s, group = ramp[j, y], groupdq[j, y]
            for x in range(nx):
                found[x] |= (s[x] >= limit[x]) | (s[x] <= 0) | ((group[x] & _SATURATED) != 0)


def flag_saturation(
    ramp: np.ndarray,
    groupdq: np.ndarray,
    pixeldq: np.ndarray,
    threshold: np.ndarray,
    threshold_dq: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
    params: SaturationParams,
) -> tuple[np.ndarray, np.ndarray]:
    """Flag resultants that saturate or lie at the converter's floor.

    Parameters
    ----------
    ramp : ndarray (R, y, x) of float32
        Raw signal, DN.
    groupdq : ndarray (R, y, x) of uint8
    pixeldq : ndarray (y, x) of uint32
    threshold : ndarray (y, x) of float32
        Saturation threshold, DN; NaN where there is none, and see `check_references`.
    threshold_dq : ndarray (y, x) of uint32

    Returns
    -------
    groupdq, pixeldq : ndarray
        With SATURATED, AD_FLOOR, DO_NOT_USE and NO_SAT_CHECK as
        ``stcal.saturation.saturation.flag_saturated_pixels`` sets them on resultants from
        `first` on.

    Notes
    -----
    stcal looks at every pixel of every resultant many times, a second for a full frame. But its
    flags lie within `halo` pixels of one that reaches its threshold or zero, or was flagged before,
    and depend on nothing further away: there the same rules are applied, by kernels.
    """
    out, pixeldq, saturated = groupdq.copy(), pixeldq.copy(), _SATURATED
    if params.check_references:
        active = threshold[tile.active]
        usable, bad = replace_bad(active, np.nan, positive=True)
        if bad is not None:
            threshold = threshold.copy()
            threshold[tile.active] = usable
    limit, unchecked = np.empty(threshold.shape, np.float32), np.empty(threshold.shape, np.bool_)
    trigger = np.empty(threshold.shape, np.bool_)
    first = params.first
    _find_triggers(
        ramp, groupdq, threshold, threshold_dq, pixeldq, first, limit, unchecked, trigger
    )
    _flag_near(trigger, ramp, out, limit, unchecked, _pattern(exposure, first), first, params.grow)
    for _ in range(min(params.backup, len(out))):  # more rounds would flag nothing
        for i in range(first, len(out) - 1):
            if exposure.n_reads[i] > 1:
                out[i] |= out[i + 1] & saturated
    return out, pixeldq


def _pattern(exposure: Exposure, first: int) -> np.ndarray:
    """Of each resultant the mean and the last of its reads, their ratio, and their number."""
    out = np.ones((exposure.n_resultants, 4))
    with np.errstate(divide="ignore", invalid="ignore"):  # a read counted 0 has no mean time
        for j, reads in enumerate(exposure.read_pattern):
            mean = np.mean(reads)
            out[j] = mean, reads[-1], mean / reads[-1], len(reads)
    return out


@kernel
def _flag_near(trigger, ramp, groupdq, limit, unchecked, pattern, first, grow):
    """Set flags in `groupdq` where there can be any: within twice `grow` of the triggers."""
    n_res, ny, nx = ramp.shape
    near = np.zeros((ny, nx), np.bool_)
    n = 0
    for y in range(ny):
        for x in range(nx):
            if trigger[y, x]:
                for v in range(max(y - 2 * grow, 0), min(y + 2 * grow + 1, ny)):
                    for u in range(max(x - 2 * grow, 0), min(x + 2 * grow + 1, nx)):
                        n += not near[v, u]
                        near[v, u] = True
    if n == 0:
        return
    ys, xs = np.empty(n, np.int64), np.empty(n, np.int64)
    n = 0
    for y in range(ny):
        for x in range(nx):
            if near[y, x]:
                ys[n], xs[n] = y, x
                n += 1
    saturated = np.zeros(n, np.bool_)
    found = np.empty(n, np.int64)
    for j in range(first, n_res):
        m = 0
        for k in range(n):
            y, x = ys[k], xs[k]
            saturated[k] |= ramp[j, y, x] >= limit[y, x]
            if saturated[k]:
                groupdq[j, y, x] |= _SATURATED
            if ramp[j, y, x] <= 0:
                groupdq[j, y, x] |= _FLOOR
            if groupdq[j, y, x] & _SATURATED:
                found[m] = k
                m += 1
        _grow(groupdq[j], ys, xs, found[:m], grow, _SATURATED)
    # What saturates in the last reads of a resultant may not reach the threshold in their mean.
    for j in range(n_res - 2, first - 1, -1):
        if pattern[j, 2] == 1:
            continue
        m = 0
        for k in range(n):
            y, x = ys[k], xs[k]
            part = limit[y, x] * (1.0 if unchecked[y, x] else pattern[j, 2])
            free = groupdq[j, y, x] & (_SATURATED | _DO_NOT_USE) == 0
            if ramp[j, y, x] >= part and free and groupdq[j + 1, y, x] & _SATURATED:
                found[m] = k
                m += 1
        _grow(groupdq[j], ys, xs, found[:m], grow, _DO_NOT_USE)
    if n_res - first > 2:
        _flag_second(ys, xs, ramp[first:], groupdq[first:], limit, pattern[first:])


@kernel
def _grow(flags, ys, xs, found, grow, flag):
    """Set `flag` on the pixels `found` and up to `grow` pixels around."""
    ny, nx = flags.shape
    for k in found:
        for y in range(max(ys[k] - grow, 0), min(ys[k] + grow + 1, ny)):
            for x in range(max(xs[k] - grow, 0), min(xs[k] + grow + 1, nx)):
                flags[y, x] |= flag


@kernel
def _flag_second(ys, xs, ramp, groupdq, limit, pattern):
    """The second resultant where the third is saturated, the first does not announce it, and the
    step between them is as large as if the last read of the second had saturated."""
    for k in range(len(ys)):
        y, x = ys[k], xs[k]
        if groupdq[2, y, x] & _SATURATED and not groupdq[1, y, x] & _SATURATED:
            begin, level = ramp[0, y, x], limit[y, x]
            ahead = begin / pattern[0, 0] * pattern[2, 1]
            least = (level - begin) / np.float32(pattern[1, 3])
            if ahead < level and ramp[1, y, x] - begin > least:
                groupdq[1, y, x] |= _DO_NOT_USE


step = Step(
    name="saturation",
    kernel=flag_saturation,
    reads=("ramp", "groupdq", "pixeldq"),
    writes=("groupdq", "pixeldq"),
    references={"threshold": "saturation.data", "threshold_dq": "saturation.dq"},
    halo=halo,
    params=SaturationParams,
    settings={"backup": "SATURATION_BACKUP"},
    sets={
        "groupdq": ("DO_NOT_USE", "SATURATED", "AD_FLOOR"),
        "pixeldq": ("NO_SAT_CHECK",),
    },
    cal_step="saturation",
)
