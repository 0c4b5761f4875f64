"""Comparing the exposures of a campaign: their numbers, and which are outliers."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..batch import manifest
from ..batch.campaign import Entry, load_campaign
from ..batch.status import find_states
from ..errors import InputError
from ..io.layout import read_layout
from ..products.quality import measure

log = logging.getLogger(__name__)

FAR = 5.0
"""Robust standard deviations from the median at which an exposure is an outlier."""

FEWEST = 5
"""Fewest exposures through one filter whose median is meaningful."""

LEAST_SPREAD = 0.01
"""The robust standard deviation is taken to be at least this fraction of the median."""

FAILED = ("failed", "interrupted")


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
        if last is not None and last["status"] == "done":  # even if it is to be made again
            quality = known.get(entry.identity, {}).get("quality", {})
            if not last.get("quality"):
                quality = _measured(last) or quality
        folder = path.absolute().parent if now in FAILED else None
        detector = quality.get("detector") or detector_of(entry, folder)
        exposures.append(Exposed(entry.identity, now, last or {}, quality, detector))
    return exposures


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


def _measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of an exposure from its L2 file, which is the first of its output."""
    for output in line.get("output", [])[:1]:
        try:
            return measure(Path(output))
        except InputError as error:
            log.warning("%s: %s", line["identity"], error)
    return {}


def mark_outliers(exposures: Sequence[Exposed]) -> None:
    """Find exposures that differ from the others through the same filter.

    An outlier is more than `FAR` robust standard deviations from the median: 1.4826 times the
    median absolute deviation, at least `LEAST_SPREAD` of the median.
    """
    for name in filters_of(exposures):
        group = [e for e in exposures if filter_of(e) == name]
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


def filter_of(exposure: Exposed) -> str:
    return str(exposure.quality.get("optical_element"))


def filters_of(exposures: Sequence[Exposed]) -> list[str]:
    """The filters of exposures, sorted."""
    return sorted({filter_of(e) for e in exposures})
