"""Sections of an exposure's report on single pixels: what each step did to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..config.model import Config, load_config
from ..errors import InputError
from .image_scan import L2
from .layers import folder_of
from .page import Page
from .pixel import Pixel, figures_of, look_at_pixel

Places = Sequence[tuple[int, int]]
"""Columns and rows (x, y) of the active array, from 0."""


def look_at_pixels(l2: L2, places: Places, config: Config | None = None) -> list[Pixel]:
    """Run the recipe of an image again on some of its pixels.

    Parameters
    ----------
    l2 : L2
    places : sequence of (int, int)
    config : Config, optional
        Default: the configuration in the image; the folder to which its paths are relative is
        found from the image's own path.

    Raises
    ------
    InputError
        If a pixel is not there, or a file that is needed.
    """
    if not places:
        return []
    wanted = list(dict.fromkeys(places))
    for x, y in wanted:
        if not (0 <= x < l2.side and 0 <= y < l2.side):
            raise InputError(f"--pixel {x} {y}: no such pixel, expected 0 to {l2.side - 1}")
    try:
        if config is None:
            config = load_config(l2.info.get("config", {}), base=folder_of(l2))
        return [look_at_pixel(config, x, y) for x, y in wanted]
    except InputError as error:
        raise InputError(
            f"--pixel: {l2.layout.path} cannot be made again: {problem}"
            for problem in error.problems
        ) from None


def pixel_section(page: Page, pixel: Pixel) -> None:
    """One pixel: ramp and neighbourhood, what each step did, and the fit."""
    key = f"pixel_{pixel.x}_{pixel.y}"
    page.section(key, f"Pixel x = {pixel.x}, y = {pixel.y}")
    flags = ", ".join(pixel.flags) or "none"
    fit = ", ".join(f"{name} {value:.5g}" for name, value in pixel.fit.items())
    page.text(f"Flags: {flags}. Fit: {fit}.")
    ramp, around = figures_of(pixel)
    page.plots([
        (f"{key}_ramp", ramp, "Linear signal with the fit, and what the fit leaves."),
        (f"{key}_around", around, "Rate of the neighbours; crosses are masked pixels."),
    ])  # fmt: skip
    page.table(
        ["step", "sets", "makes"],
        [
            [
                after.step,
                ", ".join(after.flags) or "-",
                ", ".join(f"{name} {value:.5g}" for name, value in after.values.items())
                or ("ramp" if after.signal is not None else "-"),
            ]
            for after in pixel.steps
        ],
    )
    page.table(*_ramp_table(pixel))
    page.pre("All of it as text", "\n".join(pixel.lines()))


def _ramp_table(pixel: Pixel) -> tuple[list[str], list[list[str]]]:
    """Resultants, the signal after each step that changes it, and the residuals of the fit."""
    e = pixel.exposure
    changed = [after for after in pixel.steps if after.signal is not None]
    names = ["resultant", "time (s)", "reads", *(f"{after.step} (DN)" for after in changed)]
    columns: list[list[str]] = [
        [str(j) for j in range(e.n_resultants)],
        _fixed(e.tbar),
        [str(int(n)) for n in e.n_reads],
        *(_fixed(after.signal) for after in changed),
        _fixed(pixel.residuals),
    ]
    return [*names, "residual (DN)"], [list(row) for row in zip(*columns, strict=True)]


def _fixed(values: Any) -> list[str]:
    """Numbers of a column to a hundredth, as the command ``pixel`` prints them."""
    return [f"{v:z.2f}" if np.isfinite(v) else "-" for v in np.asarray(values, float)]
