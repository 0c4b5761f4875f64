"""Conversion to surface brightness by the photometry table: numbers alone, no pixel changes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.detector import Window
from ..core.exposure import Exposure
from ..core.step import Params, Reduction, Step

COLUMNS = {
    "conversion_megajanskys": "photmjsr",
    "conversion_megajanskys_uncertainty": "uncertainty",
    "pixel_area": "pixelareasr",
}
"""Key of ``meta.photometry`` -> key of the table."""


def _no_window(exposure: Exposure, params: Params) -> list[Window]:
    return []


def look_up(
    partials: Sequence[Any], phot_table: Mapping[str, Any], *, exposure: Exposure
) -> Mapping[str, float | None]:
    """The entry of the exposure's optical element.

    Parameters
    ----------
    partials : sequence
        Empty: no pixel is read.
    phot_table : mapping
        Optical element -> mapping with photmjsr and uncertainty (MJy/sr per DN/s) and pixelareasr
        (sr), each a number or None.

    Returns
    -------
    mapping
        The keys of `COLUMNS`; None where the table has no number.
    """
    element = exposure.optical_element
    entry = phot_table.get(element)
    if entry is None:
        logging.getLogger(__name__).warning(
            "CALDIR.photom: no entry for %s in phot_table: meta.photometry stays empty", element
        )
        entry = {}
    found = {key: entry.get(column) for key, column in COLUMNS.items()}
    return {key: None if value is None else float(value) for key, value in found.items()}


def _no_partial() -> None:
    return None


def keep() -> tuple[()]:
    """No array is changed."""
    return ()


step = Step(
    name="photom",
    kernel=keep,
    reduction=Reduction(
        windows=_no_window,
        partial=_no_partial,
        combine=look_up,
        reads=(),
        whole={"phot_table": "photom.phot_table"},
    ),
    when=lambda exposure, params, available: available("photom.phot_table"),
    cal_step="photom",
)
