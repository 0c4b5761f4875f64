"""The report of a campaign: how good its exposures are, on the focal plane and in a table."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import manifest
from ..batch.campaign import Entry, load_campaign
from ..batch.status import NAMES, state
from ..errors import InputError
from ..io.atomic import check_target
from ..io.layout import read_layout
from ..products.quality import measure
from ..system.versions import __version__
from .exposure import report_path
from .page import Cell, Page
from .panels import CLEAN, MASKED, figure_class

log = logging.getLogger(__name__)

CENTRES: tuple[tuple[float, float], ...] = (
    *((-0.071, -0.037), (-0.071, 0.109), (-0.070, 0.240)),
    *((-0.206, -0.064), (-0.206, 0.083), (-0.206, 0.213)),
    *((-0.341, -0.129), (-0.341, 0.018), (-0.342, 0.147)),
)
"""Centres of WFI01 to WFI09 in WFI's local field angles, degrees; WFI10 to WFI18 mirror them in x.
To three decimals, as PyIMCOM has them."""
DETECTOR = 4096 * 0.11 / 3600
"""Side of a detector, degrees."""
FAR = 5.0
"""Robust standard deviations from the median at which an exposure is an outlier."""
FEWEST = 5
"""Exposures through one filter that a median is worth something for."""
LEAST_SPREAD = 0.01
"""The robust standard deviation counts as at least this part of the median."""
FAILED = ("failed", "interrupted")
MOST_ROWS = 2000
"""Of a larger campaign the table shows only what is not done, and outliers."""


@dataclass(frozen=True)
class Quantity:
    """One of the numbers by which exposures are compared.

    Attributes
    ----------
    key : str
        In the manifest's ``quality``.
    title, unit : str
    factor : float
        The unit in those of the manifest.
    form : str
        Format.
    by_filter : bool
        It depends on the filter, so that each has a focal plane of its own.
    """

    key: str
    title: str
    unit: str
    factor: float
    form: str
    by_filter: bool = False

    def text(self, value: float | None) -> str:
        """A value as it is shown."""
        return "-" if value is None else format(self.factor * value, self.form)

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


QUANTITIES = (
    Quantity("sky", "median sky", "DN/s", 1, ".4g", by_filter=True),
    Quantity("masked", "bad pixels", "%", 100, ".3g"),
    Quantity("jumps", "jump rate", "1e-6 / pixel / s", 1e6, ".3g"),
    Quantity("chi_square", "reduced chi-square", "", 1, ".3f", by_filter=True),
)


@dataclass
class Exposed:
    """An exposure of the campaign.

    Attributes
    ----------
    identity, state : str
    line : dict
        Its last line in the manifest; empty if it has none.
    quality : dict
        Empty if nothing is known.
    detector : str or None
        "WFI01" to "WFI18", if it is known.
    outliers : dict of str to float
        Key of a quantity -> robust standard deviations from the median.
    """

    identity: str
    state: str
    line: Mapping[str, Any]
    quality: Mapping[str, Any]
    detector: str | None = None
    outliers: dict[str, float] = field(default_factory=dict)

    def value(self, quantity: Quantity) -> float | None:
        """One of its numbers."""
        return self.quality.get(quantity.key)


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
    exposures = look(path)
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
    log.info("wrote %s", target)
    return target


def look(path: Path) -> list[Exposed]:
    """The exposures of a campaign, with what the manifest says of them.

    Raises
    ------
    InputError
        If the campaign file or its manifest cannot be read.
    """
    campaign = load_campaign(path)
    history = manifest.read(campaign.manifest)
    known = {line["identity"]: line for line in history.ended if line.get("quality")}
    exposures = []
    for entry in campaign.entries:
        last = history.last.get(entry.identity)
        now = state(last)
        quality = known.get(entry.identity, {}).get("quality", {}) if now == "done" else {}
        if now == "done" and last is not None and not (last.get("quality") or {}):
            quality = _measured(last) or quality
        folder = path.absolute().parent if now in FAILED else None
        detector = quality.get("detector") or _detector(entry, folder)
        exposures.append(Exposed(entry.identity, now, last or {}, quality, detector))
    return exposures


def _detector(entry: Entry, folder: Path | None) -> str | None:
    """Detector of an exposure that has no numbers: as its placeholders say, or its Level-1 file, to
    which `folder` leads, if it is given."""
    values = dict(entry.values)
    named = values.get("detector", values.get("sca", ""))
    if (found := re.fullmatch(r"(?:WFI)?0*(\d+)", named, re.IGNORECASE)) and 0 < int(found[1]) < 19:
        return f"WFI{int(found[1]):02d}"
    if folder is None:
        return None
    path = folder / os.path.expandvars(str(entry.settings.get("IN", "")))
    try:
        return read_layout(path).value("roman", "meta", "instrument", "detector")
    except InputError:
        return None


def _measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of an exposure from its L2 file, which is the first of its output."""
    for output in line.get("output", [])[:1]:
        try:
            return measure(Path(output))
        except InputError as error:
            log.warning("%s: %s", line["identity"], error)
    return {}


