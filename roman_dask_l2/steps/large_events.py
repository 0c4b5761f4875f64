"""Large events (snowballs): flags of jumps and of saturated cores, grown by stcal's algorithm."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from ..core import bits
from ..core.detector import BAND, Window
from ..core.dq import GROUP, PIXEL
from ..core.exposure import Exposure
from ..core.step import PACKED, Params, Reduction, Step, Tile
from ..system.foreign import load

STCAL = ("stcal.jump.jump", "stcal.jump.jump_class")
"""Modules of the algorithm, and of its parameters."""
_JUMP, _SATURATED, _UNUSED = (np.uint8(GROUP[name]) for name in PACKED)
_REFERENCE = np.uint32(PIXEL["REFERENCE_PIXEL"])
SQUARE = 512
"""Side of the squares of the frame that are looked at one after the other, pixels."""
_LABELS = 10
"""Bytes per pixel of the frame that looking for events needs, measured."""
_WHOLE = 28
"""Bytes per pixel that stcal needs beside the flags, measured."""


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
    return np.concatenate([bits.pack(groupdq, GROUP[name]) for name in PACKED])


def unpack(events: np.ndarray, n_resultants: int) -> np.ndarray:
    """The flags (R, ...) of uint8 that `pack_flags` has packed."""
    found = np.zeros((n_resultants, *events.shape[1:]), np.uint8)
    for name, packed in zip(PACKED, np.split(events, len(PACKED)), strict=True):
        found |= bits.unpack(packed, n_resultants) * np.uint8(GROUP[name])
    return found


def bands(exposure: Exposure, params: LargeEventsParams) -> list[Window]:
    """Bands of rows that cover the frame."""
    n = exposure.side
    return [Window(y, min(y + BAND, n), 0, n) for y in range(0, n, BAND)]


def keep_flags(events: np.ndarray) -> bytes:
    """The packed flags of a band, compressed: most pixels have none."""
    return zlib.compress(events.tobytes(), 1)


def grow_flags(
    partials: Sequence[bytes], exposure: Exposure, params: LargeEventsParams
) -> Mapping[str, np.ndarray]:
    """Grow the flags of the whole frame.

    stcal works on cut-outs, which are large enough to hold all events that reach into a square of
    the frame: what it makes of one square does not depend on what is elsewhere. Where the edge of
    the detector counts (`edge_size`), it gets the frame at once.

    Returns
    -------
    mapping
        ``rows``, ascending, and ``columns`` (n,) of int32 on the full frame, and ``events``, what
        `pack_flags` would give there, (3 ceil(R/8), n) of uint8.
    """
    n = exposure.side
    stack = Stack(partials, exposure, bands(exposure, params))
    whole = Window(0, n, 0, n)
    if params.edge_size:
        cuts = {whole: whole}
    else:
        cuts = cut_outs(event_boxes(stack.any_flag(), params), n, params)
    found = [_grow(cut, square, stack, params) for square, cut in cuts.items()]
    found = found or [_grow(Window(0, 2, 0, 2), Window(0, 2, 0, 2), stack, params)]  # nothing
    rows, columns, events = (np.concatenate(each, axis=-1) for each in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    return {"rows": rows[order], "columns": columns[order], "events": events[:, order]}


class Stack:
    """The packed flags of the frame, band by band."""

    def __init__(
        self, partials: Sequence[bytes], exposure: Exposure, windows: Sequence[Window]
    ) -> None:
        self.exposure, self._windows, self._partials = exposure, windows, partials
        self._recent: dict[int, np.ndarray] = {}
        self._planes = len(PACKED) * -(-exposure.n_resultants // 8)

    def _band(self, i: int) -> np.ndarray:
        found = np.frombuffer(zlib.decompress(self._partials[i]), np.uint8)
        return found.reshape(self._planes, *self._windows[i].shape)

    def read(self, window: Window) -> np.ndarray:
        """Packed flags (3 ceil(R/8), y, x) on a window."""
        wanted = [i for i, w in enumerate(self._windows) if w.intersection(window) is not None]
        self._recent = {i: band for i, band in self._recent.items() if i in wanted}
        out = np.empty((self._planes, *window.shape), np.uint8)
        for i in wanted:
            if i not in self._recent:
                self._recent[i] = self._band(i)
            both = self._windows[i].intersection(window)
            assert both is not None
            place = both.within(self._windows[i])
            out[(..., *both.within(window))] = self._recent[i][(..., *place)]
        return out

    def any_flag(self) -> np.ndarray:
        """1 where any resultant has JUMP_DET, 2 where any has SATURATED, 3 for both, (N, N)."""
        found = np.zeros((self.exposure.side,) * 2, np.uint8)
        for i, window in enumerate(self._windows):
            jump, saturated, _ = np.split(self._band(i), len(PACKED))
            found[window.slices] = jump.any(axis=0) + 2 * saturated.any(axis=0).astype(np.uint8)
        return found


def event_boxes(flags: np.ndarray, params: LargeEventsParams) -> np.ndarray:
    """Boxes (n, 4) around connected pixels that have flags, as windows are written.

    Single pixels with jumps alone are no events.
    """
    from scipy import ndimage  # slow to import

    labels, _ = ndimage.label(flags, np.ones((3, 3), int))
    boxes = []
    for y, x in ndimage.find_objects(labels):
        single = y.stop - y.start == x.stop - x.start == 1
        if not single or params.min_jump_area <= 1 or flags[y.start, x.start] > 1:
            boxes.append((y.start, y.stop, x.start, x.stop))
    return np.array(boxes, int).reshape(-1, 4)


def cut_outs(boxes: np.ndarray, side: int, params: LargeEventsParams) -> dict[Window, Window]:
    """The squares of the frame that events reach, each with the cut-out that decides about it."""
    height, width = boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]
    radius = np.hypot(height, width) / 2 * max(params.expand_factor, 1)
    reach = np.ceil(radius).astype(int) + params.sat_expand + 3
    grown = boxes + np.stack([-reach, reach, -reach, reach], axis=1)

    def meeting(areas: np.ndarray, w: Sequence[int]) -> np.ndarray:
        rows = (areas[:, 0] < w[1]) & (areas[:, 1] > w[0])
        return rows & (areas[:, 2] < w[3]) & (areas[:, 3] > w[2])

    def union(w: Sequence[int], areas: np.ndarray) -> list[int]:
        every = np.vstack([np.array(w)[np.newaxis], areas])
        low, high = every.min(axis=0), every.max(axis=0)
        return [int(low[0]), int(high[1]), int(low[2]), int(high[3])]

    found = {}
    for y in range(0, side, SQUARE):
        for x in range(0, side, SQUARE):
            square = Window(y, min(y + SQUARE, side), x, min(x + SQUARE, side))
            near = meeting(grown, square)
            if near.any():
                # Whole are all events that reach the square, and what lies within their reach.
                area = union(square, grown[near])
                area = union(area, boxes[meeting(boxes, area)])
                found[square] = _squared(area, side)
    return found


def _squared(area: Sequence[int], side: int) -> Window:
    """A square of the frame that holds what there is of `area`, since stcal takes the last column
    for the last row; it begins at even rows and columns, so that halves are rounded alike."""
    y0, x0 = (max(area[i], 0) // 2 * 2 for i in (0, 2))
    y1, x1 = (min(area[i], side) for i in (1, 3))
    size = -(-max(y1 - y0, x1 - x0) // 2) * 2
    y0, x0 = min(y0, side - size), min(x0, side - size)
    return Window(y0, y0 + size, x0, x0 + size)


def _grow(
    cut: Window, square: Window, stack: Stack, params: LargeEventsParams
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and packed flags of the pixels of a square whose flags grow."""
    packed = stack.read(cut)
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
    flags = unpack(packed, stack.exposure.n_resultants)[np.newaxis]
    flags, _ = jump.flag_large_events(flags, int(_JUMP), int(_SATURATED), data)
    inner = square.within(cut)
    grown = pack_flags(flags[(0, slice(None), *inner)])
    y, x = np.nonzero((grown != packed[(..., *inner)]).any(axis=0))
    rows, columns = (y + square.y0).astype(np.int32), (x + square.x0).astype(np.int32)
    return rows, columns, grown[:, y, x]


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


def frame_bytes(exposure: Exposure, params: LargeEventsParams) -> float:
    """Bytes that are held while flags grow: the packed flags, and those of the frame or of a
    cut-out with what stcal makes of them."""
    r, size = exposure.n_resultants, exposure.side**2
    packed = len(PACKED) * -(-r // 8) * size
    at_once = size if params.edge_size else min(size, (2 * SQUARE) ** 2)
    return float(packed + _LABELS * size + (r + _WHOLE) * at_once)


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
