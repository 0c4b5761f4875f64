"""Saturation and A/D-floor flags, by stcal's algorithm."""

from __future__ import annotations

import logging

import numpy as np
from pydantic import Field

from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.jit import kernel
from ..core.step import Params, Step, Tile
from ..system.foreign import load
from .common import replace_bad

# stcal reports its counts per call, here per tile: too many lines.
logging.getLogger("stcal").setLevel(logging.WARNING)

ATOD_LIMIT = 65535
"""Largest value of the analogue-to-digital converter, DN."""

STCAL = "stcal.saturation.saturation"
"""Module of the algorithm."""

_SATURATED = np.uint8(GROUP["SATURATED"])
_NO_CHECK = np.uint32(PIXEL["NO_SAT_CHECK"])


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
    """stcal grows twice along one path (SATURATED, then the DO_NOT_USE of its backward pass)."""
    return 2 * params.grow


@kernel
def _find_triggers(ramp, groupdq, threshold, threshold_dq, pixeldq, first, trigger):
    """Add the threshold's flags to `pixeldq`, and find the pixels that stcal must examine: those
    that reach their threshold or zero, or are already flagged."""
    n_res, ny, nx = ramp.shape
    limit = np.empty(nx, np.float32)
    for y in range(ny):
        level, known, flags, found = threshold[y], threshold_dq[y], pixeldq[y], trigger[y]
        for x in range(nx):
            unchecked = (level[x] != level[x]) | ((known[x] & _NO_CHECK) != 0)
            limit[x] = np.float32(ATOD_LIMIT + 1) if unchecked else level[x]
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
    """
    out, pixeldq, saturated = groupdq.copy(), pixeldq.copy(), _SATURATED
    if params.check_references:
        active = threshold[tile.active]
        usable, bad = replace_bad(active, np.nan, positive=True)
        if bad is not None:
            threshold = threshold.copy()
            threshold[tile.active] = usable
    trigger = np.empty(threshold.shape, np.bool_)
    first = params.first
    _find_triggers(ramp, groupdq, threshold, threshold_dq, pixeldq, first, trigger)
    _call_stcal_near(trigger, ramp, out, threshold, threshold_dq, exposure, params)
    for _ in range(min(params.backup, len(out))):  # more rounds would flag nothing
        for i in range(first, len(out) - 1):
            if exposure.n_reads[i] > 1:
                out[i] |= out[i + 1] & saturated
    return out, pixeldq


def _call_stcal_near(trigger, ramp, groupdq, threshold, threshold_dq, exposure, params) -> None:
    """Run stcal only where it can set a flag, updating `groupdq` in place.

    stcal takes a second per full frame, but its flags lie within `halo` pixels of one that reaches
    its threshold or zero (`trigger`), and depend on nothing more than `halo` pixels from there. So
    square patches around the triggers, stacked into one tall image, are enough: the rim of a
    patch, which stacking spoils, is discarded.
    """
    ys, xs = np.nonzero(trigger)
    reach = halo(params)
    size = 4 * reach + 1
    if len(ys) * size**2 > trigger.size // 2:
        _call_stcal(ramp, groupdq, threshold, threshold_dq, exposure, params)
        return
    if len(ys) == 0:
        return
    around = np.arange(-2 * reach, 2 * reach + 1)
    y, x = ys[:, None] + around, xs[:, None] + around
    ny, nx = trigger.shape
    outside = ((y < 0) | (y >= ny))[:, :, None] | ((x < 0) | (x >= nx))[:, None, :]
    cut = (np.clip(y, 0, ny - 1)[:, :, None], np.clip(x, 0, nx - 1)[:, None, :])

    def stacked(array: np.ndarray, beyond: float) -> np.ndarray:
        patches = array[(..., *cut)]
        patches[..., outside] = beyond
        return patches.reshape(*array.shape[:-2], -1, size)

    patch_dq = stacked(groupdq, 0)
    # Beyond the window there is nothing that could saturate or reach zero.
    _call_stcal(
        stacked(ramp, 1.0),
        patch_dq,
        stacked(threshold, ATOD_LIMIT),
        stacked(threshold_dq, 0),
        exposure,
        params,
    )
    inner = slice(reach, size - reach)
    result = patch_dq.reshape(len(groupdq), len(ys), size, size)[:, :, inner, inner]
    y, x = (np.broadcast_to(c, outside.shape)[:, inner, inner] for c in cut)
    valid = ~outside[:, inner, inner]
    for plane, values in zip(groupdq, result, strict=True):
        plane[y[valid], x[valid]] = values[valid]


def _call_stcal(ramp, groupdq, threshold, threshold_dq, exposure, params) -> None:
    """Run stcal on the resultants from `first` on, updating `groupdq` in place."""
    first = params.first
    flag_saturated_pixels = load(STCAL).flag_saturated_pixels
    flags = {name: GROUP[name] for name in ("DO_NOT_USE", "SATURATED", "AD_FLOOR")}
    flags["NO_SAT_CHECK"] = PIXEL["NO_SAT_CHECK"]
    with np.errstate(divide="ignore", invalid="ignore"):  # a read counted 0 has no mean time
        updated, _, _ = flag_saturated_pixels(
            ramp[np.newaxis, first:].copy(),  # stcal may change its inputs
            groupdq[np.newaxis, first:].astype(np.uint32),
            np.zeros(threshold.shape, np.uint32),
            threshold.copy(),
            threshold_dq.copy(),
            ATOD_LIMIT,
            flags,
            n_pix_grow_sat=params.grow,
            read_pattern=[list(reads) for reads in exposure.read_pattern[first:]],
        )
    groupdq[first:] = updated[0]


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
    imports=(STCAL,),
)