def mark_outliers(exposures: Sequence[Exposed]) -> None:
    """Find exposures that are far from the others through the same filter.

    Far are `FAR` robust standard deviations from the median: 1.4826 times the median absolute
    deviation, at least `LEAST_SPREAD` of the median.
    """
    for name in filters_of(exposures):
        group = [e for e in exposures if _filter(e) == name]
        for quantity in QUANTITIES:
            known = [(e, v) for e in group if (v := e.value(quantity)) is not None]
            if len(known) < FEWEST:
                continue
            middle, sigma = robust([v for _, v in known])
            for exposure, value in known:
                away = (value - middle) / sigma
                if abs(away) > FAR:
                    exposure.outliers[quantity.key] = away


def robust(values: Sequence[float]) -> tuple[float, float]:
    """Median and robust standard deviation, at least `LEAST_SPREAD` of the median."""
    middle = float(np.median(values))
    sigma = 1.4826 * float(np.median(np.abs(np.subtract(values, middle))))
    return middle, max(sigma, LEAST_SPREAD * abs(middle), 1e-12)


# -- the sections --------------------------------------------------------------------------------


def _not_done(page: Page, exposures: Sequence[Exposed]) -> None:
    bad = [e for e in exposures if e.state in FAILED]
    if not bad:
        return
    page.section("failed", "Failed")
    page.table(
        ["exposure", "state", "error"],
        [[e.identity, e.state, str(e.line.get("error") or "")] for e in bad[:MOST_ROWS]],
    )


def _focal_plane(page: Page, exposures: Sequence[Exposed]) -> None:
    page.section("focal_plane", "Focal plane")
    known = [e for e in exposures if e.quality]
    if not known:
        page.text("No exposure is done yet.")
        return
    page.text(
        f"Median over the exposures of each detector. Colours reach {FAR:g} robust standard "
        "deviations to both sides of the median of the detectors, or farther. A thick frame marks "
        "detectors with an outlier among their exposures, hatches those whose exposures have all "
        "failed; a dotted one is not in the campaign."
    )
    filters = filters_of(known)
    rest = [e for e in exposures if not e.quality]
    shown = []
    for quantity in QUANTITIES:
        for name in filters if quantity.by_filter else [""]:
            group = [e for e in known if not name or _filter(e) == name]
            several = bool(name) and len(filters) > 1
            title = _capital(f"{quantity.title}, {name}" if several else quantity.title)
            figure = focal_plane(quantity, [*group, *rest], title)
            caption = (
                f"{_capital(quantity.label)} of the 18 detectors, in WFI's local field angles."
            )
            file = f"focal_plane_{quantity.key}" + (f"_{name}" if several else "")
            shown.append((file, figure, caption))
    page.plots(shown)


def _filter(exposure: Exposed) -> str:
    return str(exposure.quality.get("optical_element"))


