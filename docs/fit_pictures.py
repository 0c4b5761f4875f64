"""Draw the pictures of the page on ramp fits from fits.json: ``python docs/fit_pictures.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fit_tables import measured
from matplotlib.figure import Figure

IMAGES = Path(__file__).parent / "images"
BLUE, RED, GREY = "#0072B2", "#D55E00", "#777777"
STYLES = {"fixed": ("fixed weights", GREY, "s"), "likelihood": ("likelihood", BLUE, "o")}
SKIES = (0.4, 10)
TICKS = (3, 5, 8, 15, 30, 60)


def errors(found: dict[str, Any]) -> Figure:
    """Scatter and stated error against rate, and the ratio of both fits."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    rows = {fit: [r for r in found["errors"] if r["fit"] == fit] for fit in STYLES}
    rates = [r["rate"] for r in rows["fixed"]]
    for fit, (label, colour, marker) in STYLES.items():
        scatter = [r["scatter"] for r in rows[fit]]
        above.plot(
            rates, scatter, marker, ms=5, mfc="none", color=colour, label=f"{label}: scatter"
        )
        above.plot(rates, [r["err"] for r in rows[fit]], color=colour, lw=1,
                   label=f"{label}: stated error")  # fmt: skip
    ratio = [
        100 * (1 - b["scatter"] / a["scatter"])
        for a, b in zip(rows["fixed"], rows["likelihood"], strict=True)
    ]
    below.plot(rates, ratio, "o-", ms=4, lw=1, color=BLUE)
    below.axhline(0, color=GREY, lw=0.8)
    above.set(xscale="log", yscale="log", ylabel="error of the rate (DN/s)")
    below.set(xlabel="true rate (DN/s)", ylabel="likelihood\nsmaller by (%)")
    above.legend(fontsize=9)
    return figure


def cosmic_rays(found: dict[str, Any]) -> Figure:
    """Part of the pixels hit by a cosmic ray that have a right rate, against significance."""
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    panels = figure.subplots(1, len(SKIES), sharey=True)
    for ax, sky in zip(panels, SKIES, strict=True):
        for fit, (label, colour, marker) in STYLES.items():
            (row,) = [r for r in found["hits"] if r["fit"] == fit and r["rate"] == sky]
            at = [(b["low"] * b["high"]) ** 0.5 for b in row["bins"]]
            right = [100 * b["within"] for b in row["bins"]]
            flagged = [100 * b["flagged"] for b in row["bins"]]
            ax.plot(at, right, marker + "-", ms=5, color=colour, label=f"{label}: right rate")
            ax.plot(at, flagged, ls=":", color=colour, label=f"{label}: found")
        ax.axvline(8, color=RED, lw=0.8)
        ax.set(xscale="log", xlabel="significance of the cosmic ray (σ)", ylim=(-3, 103))
        ax.set_xticks(TICKS, [str(tick) for tick in TICKS])
        ax.set_xticks([], minor=True)
        ax.set_title(f"pixel of {sky:g} DN/s", fontsize=10)
    panels[0].set_ylabel("part of the pixels hit (%)")
    panels[-1].legend(fontsize=8, loc="center right")
    return figure


PICTURES = {"fit_errors": errors, "fit_cosmic_rays": cosmic_rays}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        draw(measured()).savefig(IMAGES / f"{name}.png", dpi=110, metadata={"Software": None})
