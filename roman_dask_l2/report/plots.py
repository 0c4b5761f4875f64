"""The plots of a report, a figure each. Units on every axis; colours after Okabe and Ito."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.dq import GROUP
from ..core.exposure import Exposure
from .image_scan import ERRORS, RATES, ImageScan
from .panels import (
    asinh_norm,
    beyond,
    colours,
    draw_flags,
    figure_class,
    flag_handles,
    per_block,
    round_ticks,
    show,
    symmetric_norm,
)
from .replay import Jumps, Ramp

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"
WIDE, HIGH = 4.8, 4.4
"""Inches. Small, so that text can still be read on a phone."""
SQUARE = 5.5
"""Height of a figure with a square image and a bar below it."""


def new(title: str, height: float = HIGH) -> tuple[Any, Any]:
    """A figure with one set of axes."""
    figure = figure_class()(figsize=(WIDE, height), layout="constrained")
    ax = figure.add_subplot()
    ax.set_title(title, fontsize=11)
    return figure, ax


def _image(
    title: str, cells: np.ndarray, k: float, cmap: str, norm: Any, label: str, **how: Any
) -> Any:
    figure, ax = new(title, SQUARE)
    shown = show(ax, cells, k, cmap=colours(cmap), norm=norm, **how)
    return figure, _bar(figure, ax, shown, label)


def _bar(figure: Any, ax: Any, shown: Any, label: str) -> Any:
    """A bar below an image: beside it, it would make the image smaller."""
    bar = figure.colorbar(
        shown, ax=ax, extend=beyond(shown), location="bottom", shrink=0.9, aspect=30
    )
    bar.set_label(label)
    return bar


def rate(seen: ImageScan) -> Any:
    """The whole rate image, asinh stretch."""
    figure, bar = _image(
        "Rate" + per_block(seen.k, "mean"), seen.rate, seen.k, "cividis", asinh_norm(seen.rate),
        "DN/s, asinh stretch; grey: masked",
    )  # fmt: skip
    round_ticks(bar, 0.09)
    return figure


def zoom(part: np.ndarray, mask: np.ndarray, at: tuple[int, int]) -> Any:
    """Part of the rate image, pixel by pixel."""
    cells = np.where(mask, np.nan, part)
    figure, bar = _image(
        "Rate, pixel by pixel", cells, 1, "cividis", asinh_norm(cells),
        "DN/s, asinh stretch; grey: masked", at=(at[1], at[0]),
    )  # fmt: skip
    round_ticks(bar, 0.09)
    return figure


def flags(seen: ImageScan, counts: Sequence[int], pixels: int) -> Any:
    """Map of the kinds of flags, with pixels of each."""
    figure, ax = new("Flags" + per_block(seen.k, "any"), 6.0)
    draw_flags(ax, seen.kinds, seen.k)
    figure.legend(
        handles=flag_handles(counts, pixels), title="pixels, part of all",
        loc="outside lower center", ncols=2, frameon=False, fontsize=8.5, handlelength=1.2,
    )  # fmt: skip
    return figure


def error(
    seen: ImageScan, curve: np.ndarray | None, shortened: Sequence[np.ndarray], sky: float
) -> Any:
    """Density of pixels over rate and error, medians, and the expected curves (rates, errors): of
    a full ramp, and of those that saturation has shortened."""
    from matplotlib.colors import LogNorm

    figure, ax = new("Error against rate")
    used = np.nonzero(seen.errors)
    norm = LogNorm(1, max(int(seen.errors.max()), 2))
    shown = ax.scatter(
        10 ** (RATES[used[0]] + np.diff(RATES)[0] / 2),
        10 ** (ERRORS[used[1]] + np.diff(ERRORS)[0] / 2),
        c=seen.errors[used], s=4, marker="s", lw=0, cmap="cividis", norm=norm,
    )  # fmt: skip
    figure.colorbar(shown, ax=ax, label="pixels per bin", shrink=0.85)
    middle, medians = _medians(seen.full)
    ax.plot(
        middle, medians, "o", ms=3.5, mfc="white", mec="black", mew=0.8, label="median, unsaturated"
    )
    if curve is not None:
        ax.plot(*curve, color=RED, lw=2, label="expected")
    for i, short in enumerate(shortened):
        label = "_" if i else "expected, saturating"
        ax.plot(*short, color=RED, lw=0.8, ls="--", label=label)
    if np.isfinite(sky) and sky > 0:
        ax.axvline(sky, color=GREY, ls=":", label="background")
    ax.set(xscale="log", yscale="log", xlabel="rate with sky (DN/s)", ylabel="error (DN/s)")
    if len(used[0]):
        ax.set_xlim(10 ** RATES[used[0].min()], 10 ** RATES[used[0].max() + 1])
        ax.set_ylim(10 ** ERRORS[used[1].min()] / 1.1, 10 ** ERRORS[used[1].max() + 1] * 1.1)
    ax.legend(fontsize=9, loc="upper left")
    return figure


def _medians(counts: np.ndarray, group: int = 8, least: int = 30) -> tuple[Any, Any]:
    """Median error in groups of bins of the rate that have enough pixels."""
    n = len(counts) // group
    sums = counts[: n * group].reshape(n, group, -1).sum(axis=1)
    centre = 10 ** (RATES[:-1][: n * group].reshape(n, group).mean(axis=1) + np.diff(RATES)[0] / 2)
    good = sums.sum(axis=1) >= least
    total = np.cumsum(sums, axis=1)
    at = np.argmax(total >= total[:, -1:] / 2, axis=1)
    return centre[good], 10 ** ((ERRORS[at] + ERRORS[at + 1]) / 2)[good]


def chi_square(counts: np.ndarray, degrees: int) -> Any:
    """Histogram of chi-square per degree of freedom, with what it should be."""
    from scipy.special import gammaln

    figure, ax = new("Chi-square of the ramp fits")
    values = np.arange(len(counts), dtype=np.uint16).view(np.float16).astype(float)
    edges = np.linspace(0, 5, 101)
    inside = counts > 0
    heights, _ = np.histogram(values[inside], edges, weights=counts[inside])
    width = edges[1]
    total = max(counts.sum(), 1)
    ax.stairs(heights / total / width, edges, fill=True, color=BLUE, alpha=0.6, label="pixels")
    x = np.linspace(0.01, 5, 400)
    half = degrees / 2
    log_density = half * np.log(half) - gammaln(half) + (half - 1) * np.log(x) - half * x
    label = f"{degrees} degrees of freedom"
    ax.plot(x, np.exp(log_density), color=RED, lw=2, label=label)
    ax.set(xlabel="chi-square per degree of freedom", ylabel="density", xlim=(0, 5))
    ax.legend(fontsize=9)
    return figure


def sky_model(model: np.ndarray, k: float, order: int) -> Any:
    """The polynomial that was subtracted."""
    from matplotlib.colors import Normalize

    low, high = float(model.min()), float(model.max())
    high = high if high > low else low + 1e-6
    title = f"Sky model of order {order}"
    return _image(title, model, k, "cividis", Normalize(low, high), "DN/s")[0]


def sky_residual(cells: np.ndarray, edges: np.ndarray, title: str, about: float) -> Any:
    """Medians of the image in large cells."""
    figure, ax = new(title, SQUARE)
    ax.set_aspect("equal")
    values = cells - about
    shown = ax.pcolormesh(
        edges - 0.5, edges - 0.5, values, cmap=colours("RdBu_r"), norm=symmetric_norm(values)
    )
    _bar(figure, ax, shown, "DN/s" if about == 0 else f"DN/s above {about:.4g}")
    ax.set(xlabel="x (pixel)", ylabel="y (pixel)")
    return figure


def ramp(one: Ramp, exposure: Exposure) -> Any:
    """Signal of one pixel against time, its flags, and the fitted slope. Of a hot one also the
    signal with its dark current, which would flatten the other in one panel."""
    title = {"hot": "Hot pixel", "normal": "Normal pixel", "saturating": "Saturating pixel"}
    named = f"{title.get(one.kind, 'Cosmic ray')}: x = {one.x}, y = {one.y}"
    t = exposure.tbar
    if one.kind != "hot" or one.with_dark is None:
        figure, ax = new(named)
        _draw_ramp(ax, one, exposure)
    else:
        figure, (above, ax) = _two(named)
        above.plot(t, one.with_dark, "D", ms=5, mfc="none", mec="black", label="with dark current")
        above.set_ylabel("linear signal (DN)")
        above.legend(fontsize=9)
        _draw_ramp(ax, one, exposure)
    ax.set_xlabel("time since reset (s)")
    return figure


def _two(title: str) -> tuple[Any, tuple[Any, Any]]:
    """A figure with two sets of axes, one above the other, with the same horizontal axis."""
    figure = figure_class()(figsize=(WIDE, HIGH), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.set_title(title, fontsize=11)
    return figure, (above, below)


def _draw_ramp(ax: Any, one: Ramp, exposure: Exposure) -> None:
    t, s = exposure.tbar, one.signal
    j = np.arange(len(t))
    saturated = one.flags & GROUP["SATURATED"] != 0
    if one.unused is None:
        used = (j >= exposure.start) & (j < one.end)
        if one.excluded is not None:
            used &= ~one.excluded
        segments = [j[used]] if used.any() else []
    else:
        segments = one.segments()
        used = np.isin(j, np.concatenate([j[:0], *segments]))
    rest = ~used & ~saturated
    ax.plot(t[used], s[used], "o", color=BLUE, label="used", zorder=3)
    ax.plot(t[rest], s[rest], "o", mfc="white", mec=GREY, label="not used", zorder=3)
    ax.plot(t[saturated], s[saturated], "s", color=ORANGE, label="saturated", zorder=3)
    if one.dropped is None:
        jump = one.flags & GROUP["JUMP_DET"] != 0
        ax.plot(t[jump], s[jump], "^", ms=11, mfc="none", mec=GREEN, mew=2, label="jump follows")
        _draw_fit(ax, [t], segments, one, exposure)
    else:
        for n, i in enumerate(np.flatnonzero(one.dropped)):
            label = "_" if n else "jump, taken out"
            ax.plot(t[i : i + 2], s[i : i + 2], color=GREEN, lw=2, ls="--", label=label)
        _draw_fit(ax, [t[segment] for segment in segments], segments, one, exposure)
    if np.isfinite(s).any():
        room = 0.08 * max(np.nanmax(s) - np.nanmin(s), 10.0)
        ax.set_ylim(np.nanmin(s) - room, np.nanmax(s) + room)
    ax.set_ylabel("linear signal (DN)")
    handles, labels = ax.get_legend_handles_labels()
    kept = [i for i, h in enumerate(handles) if len(h.get_xdata())]
    ax.legend([handles[i] for i in kept], [labels[i] for i in kept], fontsize=9)


def _draw_fit(
    ax: Any, times: list[np.ndarray], segments: list[np.ndarray], one: Ramp, exposure: Exposure
) -> None:
    """A line of the fitted slope through the mean of each segment's resultants, at `times`."""
    for n, (at, segment) in enumerate(zip(times, segments, strict=False)):
        t, s = exposure.tbar[segment], one.signal[segment]
        line = s.mean() + one.rate * (at - t.mean())
        label = "_" if n else f"fit: {one.rate:.4g} DN/s"
        ax.plot(at, line, color=RED, lw=1.5, label=label)


