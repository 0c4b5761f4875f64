"""Large events (snowballs): flags of jumps and of saturated cores, grown by stcal's algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ..core.detector import BAND, Window
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.step import PACKED, Params, Reduction, Step, Tile
from ..system.foreign import load

STCAL = ("stcal.jump.jump", "stcal.jump.jump_class")
"""Modules of the algorithm, and of its parameters."""
_JUMP, _SATURATED, _UNUSED = (np.uint8(GROUP[name]) for name in PACKED)
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])
_LABELS = 28
"""Bytes per pixel of the frame that stcal needs beside the flags, measured."""


class EventFlagsParams(Params):
    """Parameters of `pack_flags`."""

    expand_large_events: bool = False
    """As the option of `large_events`, which needs these flags."""


class LargeEventsParams(Params):
    """Parameters of `flag_large_events`."""

    expand_large_events: bool = False
    """Flag what surrounds large events; otherwise the step is not applied."""
    min_jump_area: float = Field(6, gt=0)
    """Least area of a group of pixels flagged JUMP_DET in one resultant, pixels."""
    min_sat_area: float = Field(1, gt=0)
    """Least area of its saturated core, pixels."""
    expand_factor: float = Field(1.9, gt=0)
    """By how much the radius of the circle around the group is multiplied."""
    sat_required_snowball: bool = True
    """Only groups with a core that has just saturated are large events."""
    min_sat_radius_extend: float = Field(0.5, ge=0)
    """Least radius of a core that is grown, pixels."""
    sat_expand: int = Field(2, ge=0)
    """Pixels by which the radius of a core is grown."""
    edge_size: int = Field(0, ge=0)
    """Distance from the edge of the detector within which no saturated core is required, pixels."""
    do_not_use: bool = True
    """Set DO_NOT_USE on pixels with grown flags, whose ramps were fitted before (romancal: only
    where fewer than two good resultants are left)."""


def pack_flags(groupdq: np.ndarray) -> np.ndarray:
    """Pack the flags of resultants that large events change into bits.

    Parameters
    ----------
    groupdq : ndarray (R, y, x) of uint8

    Returns
    -------
    ndarray (3 ceil(R/8), y, x) of uint8
        Bit j % 8 of plane j // 8 stands for JUMP_DET in resultant j; then the same for SATURATED
        and for DO_NOT_USE.
    """
    return np.concatenate([pack(groupdq, GROUP[name]) for name in PACKED])


def pack(groupdq: np.ndarray, flag: int) -> np.ndarray:
    """The bits (ceil(R / 8), y, x) of one flag of `groupdq` (R, y, x)."""
    return np.packbits(groupdq & np.uint8(flag) != 0, axis=0, bitorder="little")


def unpack(events: np.ndarray, n_resultants: int) -> np.ndarray:
    """The flags (R, ...) of uint8 that `pack_flags` has packed."""
    found = np.zeros((n_resultants, *events.shape[1:]), np.uint8)
    for name, bits in zip(PACKED, np.split(events, len(PACKED)), strict=True):
        one = np.unpackbits(bits, axis=0, count=n_resultants, bitorder="little")
        found |= one * np.uint8(GROUP[name])
    return found


def bands(exposure: Exposure, params: LargeEventsParams) -> list[Window]:
    """Bands of rows that cover the frame."""
    n = exposure.side
    return [Window(y, min(y + BAND, n), 0, n) for y in range(0, n, BAND)]


def keep_flags(events: np.ndarray) -> np.ndarray:
    """The packed flags of a band."""
    return events


def grow_flags(
    partials: Sequence[np.ndarray], exposure: Exposure, params: LargeEventsParams
) -> Mapping[str, np.ndarray]:
    """Grow the flags of the whole frame.

    Events are circles that may lie anywhere, so stcal has to see the frame at once; what goes back
    to the tiles are the pixels that changed.

    Returns
    -------
    mapping
        ``rows``, ascending, and ``columns`` (n,) of int32 on the full frame, and ``events``, what
        `pack_flags` would give there, (3 ceil(R/8), n) of uint8.
    """
    n, r = exposure.side, exposure.n_resultants
    flags = np.zeros((1, r, n, n), np.uint8)
    windows = bands(exposure, params)
    for window, packed in zip(windows, partials, strict=True):
        flags[0, :, window.y0 : window.y1] = unpack(packed, r)
    jump, model = (load(name) for name in STCAL)
    data = model.JumpData(dqflags={"GOOD": 0} | PIXEL)
    data.set_snowball_info(
        True,
        params.min_jump_area,
        params.min_sat_area,
        params.expand_factor,
        params.sat_required_snowball,
        params.min_sat_radius_extend,
        2 * params.sat_expand,  # stcal adds it to the diameter
        params.edge_size,
    )
    flags, _ = jump.flag_large_events(flags, int(_JUMP), int(_SATURATED), data)
    rows, columns, events = [], [], []
    for window, packed in zip(windows, partials, strict=True):
        grown = pack_flags(flags[0, :, window.y0 : window.y1])
        y, x = np.nonzero((grown != packed).any(axis=0))
        rows.append((y + window.y0).astype(np.int32))
        columns.append(x.astype(np.int32))
        events.append(grown[:, y, x])
    return {
        "rows": np.concatenate(rows),
        "columns": np.concatenate(columns),
        "events": np.concatenate(events, axis=1),
    }


def flag_large_events(
    events: np.ndarray,
    dq: np.ndarray,
    *,
    tile: Tile,
    exposure: Exposure,
    params: LargeEventsParams,
    measured: Mapping[str, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Flag what surrounds large events, which spread charge beyond the pixels that show a jump.

    A large event is a group of pixels that jump in one resultant, with a core that saturates in it.
    The circle around the group is grown by a factor and flagged JUMP_DET; saturated cores are grown
    by some pixels and flagged SATURATED from then on, in place of JUMP_DET. The algorithm is
    ``stcal.jump.jump.flag_large_events``, on the flags of the whole frame. The rates stay: romancal
    fits pixels with a grown jump again without the difference that leads to it.

    Parameters
    ----------
    events : ndarray (3 ceil(R/8), y, x) of uint8
        From `pack_flags`.
    dq : ndarray (y, x) of uint32

    Returns
    -------
    events : ndarray (3 ceil(R/8), y, x) of uint8
    dq : ndarray (y, x) of uint32
        With JUMP_DET and SATURATED where any resultant has them, and DO_NOT_USE where fewer than
        two good resultants are left or, by option, where anything was grown; reference pixels
        stay as they are.
    """
    window, events, dq = tile.window, events.copy(), dq.copy()
    first, last = np.searchsorted(measured["rows"], [window.y0, window.y1])
    y, x = measured["rows"][first:last], measured["columns"][first:last]
    inside = (x >= window.x0) & (x < window.x1)
    y, x = y[inside] - window.y0, x[inside] - window.x0
    grown = measured["events"][:, first:last][:, inside]
    before, after = (unpack(part, exposure.n_resultants) for part in (events[:, y, x], grown))
    events[:, y, x] = grown
    unfit = (after & (_SATURATED | _UNUSED) == 0).sum(axis=0) < 2
    if params.do_not_use:
        unfit |= (after & ~before & (_JUMP | _SATURATED)).any(axis=0)
    old = dq[y, x]
    # Saturation that has grown over a jump takes its flag away.
    new = old & ~np.where((before & _JUMP).any(axis=0), np.uint32(PIXEL["JUMP_DET"]), np.uint32(0))
    for name, where in (
        ("JUMP_DET", (after & _JUMP).any(axis=0)),
        ("SATURATED", (after & _SATURATED).any(axis=0)),
        ("DO_NOT_USE", unfit),
    ):
        new[where] |= np.uint32(PIXEL[name])
    dq[y, x] = np.where(old & _REFERENCE, old, new)
    return events, dq


