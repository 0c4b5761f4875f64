"""Plots of a campaign: numbers of its exposures on the focal plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .compare import FAILED, FAR, Exposed, Quantity, robust
from .digits import same_digits
from .panels import CLEAN, MASKED, figure_class

CENTRES: tuple[tuple[float, float], ...] = (
    *((-0.071, -0.037), (-0.071, 0.109), (-0.070, 0.240)),
    *((-0.206, -0.064), (-0.206, 0.083), (-0.206, 0.213)),
    *((-0.341, -0.129), (-0.341, 0.018), (-0.342, 0.147)),
)
"""Centres of WFI01 to WFI09 in WFI's local field angles, degrees; WFI10 to WFI18 mirror them in x.
To three decimals, as PyIMCOM has them."""

DETECTOR = 4096 * 0.11 / 3600
"""Side of a detector, degrees."""


def focal_plane(quantity: Quantity, exposures: Sequence[Exposed], title: str) -> Any:
    """The 18 detectors where they lie, coloured by a quantity; hatched if all exposures failed."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.patches import Rectangle

    values = by_detector(quantity, exposures)
    texts = dict(zip(values, same_digits(list(values.values()), quantity.significant), strict=True))
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
            text = f"{number}\n{texts[name]}"
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
    """Limits of a colour scale: all values, and `FAR` robust standard deviations about their
    median, so that small differences do not look large; not below zero if no value is."""
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
            found.setdefault(str(e.detector), []).append(value)
    return {name: float(np.median(values)) for name, values in found.items()}
