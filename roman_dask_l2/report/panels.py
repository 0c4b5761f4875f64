"""Panels that draw images in cells: colours, stretches, bars. They work on axes, not figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..io.atomic import replacing
from .blocks import KINDS, percent, spread

CLEAN = "#F2F2F2"
MASKED = "#BBBBBB"


def figure_class() -> Any:
    """matplotlib's Figure.

    Raises
    ------
    InputError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "pictures need matplotlib, install it with: pip install 'roman-dask-l2[plots]'"
        ) from None
    return Figure


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write a picture, whole or not at all; its name's ending says the format.

    Raises
    ------
    InputError
        If it cannot be written, or the format is unknown.
    """
    try:
        with replacing(path) as (part,):
            figure.savefig(part, dpi=dpi)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: cannot write the picture: {reason}") from None
    except ValueError as error:  # matplotlib lists the formats that it knows
        raise InputError(f"{path}: {error}") from None


def show(ax: Any, cells: np.ndarray, k: float, at: tuple[int, int] = (0, 0), **how: Any) -> Any:
    """Draw cells of k x k pixels, axes in pixels; `at` is the first pixel's x, y."""
    x, y = at[0] - 0.5, at[1] - 0.5
    extent = (x, x + cells.shape[1] * k, y, y + cells.shape[0] * k)
    ax.set_xlabel("x (pixel)")
    ax.set_ylabel("y (pixel)")
    return ax.imshow(cells, origin="lower", extent=extent, interpolation="nearest", **how)


def colours(name: str) -> Any:
    """A colour map, grey where there is nothing."""
    from matplotlib import colormaps

    return colormaps[name].with_extremes(bad=MASKED)


def per_block(k: int, statistic: str) -> str:
    """Note on the title of a panel in blocks."""
    return "" if k == 1 else f" ({statistic} of {k} x {k} pixels)"


def asinh_norm(cells: np.ndarray) -> Any:
    """Inverse hyperbolic sine about the median, linear within two standard deviations."""
    from matplotlib.colors import FuncNorm

    middle, sigma = spread(cells)
    seen = cells[np.isfinite(cells)]
    top = float(np.percentile(seen, 99.9)) if seen.size else middle
    stretch = (
        lambda v: np.arcsinh((v - middle) / (2 * sigma)),
        lambda v: middle + 2 * sigma * np.sinh(v),
    )
    return FuncNorm(stretch, middle - 3 * sigma, max(top, middle + 5 * sigma))


def symmetric_norm(cells: np.ndarray) -> Any:
    """Linear, the same on both sides of zero."""
    from matplotlib.colors import Normalize

    limit = 4 * spread(cells)[1]
    return Normalize(-limit, limit)


def beyond(shown: Any) -> str:
    """On which sides of its scale an image has values: where a bar ends in an arrow."""
    values = np.ma.masked_invalid(shown.get_array()).compressed()
    low = values.size > 0 and bool(values.min() < shown.norm.vmin)
    high = values.size > 0 and bool(values.max() > shown.norm.vmax)
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[low, high]


def round_ticks(bar: Any, apart: float = 0.06) -> None:
    """Ticks of a bar with a stretch: round numbers that do not stand too close."""
    ticks: list[float] = []
    for tick in round_numbers(bar.vmin, bar.vmax):
        if not ticks or bar.norm(tick) - bar.norm(ticks[-1]) > apart:
            ticks.append(tick)
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.minorticks_off()


def round_numbers(low: float, high: float) -> list[float]:
    """0 and +-(1, 2, 5) x 10^n between two values, ascending."""
    steps = [float(f"{m}e{e}") for e in range(-4, 7) for m in (1, 2, 5)]
    return [v for v in [*(-s for s in reversed(steps)), 0.0, *steps] if low <= v <= high]


def draw_flags(ax: Any, kinds: np.ndarray, k: int) -> None:
    """A map of the kinds of flags."""
    from matplotlib.colors import BoundaryNorm, ListedColormap

    shades = [CLEAN, *(colour for _, colour, _ in KINDS)]
    norm = BoundaryNorm(np.arange(len(shades) + 1) - 0.5, len(shades))
    show(ax, kinds, k, cmap=ListedColormap(shades), norm=norm)


def flag_handles(counts: Sequence[int], pixels: int) -> list[Any]:
    """Entries of a legend for `draw_flags`, with the counts of `kind_counts`, of so many pixels."""
    from matplotlib.patches import Patch

    shades = [CLEAN, *(colour for _, colour, _ in KINDS)]
    labels = ["none", *(label for label, _, _ in KINDS)]
    return [
        Patch(facecolor=colour, edgecolor="0.5", label=f"{label}: {n}, {percent(n / pixels)}")
        for label, colour, n in zip(labels, shades, counts, strict=True)
    ]
