"""A quick look at one L2 file: rate, flags and what is left of the rate, as one picture."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from .dq import PIXEL
from .errors import InputError

log = logging.getLogger(__name__)

CELLS = {"mean": 640, "any": 400}
"""Most cells along a panel's side; larger images are drawn in blocks of k x k pixels. Fewer for
flags, so that a single pixel can be seen."""

KINDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("do not use", "#000000", ("DO_NOT_USE",)),
    ("saturated", "#E69F00", ("SATURATED",)),
    (
        "hot, dead, ..",
        "#D55E00",
        ("DEAD", "HOT", "WARM", "LOW_QE", "TELEGRAPH", "NON_SCIENCE", "OTHER_BAD_PIXEL"),
    ),
    (
        "no correction",
        "#0072B2",
        ("NO_FLAT_FIELD", "NO_GAIN_VALUE", "NO_LIN_CORR", "NO_SAT_CHECK"),
    ),
    ("jump", "#009E73", ("JUMP_DET",)),
    ("guide window", "#56B4E9", ("GW_AFFECTED_DATA",)),
    ("other", "#CC79A7", tuple(PIXEL)),
)
"""What the flags' panel tells apart: label, colour, flags. The first that fits colours a cell.

The colours (Okabe and Ito) can be told apart by people who do not see red or green.
"""
CLEAN = "#F2F2F2"
MASKED = "#BBBBBB"


def quicklook(
    l2_path: str | os.PathLike,
    truth_path: str | os.PathLike | None = None,
    png_path: str | os.PathLike | None = None,
) -> Path:
    """Draw rate, flags, and rate minus truth of an L2 file.

    Parameters
    ----------
    l2_path : path
    truth_path : path, optional
        Truth file of the simulation that the exposure comes from. Without it the third panel shows
        how many standard deviations the rate is above its median.
    png_path : path, optional
        Default: the L2 file's name with ``.png``.

    Returns
    -------
    Path
        The picture.

    Raises
    ------
    InputError
        If matplotlib is not installed, or a file cannot be read or is not what it should be.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "pictures need matplotlib, install it with: pip install 'roman-dask-l2[plots]'"
        ) from None
    l2_path = Path(l2_path)
    png_path = l2_path.with_suffix(".png") if png_path is None else Path(png_path)
    roman, mask = _read(l2_path, ("roman", "mask"))
    try:
        rate = np.asarray(roman.get("data_withsky", roman["data"]), np.float32)
        dq, err = np.asarray(roman["dq"]), np.asarray(roman["err"], np.float32)
        instrument = roman["meta"]["instrument"]
    except KeyError as missing:
        raise InputError(f"{l2_path}: not an L2 image, it has no roman.{missing.args[0]}") from None
    mask = np.asarray(mask) | ~np.isfinite(rate)
    figure = Figure(figsize=(18, 7.4))
    axes = [figure.add_axes((0.05 + 0.325 * i, 0.21, 0.28, 0.28 * 18 / 7.4)) for i in range(3)]
    _draw_rate(axes[0], rate, mask)
    _draw_flags(axes[1], dq)
    if truth_path is None:
        _draw_signal_to_noise(axes[2], rate, err, mask)
    else:
        _draw_difference(axes[2], rate, _true_rate(Path(truth_path), rate.shape), mask)
    for ax in axes:
        ax.set_xlabel("x (pixel)")
        ax.set_ylabel("y (pixel)")
    figure.suptitle(
        f"{l2_path.name}    {instrument['detector']}  {instrument['optical_element']}  "
        f"{rate.shape[1]} x {rate.shape[0]} pixels",
        y=0.98,
    )
    try:
        figure.savefig(png_path, dpi=150)
    except OSError as error:
        raise InputError(f"{png_path}: cannot write the picture: {error.strerror}") from None
    log.info("wrote %s", png_path)
    return png_path


def _read(path: Path, keys: tuple[str, ...]) -> list[Any]:
    """Entries at the top of an ASDF file's tree, in memory."""
    import asdf

    try:
        with asdf.open(path, memmap=False, lazy_load=False) as file:
            return [file[key] for key in keys]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except KeyError as missing:
        raise InputError(f"{path}: has no {missing.args[0]!r}") from None
    except ValueError as error:
        raise InputError(f"{path}: not an ASDF file: {error}") from None