def filters_of(exposures: Sequence[Exposed]) -> list[str]:
    """The filters of exposures, sorted."""
    return sorted({_filter(e) for e in exposures})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def focal_plane(quantity: Quantity, exposures: Sequence[Exposed], title: str) -> Any:
    """The 18 detectors where they lie, coloured by a quantity; hatched where all has failed."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    values = by_detector(quantity, exposures)
    marked = {e.detector for e in exposures if quantity.key in e.outliers}
    idle = idle_detectors(exposures)
    figure = figure_class()(figsize=(4.8, 4.2), layout="constrained")
    ax = figure.add_subplot()
    norm = Normalize(*stretch(list(values.values())))
    shades = colormaps["cividis"]
    for number in range(1, 19):
        x, y = CENTRES[(number - 1) % 9]
        x = x if number < 10 else -x
        name = f"WFI{number:02d}"
        value = values.get(name)
        corner = x - DETECTOR / 2, y - DETECTOR / 2
        if value is None:
            text, look, ink = f"{number}\n{idle.get(name, '')}".strip(), _idle(idle.get(name)), "k"
        else:
            text = f"{number}\n{format(value, quantity.form)}"
            frame, width = ("#D55E00", 3) if name in marked else ("white", 1)
            look = {"fc": shades(norm(value)), "ec": frame, "lw": width}
            ink = "k" if norm(value) > 0.5 else "w"
        ax.add_patch(Rectangle(corner, DETECTOR, DETECTOR, **look))
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)
    ax.set(
        xlim=(-0.43, 0.43), ylim=(-0.22, 0.33), aspect="equal",
        xlabel="field angle x (deg)", ylabel="field angle y (deg)",
    )  # fmt: skip
    ax.set_title(title, fontsize=11)
    mappable = ScalarMappable(norm, shades)
    bar = figure.colorbar(mappable, ax=ax, location="bottom", shrink=0.9, aspect=30)
    bar.set_label(quantity.label)
    return figure


def _idle(state: str | None) -> dict[str, Any]:
    """How a detector without a value is drawn: not in the campaign, failed, or not done yet."""
    if state is None:
        return {"fc": "none", "ec": MASKED, "lw": 1, "ls": ":"}
    return {"fc": CLEAN, "ec": MASKED, "lw": 1, "hatch": "////" if state == "failed" else None}


def idle_detectors(exposures: Sequence[Exposed]) -> dict[str, str]:
    """Detectors of the campaign with no exposure that is done: "failed" if all have, "to do"."""
    done = {e.detector for e in exposures if e.quality}
    found: dict[str, str] = {}
    for e in exposures:
        if e.detector is not None and e.detector not in done:
            failed = e.state in FAILED and found.get(e.detector, "failed") == "failed"
            found[e.detector] = "failed" if failed else "to do"
    return found


def stretch(values: Sequence[float]) -> tuple[float, float]:
    """Ends of a scale: all values, and `FAR` robust standard deviations about their median, so that
    small differences do not look large; not below zero if no value is."""
    if not values:
        return 0.0, 1.0
    middle, sigma = robust(values)
    low, high = min(*values, middle - FAR * sigma), max(*values, middle + FAR * sigma)
    return (max(low, 0.0) if min(values) >= 0 else low), high


def by_detector(quantity: Quantity, exposures: Sequence[Exposed]) -> dict[str, float]:
    """Median of a quantity over the exposures of each detector, in the unit that is shown."""
    found: dict[str, list[float]] = {}
    for e in exposures:
        value = e.value(quantity)
        if value is not None:
            found.setdefault(str(e.detector), []).append(quantity.factor * value)
    return {name: float(np.median(values)) for name, values in found.items()}


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
            f"{_capital(quantity.label)} of every exposure; crosses are outliers.",
        )
        for quantity in QUANTITIES
    )


def strip(quantity: Quantity, exposures: Sequence[Exposed]) -> Any:
    """A quantity of every exposure against its detector, by filter."""
    figure = figure_class()(figsize=(4.8, 4.0), layout="constrained")
    ax = figure.add_subplot()
    shades = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
    marks = "osDv^<>"
    for i, name in enumerate(filters_of(exposures)):
        group = [e for e in exposures if _filter(e) == name]
        for outlier in (False, True):
            points = [
                (int(str(e.detector)[-2:]), quantity.factor * value)
                for e in group
                if (value := e.value(quantity)) is not None
                and (quantity.key in e.outliers) == outlier
            ]
            if points:
                ax.plot(
                    *zip(*points, strict=True), ls="none", color=shades[i % 7], ms=9 if outlier
                    else 4, marker="x" if outlier else marks[i % 7], mew=2 if outlier else 0.5,
                    label="_" if outlier else name,
                )  # fmt: skip
    ax.set(xlim=(0.3, 18.7), xticks=range(1, 19, 2), xlabel="detector (WFI..)")
    ax.set_ylabel(quantity.label)
    ax.set_title(_capital(quantity.title), fontsize=11)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(fontsize=9)
    return figure


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
        page.text(f"Of {len(exposures)} exposures only outliers and those that are not done.")
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
