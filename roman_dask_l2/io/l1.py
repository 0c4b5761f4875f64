"""The Level 1 exposure: facts from its metadata, without reading a pixel."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ..core.detector import check_side
from ..core.exposure import Exposure
from ..core.photometry import MJY_PER_SR, NOT_IMAGING
from ..errors import InputError
from .layout import Layout, read_layout


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
        read_pattern = tuple(tuple(int(f) for f in reads) for reads in pattern)
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
    if not (detector[:3] == "WFI" and detector[3:].isdigit() and 1 <= int(detector[3:]) <= 18):
        raise InputError(f"{path}: meta.instrument.detector is {detector!r}, expected WFI01..WFI18")
    element = str(_meta(layout, "instrument", "optical_element"))
    if element not in {*MJY_PER_SR, *NOT_IMAGING}:
        raise InputError(
            f"{path}: meta.instrument.optical_element is {element!r}, expected one of "
            f"{', '.join([*MJY_PER_SR, *NOT_IMAGING])}"
        )
    try:
        return Exposure(
            side=data.shape[1],
            read_pattern=read_pattern,
            frame_time=frame_time,
            detector=detector,
            optical_element=element,
            guide_window=_guide_window(layout),
            encoding_offset=_encoding_offset(layout),
            exclude_first=exclude_first,
        )
    except InputError as error:
        raise InputError(f"{path}: meta.exposure.{error}") from error


def _meta(layout: Layout, *key: str) -> Any:
    value = layout.value("roman", "meta", *key)
    if value is None:
        raise InputError(f"{layout.path}: no roman.meta.{'.'.join(key)}")
    return value


def _guide_window(layout: Layout) -> tuple[int, int, int, int] | None:
    names = ("window_xstart", "window_xstop", "window_ystart", "window_ystop")
    values = [layout.value("roman", "meta", "guide_star", name) for name in names]
    if any(v is None for v in values):
        return None
    try:
        xstart, xstop, ystart, ystop = (int(v) for v in values)
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
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{layout.path}: meta.{section}.data_encoding_offset is {value!r}, "
                "expected a number"
            ) from error
        if offset > -999990:  # -999999 means "not known"
            return offset
    return 0.0
