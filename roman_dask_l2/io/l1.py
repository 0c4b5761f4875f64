"""The Level 1 exposure: facts from its metadata, without reading a pixel."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from ..core.detector import check_side
from ..core.exposure import Exposure
from ..core.photometry import MJY_PER_SR, NOT_IMAGING
from ..errors import InputError
from .layout import Layout, read_layout

LARGEST_OFFSET = 2.0**24
"""No number of DN added on board is this large; float32 could not add it to a raw signal."""


def open_l1(path: Path, *, exclude_first: bool) -> tuple[Layout, Exposure]:
    """Describe a Level 1 file.

    Parameters
    ----------
    path : Path
        A ``ScienceRawModel`` file.
    exclude_first : bool
        EXCLUDE_FIRST of the configuration.

    Raises
    ------
    InputError
        If it cannot be read, or its cube and its metadata do not fit together.
    """
    layout = read_layout(path)
    return layout, l1_exposure(layout, exclude_first=exclude_first)


def l1_exposure(layout: Layout, *, exclude_first: bool) -> Exposure:
    """The exposure that the layout of a Level 1 file describes; see `open_l1`.

    Raises
    ------
    InputError
        If the file's cube and its metadata do not fit together.
    """
    path = layout.path
    data = layout.array("roman", "data")
    if data is None:
        raise InputError(f"{path}: no roman.data, expected a Level 1 file")
    if len(data.shape) != 3 or data.shape[1] != data.shape[2]:
        raise InputError(f"{path}: roman.data has shape {data.shape}, expected (resultants, N, N)")
    check_side(data.shape[1], str(path))
    pattern = _meta(layout, "exposure", "read_pattern")
    try:
        read_pattern = tuple(tuple(_whole(f) for f in reads) for reads in pattern)
        frame_time = float(_meta(layout, "exposure", "frame_time"))
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path}: meta.exposure.read_pattern or frame_time is not usable ({error})"
        ) from error
    if len(read_pattern) != data.shape[0]:
        raise InputError(
            f"{path}: meta.exposure.read_pattern has {len(read_pattern)} resultants, "
            f"roman.data has {data.shape[0]}"
        )
    if not 0 < frame_time < math.inf:
        raise InputError(f"{path}: meta.exposure.frame_time is {frame_time}, expected seconds > 0")
    detector = str(_meta(layout, "instrument", "detector"))
    if not (re.fullmatch("WFI[0-9]{2}", detector) and 1 <= int(detector[3:]) <= 18):
        raise InputError(f"{path}: meta.instrument.detector is {detector!r}, expected WFI01..WFI18")
    element = str(_meta(layout, "instrument", "optical_element"))
    if element not in {*MJY_PER_SR, *NOT_IMAGING}:
        raise InputError(
            f"{path}: meta.instrument.optical_element is {element!r}, expected one of "
            f"{', '.join([*MJY_PER_SR, *NOT_IMAGING])}"
        )
    guide_window, encoding_offset = _guide_window(layout), _encoding_offset(layout)
    try:
        return Exposure(
            side=data.shape[1],
            read_pattern=read_pattern,
            frame_time=frame_time,
            detector=detector,
            optical_element=element,
            guide_window=guide_window,
            encoding_offset=encoding_offset,
            exclude_first=exclude_first,
            exposure_type=str(layout.value("roman", "meta", "exposure", "type") or "WFI_IMAGE"),
        )
    except InputError as error:
        raise InputError(f"{path}: meta.exposure.{error}") from error


def _meta(layout: Layout, *key: str) -> Any:
    value = layout.value("roman", "meta", *key)
    if value is None:
        raise InputError(f"{layout.path}: no roman.meta.{'.'.join(key)}")
    return value


def _whole(value: Any) -> int:
    """The integer that a value of the metadata stands for.

    Raises
    ------
    ValueError
        If it has a fraction; TypeError or OverflowError if it is no number at all.
    """
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value} is not a whole number")
    return number


def _guide_window(layout: Layout) -> tuple[int, int, int, int] | None:
    names = ("window_xstart", "window_xstop", "window_ystart", "window_ystop")
    values = [layout.value("roman", "meta", "guide_star", name) for name in names]
    if any(v is None for v in values):
        return None
    try:
        xstart, xstop, ystart, ystop = (_whole(v) for v in values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{layout.path}: meta.guide_star.window_* are {values}, expected whole numbers"
        ) from error
    return xstart, xstop, ystart, ystop


def _encoding_offset(layout: Layout) -> float:
    """DN added on board; it has stood in both places."""
    for section in ("instrument", "exposure"):
        value = layout.value("roman", "meta", section, "data_encoding_offset")
        if value is None:
            continue
        try:
            offset = float(value)
        except (TypeError, ValueError, OverflowError):
            offset = math.inf
        if not abs(offset) < LARGEST_OFFSET or isinstance(value, bool):
            raise InputError(
                f"{layout.path}: meta.{section}.data_encoding_offset is {value!r}, "
                "expected a number of DN"
            )
        if offset > -999990:  # -999999 means "not known"
            return offset
    return 0.0