def _true_rate(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    (truth,) = _read(path, ("truth",))
    rate = np.asarray(truth["rate"], np.float32)
    if rate.shape != shape:
        raise InputError(f"{path}: the true rate has shape {rate.shape}, the L2 image {shape}")
    return rate


# -- blocks --------------------------------------------------------------------------------------


def _block(image: np.ndarray, statistic: str) -> int:
    """Side k of the blocks that a panel shows as one cell."""
    return -(-max(image.shape) // CELLS[statistic])


def _in_blocks(image: np.ndarray, k: int) -> np.ndarray:
    """View (y, k, x, k) of an image as k x k blocks; what is left over at the far edges is cut."""
    ny, nx = (size // k for size in image.shape)
    return image[: ny * k, : nx * k].reshape(ny, k, nx, k)


def block_mean(image: np.ndarray, mask: np.ndarray, k: int) -> np.ndarray:
    """Mean over the unmasked pixels of each k x k block, NaN where there are none."""
    good = ~_in_blocks(mask, k)
    total = np.where(good, _in_blocks(image, k), np.float32(0)).sum(axis=(1, 3))
    with np.errstate(invalid="ignore"):
        return total / good.sum(axis=(1, 3), dtype=np.float32)


def block_kinds(dq: np.ndarray, k: int) -> np.ndarray:
    """1 + index of the first of `KINDS` that any pixel of each k x k block has; 0 for none."""
    blocks = _in_blocks(dq, k)
    flags = np.bitwise_or.reduce(np.bitwise_or.reduce(blocks, axis=3), axis=1)
    kinds = np.zeros(flags.shape, np.uint8)
    for i, (_, _, names) in reversed(list(enumerate(KINDS, 1))):
        kinds[flags & _bits(names) != 0] = i
    return kinds


def _bits(names: tuple[str, ...]) -> np.uint32:
    return np.uint32(sum(PIXEL[name] for name in names))


# -- panels --------------------------------------------------------------------------------------


def _spread(values: np.ndarray) -> tuple[float, float]:
    """Median and robust standard deviation of the finite values; (0, 1) if there are none."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, middle, high = np.percentile(values, [15.87, 50, 84.13])
    return float(middle), float(high - low) / 2 or 1.0


def _show(ax: Any, cells: np.ndarray, k: int, **how: Any) -> Any:
    """Draw cells of k x k pixels, axes in pixels."""
    extent = (-0.5, cells.shape[1] * k - 0.5, -0.5, cells.shape[0] * k - 0.5)
    return ax.imshow(cells, origin="lower", extent=extent, interpolation="nearest", **how)


def _show_mean(
    ax: Any, image: np.ndarray, mask: np.ndarray, cmap: str, norm: Any, title: str, label: str
) -> Any:
    """Draw an image by its block means; `norm` makes the stretch of them. Returns the bar."""
    from matplotlib import colormaps

    k = _block(image, "mean")
    cells = block_mean(image, mask, k)
    colours = colormaps[cmap].with_extremes(bad=MASKED)
    shown = _show(ax, cells, k, cmap=colours, norm=norm(cells))
    x0, y0, width, _ = ax.get_position().bounds
    place = ax.figure.add_axes((x0 + 0.05 * width, y0 - 0.105, 0.9 * width, 0.02))
    bar = ax.figure.colorbar(shown, cax=place, orientation="horizontal", extend="both")
    bar.set_label(label)
    ax.set_title(title + _per_block(k, "mean"))
    return bar


def _per_block(k: int, statistic: str) -> str:
    return "" if k == 1 else f" ({statistic} of {k} x {k} pixels)"


def _draw_rate(ax: Any, rate: np.ndarray, mask: np.ndarray) -> None:
    """The rate, asinh stretch about its median."""
    from matplotlib.colors import FuncNorm

    def norm(cells: np.ndarray) -> Any:
        middle, sigma = _spread(cells)
        seen = cells[np.isfinite(cells)]
        top = float(np.percentile(seen, 99.9)) if seen.size else middle
        stretch = (
            lambda v: np.arcsinh((v - middle) / (2 * sigma)),
            lambda v: middle + 2 * sigma * np.sinh(v),
        )
        return FuncNorm(stretch, middle - 3 * sigma, max(top, middle + 5 * sigma))

    label = "DN/s, asinh stretch; grey: masked"
    bar = _show_mean(ax, rate, mask, "cividis", norm, "Rate", label)
    ticks: list[float] = []
    for tick in _round_numbers(bar.vmin, bar.vmax):
        if not ticks or bar.norm(tick) - bar.norm(ticks[-1]) > 0.06:
            ticks.append(tick)
    bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
    bar.minorticks_off()


def _round_numbers(low: float, high: float) -> list[float]:
    """0 and +-(1, 2, 5) x 10^n between two values, ascending."""
    steps = [float(f"{m}e{e}") for e in range(-4, 7) for m in (1, 2, 5)]
    return [v for v in [*(-s for s in reversed(steps)), 0.0, *steps] if low <= v <= high]


def _symmetric(cells: np.ndarray) -> Any:
    from matplotlib.colors import Normalize

    limit = 4 * _spread(cells)[1]
    return Normalize(-limit, limit)


def _draw_difference(ax: Any, rate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> None:
    difference = rate - truth
    middle, sigma = _spread(difference[~mask])
    label = f"DN/s; pixels have median {middle:+.4f}, standard deviation {sigma:.4f}; grey: masked"
    _show_mean(ax, difference, mask, "RdBu_r", _symmetric, "Rate minus truth", label)


def _draw_signal_to_noise(ax: Any, rate: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
    middle, _ = _spread(rate[~mask])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (rate - np.float32(middle)) / err
    title, label = "(Rate - median) / err", "standard deviations; grey: masked"
    _show_mean(ax, ratio, mask | ~np.isfinite(ratio), "RdBu_r", _symmetric, title, label)


def _draw_flags(ax: Any, dq: np.ndarray) -> None:
    """A map of the kinds of flags, with the fraction of pixels that have each."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    colours = [CLEAN, *(colour for _, colour, _ in KINDS)]
    norm = BoundaryNorm(np.arange(len(colours) + 1) - 0.5, len(colours))
    k = _block(dq, "any")
    _show(ax, block_kinds(dq, k), k, cmap=ListedColormap(colours), norm=norm)
    ax.set_title("Flags" + _per_block(k, "any"))
    parts, known = [np.count_nonzero(dq == 0) / dq.size], np.uint32(0)
    labels = ["none", *(label for label, _, _ in KINDS)]
    for _, _, names in KINDS:
        bits = _bits(names) & ~known  # "other" is what no kind before it has
        known |= bits
        parts.append(np.count_nonzero(dq & bits) / dq.size)
    ax.legend(
        handles=[
            Patch(facecolor=colour, edgecolor="0.5", label=f"{label}  {100 * part:.2f} %")
            for label, colour, part in zip(labels, colours, parts, strict=True)
        ],
        title="part of all pixels",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.09),
        ncols=3,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.2,
    )