def reference_rows(rows: np.ndarray) -> Any:
    """Row offsets (R, N) that the reference output gave."""
    figure, ax = new("Reference pixels: offset of each row", 5.6)
    n_res, side = rows.shape
    k = max(side // 512, 1)
    cells = rows[:, : side // k * k].reshape(n_res, -1, k).mean(axis=2).T
    limit = max(4 * float(np.std(rows)), 1e-6)
    extent = (-0.5, n_res - 0.5, -0.5, side - 0.5)
    shown = ax.imshow(
        cells, origin="lower", aspect="auto", extent=extent, cmap="RdBu_r", vmin=-limit,
        vmax=limit, interpolation="nearest",
    )  # fmt: skip
    figure.colorbar(shown, ax=ax, extend=beyond(shown), label="DN")
    note = "" if k == 1 else f", means of {k} rows"
    ax.set(xlabel="resultant", ylabel=f"row (pixel{note})", xticks=range(n_res))
    return figure


def reference_channels(low: np.ndarray, slope: np.ndarray, side: int) -> Any:
    """Middle of each channel's line, and its change from bottom to top, by resultant."""
    figure = figure_class()(figsize=(WIDE, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    rise = slope * side
    for ax, values, title in (
        (top, low + rise / 2, "Reference pixels: channels, in the middle"),
        (bottom, rise, "Reference pixels: channels, top minus bottom"),
    ):
        limit = max(float(np.abs(values).max()), 1e-6)
        shown = ax.imshow(
            values.T, origin="lower", aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit,
            interpolation="nearest",
        )  # fmt: skip
        figure.colorbar(shown, ax=ax, label="DN")
        ax.set_title(title, fontsize=11)
        ax.set_ylabel("readout channel")
        ax.yaxis.get_major_locator().set_params(integer=True)
    bottom.set(xlabel="resultant", xticks=range(len(low)))
    return figure


def jump_times(jumps: Jumps, exposure: Exposure) -> Any:
    """Jumps per pixel and second between one resultant and the next."""
    figure, ax = new("When jumps happen")
    t, start = exposure.tbar, exposure.start
    spans = np.diff(t)[start:]
    scale = 1e6 / (jumps.pixels * spans)
    counts = jumps.counts[start:]
    ax.stairs(counts * scale, t[start:], fill=True, color=GREEN, alpha=0.6, label="found")
    middle = t[start:-1] + spans / 2
    ax.errorbar(middle, counts * scale, np.sqrt(counts) * scale, fmt="none", ecolor="black", lw=1)
    mean = 1e6 * counts.sum() / (jumps.pixels * spans.sum())
    ax.axhline(mean, color=RED, lw=1.5, label=f"mean {mean:.3g}")
    ax.set(xlabel="time since reset (s)", ylabel="jumps (10$^{-6}$ / pixel / s)", ylim=(0, None))
    ax.legend(fontsize=9, loc="upper center", ncols=2)
    return figure


def layer_image(label: str, cells: np.ndarray, k: int) -> Any:
    """A noise layer in cells."""
    title = f"Layer {label}" + per_block(k, "mean")
    return _image(title, cells, k, "RdBu_r", symmetric_norm(cells), "DN/s")[0]


def layer_histogram(
    label: str, counts: np.ndarray, edges: np.ndarray, expected: np.ndarray | None
) -> Any:
    """Distribution of a layer's quiet pixels, and the one that the errors predict."""
    figure, ax = new(f"Layer {label}: distribution")
    density = counts / max(counts.sum(), 1) / np.diff(edges)
    ax.stairs(density, edges, fill=True, color=BLUE, alpha=0.6, label="layer")
    if expected is not None:
        ax.plot((edges[1:] + edges[:-1]) / 2, expected, color=RED, lw=2, label="expected")
    top = max(float(density.max()), 1e-6)
    ax.set(xlabel="noise (DN/s)", ylabel="density (1/(DN/s))")
    if density.any():
        ax.set(yscale="log", ylim=(top * 1e-5, top * 3))
    ax.legend(fontsize=9)
    return figure


def layer_spectrum(
    label: str, frequency: np.ndarray, power: np.ndarray, curves: Mapping[str, np.ndarray]
) -> Any:
    """Power spectrum along rows, within readout channels."""
    figure, ax = new(f"Layer {label}: power spectrum")
    ax.plot(frequency, power, "o", ms=3.5, color=BLUE, label="layer")
    styles = [{"color": RED, "lw": 2}, {"color": GREY, "lw": 1.5, "ls": "--"}]
    for (name, values), style in zip(curves.items(), styles, strict=False):
        ax.plot(frequency, values, label=name, **style)
    ax.set(
        xscale="log", yscale="log", xlabel="frequency along rows (cycles/pixel)",
        ylabel="power ((DN/s)$^2$ / (cycle/pixel))",
    )  # fmt: skip
    both = [power, *curves.values()]
    low, high = min(float(v.min()) for v in both), max(float(v.max()) for v in both)
    if low > 0:
        ax.set_ylim(low / 1.5, high * 1.8)
    ax.legend(fontsize=9)
    return figure


def footprint(outline: np.ndarray, corners: np.ndarray, centre: tuple[float, float]) -> Any:
    """The edge of the active array on the sky, in arcminutes from its centre.

    Parameters
    ----------
    outline : ndarray (2, n)
        Eastward and northward offsets, arcmin.
    corners : ndarray (2, 4)
        Of the pixels (0, 0), (n - 1, 0), (n - 1, n - 1), (0, n - 1).
    centre : tuple of float
        Right ascension and declination, degrees.
    """
    figure, ax = new("Footprint", 4.8)
    ax.fill(*outline, color=BLUE, alpha=0.15)
    ax.plot(*outline, color=BLUE, lw=2)
    ax.plot(0, 0, "+", color="black")
    names = ("x = y = 0", "x max", "both max", "y max")
    for (east, north), name in zip(corners.T, names, strict=True):  # outside, on white
        ax.annotate(name, (1.18 * east, 1.18 * north), ha="center", va="center", fontsize=9)
    reach = 1.38 * float(np.abs(outline).max())
    ax.set(
        xlim=(reach, -reach), ylim=(-reach, reach), aspect="equal",
        xlabel=f"east of right ascension {centre[0]:.5f} deg (arcmin)",
        ylabel=f"north of declination {centre[1]:+.5f} deg (arcmin)",
    )  # fmt: skip
    return figure


def bars(title: str, seconds: Mapping[str, float], label: str, of: str) -> Any:
    """Where time went, by what `of` names."""
    figure, ax = new(title, 1.3 + 0.3 * len(seconds))
    names = list(seconds)[::-1]
    shown = ax.barh(names, [seconds[n] for n in names], color=BLUE)
    ax.bar_label(shown, fmt="%.2f", padding=3, fontsize=9)
    ax.margins(x=0.15)
    ax.set(xlabel=label, ylabel=of)
    return figure