def frame_bytes(exposure: Exposure) -> float:
    """Bytes that `grow_flags` holds: flags, what stcal makes of them, and twice the packed ones."""
    packed = 2 * len(PACKED) * -(-exposure.n_resultants // 8)
    return float(exposure.side**2 * (exposure.n_resultants + _LABELS + packed))


def _wanted(exposure: Exposure, params: Any, available: Callable[[str], bool]) -> bool:
    return bool(params.expand_large_events)


flags = Step(
    name="event_flags",
    kernel=pack_flags,
    reads=("groupdq",),
    writes=("events",),
    params=EventFlagsParams,
    settings={"expand_large_events": "JUMP_KW.expand_large_events"},
    when=_wanted,
)

step = Step(
    name="large_events",
    kernel=flag_large_events,
    reads=("events", "dq"),
    writes=("events", "dq"),
    params=LargeEventsParams,
    settings={
        name: f"JUMP_KW.{name}" for name in LargeEventsParams.model_fields if name != "do_not_use"
    },
    reduction=Reduction(
        windows=bands,
        partial=keep_flags,
        combine=grow_flags,
        reads=("events",),
        thin=False,
        holds=frame_bytes,
    ),
    when=_wanted,
    sets={
        "events": ("JUMP_DET", "SATURATED"),
        "dq": ("DO_NOT_USE", "SATURATED", "JUMP_DET"),
    },
    imports=STCAL,
)
