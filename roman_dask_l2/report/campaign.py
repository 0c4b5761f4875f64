"""The report of a campaign: how good its exposures are, in pictures, charts and a table."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from ..batch.status import NAMES, what_happened
from ..io.atomic import check_target
from ..system.versions import __version__
from .chart import MOST_DOTS, Dot, chart
from .compare import (
    FAILED,
    FAR,
    FEWEST,
    LEAST_SPREAD,
    MOST_LAYERS,
    QUANTITIES,
    Exposed,
    Quantity,
    filter_of,
    filters_of,
    layer_quantities,
    mark_outliers,
    read_exposures,
    texts,
)
from .digits import Axis, counting_axis, number_axis, same_digits, time_axis
from .exposure import report_path
from .focal_plane import focal_plane, stretch
from .page import Cell, Page, capital
from .panels import figure_class

log = logging.getLogger(__name__)

MOST_ROWS = 2000
"""Rows of the table; for a larger campaign it shows only outliers and what is not done."""
MOST_NAMED = 5
"""Outliers that the text below a chart names."""
SCALE = (
    f"The scale reaches at least {FAR:g} robust standard deviations (at least "
    f"{100 * FAR * LEAST_SPREAD:g} %) to either side of the median."
)
Links = Mapping[str, str]
"""Identity of an exposure -> where its own report is, from the page."""


def campaign_report(
    path: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    png: str | os.PathLike | None = None,
) -> Path:
    """Write a report on a campaign: one HTML file with everything in it.

    The numbers come from the manifest. For an exposure whose line has none, because it was found
    finished or done by an older version, they are taken from its files. Reports of exposures that
    are there, beside their L2 files, are linked to.

    Parameters
    ----------
    path : path
        The campaign file.
    out : path, optional
        Default: beside the campaign file, ``NAME_report.html``.
    png : path, optional
        Folder for each picture as PNG, each chart as SVG; made if need be.

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
    links = links_of(exposures, target)
    layers = layer_quantities(exposures)
    shown = [*QUANTITIES, *layers[:MOST_LAYERS]]
    _not_done(page, exposures)
    _focal_plane(page, exposures)
    _spread(page, exposures, shown, links)
    if layers[MOST_LAYERS:]:
        rest = ", ".join(quantity.layer for quantity in layers[MOST_LAYERS:])
        page.text(f"Outliers are looked for in further noise layers too: {rest}.")
    _outliers(page, exposures, [*QUANTITIES, *layers], links)
    _table(page, exposures, shown, links)
    page.text(f"Report by roman-dask-l2 {__version__}.")
    page.write(target, None if png is None else Path(png))
    log.debug("wrote %s", target)
    return target


def links_of(exposures: Sequence[Exposed], target: Path) -> dict[str, str]:
    """Where the reports of exposures are, relative to the page `target`; of those that are there.

    The page and the reports can be moved together.
    """
    folder, links = os.path.abspath(target.parent), {}
    for e in exposures:
        if e.l2 is not None and (report := report_path(e.l2)).is_file():
            links[e.identity] = quote(Path(os.path.relpath(report, folder)).as_posix())
    return links


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
        "Median over the exposures of each detector. A thick frame marks detectors with an "
        "outlier among their exposures, hatching those whose exposures have all failed, a dotted "
        "frame those that are not in the campaign."
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
            what = f"{capital(quantity.label)} of the 18 detectors, in WFI's local field angles."
            caption = f"{what} {SCALE}"
            file = f"focal_plane_{quantity.key}" + (f"_{name}" if several else "")
            shown.append((file, figure, caption))
    page.plots(shown)


def _spread(
    page: Page, exposures: Sequence[Exposed], quantities: Sequence[Quantity], links: Links
) -> None:
    page.section("spread", "All exposures")
    known = [e for e in exposures if e.quality]
    if not known:
        page.text("No exposure is done yet.")
        return
    linked = " A click leads to the report of the exposure, if there is one." if links else ""
    page.text(
        "Against the place in the order of the campaign, and, where they are known, the times at "
        f"which the exposures began. Colour and shape tell filters apart.{linked}"
    )
    if len(known) > MOST_DOTS:
        page.text(f"There are more than {MOST_DOTS} exposures: only outliers say which they are.")
    starts = {e.start for e in known if e.start is not None}
    charts = []
    for quantity in quantities:
        if not any(e.value(quantity) is not None for e in known):
            continue
        said = dict(zip((e.identity for e in known), texts(quantity, known), strict=True))
        y = number_axis(*limits(quantity, known), capital(quantity.title), quantity.unit)
        title, file = capital(quantity.title), f"exposures_{_plain(quantity)}"
        place = {e.identity: float(i) for i, e in enumerate(exposures, 1)}
        dots = _dots(quantity, known, place, said, links)
        x = counting_axis(len(exposures), "exposure")
        charts.append(
            (file, chart(dots, x, y, f"{title} of every exposure"), _told(quantity, known))
        )
        if len(starts) > 1:
            charts.append(_against_time(quantity, known, y, said, links))
    page.charts(charts)


