"""Comparing the exposures of a campaign: their numbers, and which are outliers."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import manifest
from ..batch.campaign import Entry, load_campaign
from ..batch.status import find_states
from ..errors import InputError
from ..io.layout import read_layout
from ..products.quality import headers, measure
from .digits import same_digits

log = logging.getLogger(__name__)

FAR = 5.0
"""Robust standard deviations from the median at which an exposure is an outlier."""

FEWEST = 5
"""Fewest exposures through one filter whose median is meaningful."""

LEAST_SPREAD = 0.01
"""The robust standard deviation is taken to be at least this fraction of the median."""

FAILED = ("failed", "interrupted")

MOST_LAYERS = 3
"""Noise layers that get columns and charts; outliers are looked for in all."""


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
    significant : int
        Digits that are worth showing.
    by_filter : bool
        It depends on the filter, so that each has a focal plane of its own.
    layer : str
        Label of the noise layer that it belongs to.
    """

    key: str
    title: str
    unit: str
    factor: float
    significant: int
    by_filter: bool = False
    layer: str = ""

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


QUANTITIES = (
    Quantity("sky", "median sky", "DN/s", 1, 4, by_filter=True),
    Quantity("masked", "bad pixels", "%", 100, 3),
    Quantity("jumps", "jump rate", "1e-6 / pixel / s", 1e6, 3),
    Quantity("chi_square", "reduced chi-square", "", 1, 4, by_filter=True),
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
    l2 : Path or None
        Its Level 2 file, if it is done and the file is where it was made, or where the campaign
        file says.
    """

    identity: str
    state: str
    line: Mapping[str, Any]
    quality: Mapping[str, Any]
    detector: str | None = None
    outliers: dict[str, float] = field(default_factory=dict)
    l2: Path | None = None

    def value(self, quantity: Quantity) -> float | None:
        """One of its numbers, in the unit in which it is shown."""
        if quantity.layer:
            found = (self.quality.get("layers") or {}).get(quantity.layer)
        else:
            found = self.quality.get(quantity.key)
        return None if found is None else quantity.factor * found

    @property
    def start(self) -> float | None:
        """When it began, seconds since 1970, if that is known."""
        try:
            return datetime.fromisoformat(str(self.quality.get("start"))).timestamp()
        except ValueError:
            return None


def layer_quantities(exposures: Sequence[Exposed]) -> list[Quantity]:
    """The standard deviations of the noise layers of a campaign, in the order of their labels."""
    labels = dict.fromkeys(label for e in exposures for label in e.quality.get("layers") or {})
    return [
        Quantity(f"layer {label}", f"sigma of layer {label}", "DN/s", 1, 4, True, label)
        for label in labels
    ]


def texts(quantity: Quantity, exposures: Sequence[Exposed]) -> list[str]:
    """A quantity of each exposure as it is shown: with equal digits."""
    return same_digits([e.value(quantity) for e in exposures], quantity.significant)


def read_exposures(path: Path) -> list[Exposed]:
    """The exposures of a campaign, with what the manifest says of them.

    Raises
    ------
    InputError
        If the campaign file or its manifest cannot be read.
    """
    campaign = load_campaign(path)
    history = manifest.read(campaign.manifest)
    known = {line["identity"]: line for line in history.ended if line.get("quality")}
    states, _ = find_states((entry.identity for entry in campaign.entries), history)
    exposures = []
    for entry in campaign.entries:
        last, now = history.last.get(entry.identity), states[entry.identity]
        quality: Mapping[str, Any] = {}
        files: list[Path] = []
        if last is not None and last["status"] == "done":  # even if it is to be made again
            files = _files(last, entry, campaign.base)
            before = known.get(entry.identity, {}).get("quality", {})
            quality = last.get("quality") or _measured(entry.identity, files) or before
            quality = _completed(entry.identity, quality, files)
        folder = campaign.base if now in FAILED else None
        detector = quality.get("detector") or detector_of(entry, folder)
        l2 = files[0] if files else None
        exposures.append(Exposed(entry.identity, now, last or {}, quality, detector, l2=l2))
    return exposures


def _files(line: Mapping[str, Any], entry: Entry, base: Path) -> list[Path]:
    """L2 and noise file of an exposure that is done, as far as they are there: where its line says,
    or, if the campaign was moved, where its settings do."""
    noise = entry.settings.get("NOISE")
    made = [Path(output) for output in line.get("output", [])]
    l2 = _there(base, entry.settings.get("OUT"), made[:1])
    if l2 is None:
        return []
    out = noise.get("OUT") if isinstance(noise, Mapping) else None
    layers = _there(base, out, [path for path in made[1:] if path.name == Path(str(out)).name])
    return [l2] if layers is None else [l2, layers]


def _there(base: Path, meant: Any, made: Sequence[Path]) -> Path | None:
    """The first of these files that is there."""
    named = [base / os.path.expandvars(str(meant))] if meant else []
    return next((path for path in (*named, *made) if path.is_file()), None)


def detector_of(entry: Entry, folder: Path | None) -> str | None:
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


def _measured(identity: str, files: Sequence[Path]) -> dict[str, Any]:
    """The numbers of an exposure from its files, the L2 file first."""
    if not files:
        return {}
    try:
        return measure(*files[:2])
    except InputError as error:
        log.warning("%s: %s", identity, error)
        return {}


def _completed(
    identity: str, quality: Mapping[str, Any], files: Sequence[Path]
) -> Mapping[str, Any]:
    """With what older versions have not noted, as far as the files are there."""
    if not quality or not files or {"start", "layers"} <= set(quality):
        return quality
    try:
        return headers(*files[:2]) | dict(quality)
    except InputError as error:
        log.warning("%s: %s", identity, error)
        return quality


def mark_outliers(exposures: Sequence[Exposed]) -> None:
    """Find exposures that differ from the others through the same filter.

    An outlier is more than `FAR` robust standard deviations from the median: 1.4826 times the
    median absolute deviation, at least `LEAST_SPREAD` of the median.
    """
    for name in filters_of(exposures):
        group = [e for e in exposures if filter_of(e) == name]
        for quantity in (*QUANTITIES, *layer_quantities(group)):
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


def filter_of(exposure: Exposed) -> str:
    return str(exposure.quality.get("optical_element"))


def filters_of(exposures: Sequence[Exposed]) -> list[str]:
    """The filters of exposures, sorted."""
    return sorted({filter_of(e) for e in exposures})
