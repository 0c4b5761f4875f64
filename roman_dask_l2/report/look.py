"""A quick look at one L2 file: rate, flags and what is left of the rate, as one picture."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..io.asdf_file import open_asdf
from .blocks import block_kinds, block_mean, combinations, kind_counts, spread
from .panels import (
    asinh_norm,
    beyond,
    colours,
    draw_flags,
    figure_class,
    flag_handles,
    per_block,
    round_ticks,
    save,
    show,
    symmetric_norm,
)
from .truth import true_rate, uniform_light

log = logging.getLogger(__name__)

CELLS = {"mean": 640, "any": 400}
"""Most cells along a panel's side; larger images are drawn in blocks of k x k pixels. Fewer for
flags, so that a single pixel can be seen."""


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
    figure = figure_class()(figsize=(18, 7.4))
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
    axes = [figure.add_axes((0.05 + 0.325 * i, 0.21, 0.28, 0.28 * 18 / 7.4)) for i in range(3)]
    _draw_rate(axes[0], rate, mask)
    _draw_flags(axes[1], dq)
    if truth_path is None:
        _draw_signal_to_noise(axes[2], rate, err, mask)
    else:
        _draw_difference(axes[2], rate, _true_rate(Path(truth_path), l2_path, rate.shape), mask)
    figure.suptitle(
        f"{l2_path.name}    {instrument['detector']}  {instrument['optical_element']}  "
        f"{rate.shape[1]} x {rate.shape[0]} pixels",
        y=0.98,
    )
    save(figure, png_path, 150)
    log.info("wrote %s", png_path)
    return png_path


def _read(path: Path, keys: tuple[str, ...]) -> list[Any]:
    """Entries at the top of an ASDF file's tree, in memory."""
    try:
        with open_asdf(path, lazy_load=False) as file:
            return [file[key] for key in keys]
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except KeyError as missing:
        raise InputError(f"{path}: has no {missing.args[0]!r}") from None
    except ValueError as error:
        raise InputError(f"{path}: not an ASDF file: {error}") from None


def _true_rate(path: Path, l2: Path, shape: tuple[int, ...]) -> np.ndarray:
    """The true rate as this image has it."""
    (truth,) = _read(path, ("truth",))
    rate = true_rate(truth, uniform_light(l2))
    if rate.shape != shape:
        raise InputError(f"{path}: the true rate has shape {rate.shape}, the L2 image {shape}")
    return rate


def _block(image: np.ndarray, statistic: str) -> int:
    """Side k of the blocks that a panel shows as one cell."""
    return -(-max(image.shape) // CELLS[statistic])


def _show_mean(
    ax: Any, image: np.ndarray, mask: np.ndarray, cmap: str, norm: Any, title: str, label: str
) -> Any:
    """Draw an image by its block means; `norm` makes the stretch of them. Returns the bar."""
    k = _block(image, "mean")
    cells = block_mean(image, mask, k)
    shown = show(ax, cells, k, cmap=colours(cmap), norm=norm(cells))
    x0, y0, width, _ = ax.get_position().bounds
    place = ax.figure.add_axes((x0 + 0.05 * width, y0 - 0.105, 0.9 * width, 0.02))
    bar = ax.figure.colorbar(shown, cax=place, orientation="horizontal", extend=beyond(shown))
    bar.set_label(label)
    ax.set_title(title + per_block(k, "mean"))
    return bar


def _draw_rate(ax: Any, rate: np.ndarray, mask: np.ndarray) -> None:
    """The rate, asinh stretch about its median."""
    label = "DN/s, asinh stretch; grey: masked"
    round_ticks(_show_mean(ax, rate, mask, "cividis", asinh_norm, "Rate", label))


def _draw_difference(ax: Any, rate: np.ndarray, truth: np.ndarray, mask: np.ndarray) -> None:
    difference = rate - truth
    middle, sigma = spread(difference[~mask])
    label = f"DN/s; pixels have median {middle:+.4f}, standard deviation {sigma:.4f}; grey: masked"
    _show_mean(ax, difference, mask, "RdBu_r", symmetric_norm, "Rate minus truth", label)


def _draw_signal_to_noise(ax: Any, rate: np.ndarray, err: np.ndarray, mask: np.ndarray) -> None:
    middle, _ = spread(rate[~mask])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (rate - np.float32(middle)) / err
    title, label = "(Rate - median) / err", "standard deviations; grey: masked"
    _show_mean(ax, ratio, mask | ~np.isfinite(ratio), "RdBu_r", symmetric_norm, title, label)


def _draw_flags(ax: Any, dq: np.ndarray) -> None:
    """A map of the kinds of flags, with the fraction of pixels that have each."""
    k = _block(dq, "any")
    draw_flags(ax, block_kinds(dq, k), k)
    ax.set_title("Flags" + per_block(k, "any"))
    ax.legend(
        handles=flag_handles(kind_counts(combinations(dq), dq.size), dq.size),
        title="pixels, part of all",
        loc="upper center",
        bbox_to_anchor=(0.5, -0.09),
        ncols=2,
        frameon=False,
        columnspacing=1.2,
        handlelength=1.2,
    )