def _against_time(
    quantity: Quantity, known: Sequence[Exposed], y: Axis, said: Mapping[str, str], links: Links
) -> tuple[str, str, str]:
    """Name, chart and caption of a quantity against time."""
    starts = {e.identity: e.start for e in known if e.start is not None}
    dots = _dots(quantity, known, starts, said, links)
    x = time_axis(list(starts.values()), "start (UTC)")
    title = f"{capital(quantity.title)} against the start of the exposure"
    missing = len(known) - len(starts)
    rest = f" {missing} exposures do not say when they began." if missing else ""
    return f"times_{_plain(quantity)}", chart(dots, x, y, title), f"{title}. {SCALE}{rest}"


def _plain(quantity: Quantity) -> str:
    """A quantity in the name of a file."""
    return "".join(c if c.isalnum() else "_" for c in quantity.key)


def _dots(
    quantity: Quantity,
    exposures: Sequence[Exposed],
    places: Mapping[str, float],
    said: Mapping[str, str],
    links: Links,
) -> list[Dot]:
    """A dot for each exposure whose value and place are known."""
    dots = []
    for e in exposures:
        value, place = e.value(quantity), places.get(e.identity)
        if value is None or place is None:
            continue
        away = e.outliers.get(quantity.key)
        far = "" if away is None else f", outlier: {away:+.1f} robust standard deviations"
        text = f"{e.identity}: {f'{said[e.identity]} {quantity.unit}'.strip()}{far}"
        href = links.get(e.identity, "")
        dots.append(Dot(place, value, text, filter_of(e), away is not None, href))
    return dots


def limits(quantity: Quantity, exposures: Sequence[Exposed]) -> tuple[float, float]:
    """Ends of the scale of a chart: those of `stretch` for all filters, and a little more."""
    ends: list[float] = []
    for name in filters_of(exposures):
        group = [e for e in exposures if filter_of(e) == name]
        values = [v for e in group if (v := e.value(quantity)) is not None]
        ends += stretch(values) if values else ()
    low, high = min(ends), max(ends)
    if high - low < 1e-9:  # all are zero
        return 0.0, 1.0
    margin = 0.03 * (high - low)
    return low - margin * (low != 0), high + margin


def _told(quantity: Quantity, exposures: Sequence[Exposed]) -> str:
    """What a chart shows, in words."""
    parts = []
    for name in filters_of(exposures):
        group = [e for e in exposures if filter_of(e) == name]
        values = [v for e in group if (v := e.value(quantity)) is not None]
        if not values:
            continue
        given = [min(values), max(values), float(np.median(values))]
        low, high, middle = same_digits(given, quantity.significant)
        of = f"{len(values)} exposure{'s' * (len(values) > 1)}"
        parts.append(f"{of} through {name}: {low} to {high}, median {middle}")
    far = [e.identity for e in exposures if quantity.key in e.outliers]
    named = ", ".join(far[:MOST_NAMED]) + f" and {len(far) - MOST_NAMED} more" * (
        len(far) > MOST_NAMED
    )
    outliers = f"Outliers: {named}." if far else "No outliers."
    return f"{capital(quantity.label)}. {'; '.join(parts)}. {outliers} {SCALE}"


def _outliers(
    page: Page, exposures: Sequence[Exposed], quantities: Sequence[Quantity], links: Links
) -> None:
    page.section("outliers", "Outliers")
    page.text(
        f"More than {FAR:g} robust standard deviations from the median of the exposures through "
        f"the same filter, where there are at least {FEWEST}. Robust standard deviation: 1.4826 "
        f"times the median absolute deviation, at least {100 * LEAST_SPREAD:g} % of the median."
    )
    rows: list[tuple[float, list[str | Cell]]] = [
        (abs(away), [
            Cell(e.identity, href=links.get(e.identity, "")), quantity.title, text, quantity.unit,
            f"{away:+.1f}",
        ])
        for quantity in quantities
        for e, text in zip(exposures, texts(quantity, exposures), strict=True)
        if (away := e.outliers.get(quantity.key)) is not None
    ]  # fmt: skip
    if not rows:
        page.text("None.")
        return
    rows.sort(key=lambda row: -row[0])
    page.table(["exposure", "what", "value", "unit", "deviations"], [row for _, row in rows])


def _table(
    page: Page, exposures: Sequence[Exposed], quantities: Sequence[Quantity], links: Links
) -> None:
    page.section("exposures", "Table")
    shown = list(exposures)
    if len(shown) > MOST_ROWS:
        shown = [e for e in shown if e.state != "done" or e.outliers]
        page.text(f"Only outliers and what is not done, of {len(exposures)} exposures.")
    shown.sort(key=lambda e: e.state == "done" and not e.outliers)
    names = ["exposure", "state", *(q.label for q in quantities), "detector", "filter", "seconds"]
    seconds = same_digits([e.line.get("seconds") for e in shown], 3)
    columns: list[Sequence[str | Cell]] = [
        [Cell(e.identity, href=links.get(e.identity, "")) for e in shown],
        [Cell(e.state, e.state in FAILED) for e in shown],
        *(
            [_cell(e, q, t) for e, t in zip(shown, texts(q, shown), strict=True)]
            for q in quantities
        ),
        [e.detector or "-" for e in shown],
        [str(e.quality.get("optical_element", "-")) for e in shown],
        seconds,
    ]
    page.table(names, zip(*columns, strict=True))


def _cell(exposure: Exposed, quantity: Quantity, text: str) -> Cell:
    """A number; an outlier is marked by an arrow too, not by colour alone."""
    away = exposure.outliers.get(quantity.key)
    if away is None:
        return Cell(text)
    return Cell(f"{'▲' if away > 0 else '▼'} {text}", mark=True)
