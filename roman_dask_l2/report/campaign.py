"""The report of a campaign: how good its exposures are, on the focal plane and in a table."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..batch.status import NAMES, what_happened
from ..io.atomic import check_target
from ..system.versions import __version__
from .compare import (
    FAILED,
    FAR,
    FEWEST,
    LEAST_SPREAD,
    QUANTITIES,
    Exposed,
    Quantity,
    filter_of,
    filters_of,
    mark_outliers,
    read_exposures,
)
from .exposure import report_path
from .focal_plane import focal_plane, strip
from .page import Cell, Page, capital
from .panels import figure_class

log = logging.getLogger(__name__)

MOST_ROWS = 2000
"""Rows of the table; for a larger campaign it shows only outliers and what is not done."""


def campaign_report(
    path: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    png: str | os.PathLike | None = None,
) -> Path:
    """Write a report on a campaign: one HTML file with everything in it.

    The numbers come from the manifest. For an exposure whose line has none, because it was found
    finished or done by an older version, they are taken from its L2 file.

    Parameters
    ----------
    path : path
        The campaign file.
    out : path, optional
        Default: beside the campaign file, ``NAME_report.html``.
    png : path, optional
        Folder for each picture as PNG; made if need be.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        If matplotlib is not installed, or a file cannot be read or written.
    """
    figure_class()
    path = Path(path)
    target = report_path(path) if out is None else Path(out)
    check_target(target)
    exposures = read_exposures(path)
    mark_outliers(exposures)
    page = Page(path.name, f"{len(exposures)} exposures")
    count = Counter(e.state for e in exposures)
    page.cards([(name, str(count[name])) for name in NAMES if count[name] or name == "done"])
    _not_done(page, exposures)
    _focal_plane(page, exposures)
    _spread(page, exposures)
    _outliers(page, exposures)
    _table(page, exposures)
    page.text(f"Report by roman-dask-l2 {__version__}.")
    page.write(target, None if png is None else Path(png))
    log.debug("wrote %s", target)
    return target


def _not_done(page: Page, exposures: Sequence[Exposed]) -> None:
    bad = [e for e in exposures if e.state in FAILED]
    if not bad:
        return
    names = [state for state in FAILED if any(e.state == state for e in bad)]
    page.section("failed", capital(" and ".join(names)))
    page.table(
        ["exposure", "state", "error"],
        [[e.identity, e.state, what_happened(e.state, e.line)] for e in bad[:MOST_ROWS]],
    )


def _focal_plane(page: Page, exposures: Sequence[Exposed]) -> None:
    page.section("focal_plane", "Focal plane")
    known = [e for e in exposures if e.quality]
    if not known:
        page.text("No exposure is done yet.")
        return
    page.text(
        f"Median over the exposures of each detector. The colour scale reaches {FAR:g} robust "
        "standard deviations to either side of the median of the detectors, or farther. A thick "
        "frame marks detectors with an outlier among their exposures, hatching those whose "
        "exposures have all failed, a dotted frame those that are not in the campaign."
    )
    filters = filters_of(known)
    rest = [e for e in exposures if not e.quality]
    shown = []
    for quantity in QUANTITIES:
        for name in filters if quantity.by_filter else [""]:
            group = [e for e in known if not name or filter_of(e) == name]
            several = bool(name) and len(filters) > 1
            title = capital(f"{quantity.title}, {name}" if several else quantity.title)
            figure = focal_plane(quantity, [*group, *rest], title)
            caption = f"{capital(quantity.label)} of the 18 detectors, in WFI's local field angles."
            file = f"focal_plane_{quantity.key}" + (f"_{name}" if several else "")
            shown.append((file, figure, caption))
    page.plots(shown)


def _spread(page: Page, exposures: Sequence[Exposed]) -> None:
    page.section("spread", "All exposures")
    known = [e for e in exposures if e.quality]
    if not known:
        page.text("No exposure is done yet.")
        return
    page.plots(
        (
            f"exposures_{quantity.key}",
            strip(quantity, known),
            f"{capital(quantity.label)} of every exposure; crosses mark outliers.",
        )
        for quantity in QUANTITIES
    )


def _outliers(page: Page, exposures: Sequence[Exposed]) -> None:
    page.section("outliers", "Outliers")
    page.text(
        f"More than {FAR:g} robust standard deviations from the median of the exposures through "
        f"the same filter, where there are at least {FEWEST}. Robust standard deviation: 1.4826 "
        f"times the median absolute deviation, at least {100 * LEAST_SPREAD:g} % of the median."
    )
    rows = [
        (abs(away), [
            e.identity, quantity.title, quantity.text(e.value(quantity)), quantity.unit,
            f"{away:+.1f}",
        ])
        for e in exposures
        for quantity in QUANTITIES
        if (away := e.outliers.get(quantity.key)) is not None
    ]  # fmt: skip
    if not rows:
        page.text("None.")
        return
    rows.sort(key=lambda row: -row[0])
    page.table(["exposure", "what", "value", "unit", "deviations"], [row for _, row in rows])


def _table(page: Page, exposures: Sequence[Exposed]) -> None:
    page.section("exposures", "Table")
    shown = list(exposures)
    if len(shown) > MOST_ROWS:
        shown = [e for e in shown if e.state != "done" or e.outliers]
        page.text(f"Only outliers and what is not done, of {len(exposures)} exposures.")
    names = ["exposure", "state", "detector", "filter", *(q.label for q in QUANTITIES)]
    page.table(
        [*names, "seconds"],
        [
            [
                e.identity,
                Cell(e.state, e.state in FAILED),
                e.detector or "-",
                str(e.quality.get("optical_element", "-")),
                *(_cell(e, q) for q in QUANTITIES),
                f"{e.line['seconds']:.1f}" if "seconds" in e.line else "-",
            ]
            for e in sorted(shown, key=lambda e: e.state == "done" and not e.outliers)
        ],
    )


def _cell(exposure: Exposed, quantity: Quantity) -> Cell:
    """A number; an outlier is marked by an arrow too, not by colour alone."""
    text, away = quantity.text(exposure.value(quantity)), exposure.outliers.get(quantity.key)
    if away is None:
        return Cell(text)
    return Cell(f"{'▲' if away > 0 else '▼'} {text}", mark=True)
