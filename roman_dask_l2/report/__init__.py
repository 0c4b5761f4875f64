"""What people look at: reports of an exposure or a campaign, a quick look, two files compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .blocks import KINDS, block_kinds, block_mean
from .campaign import campaign_report
from .exposure import exposure_report, report_path
from .look import quicklook
from .pixel import Pixel, look_at_pixel
from .two_files import Comparison, compare_files

__all__ = [
    "Comparison",
    "Pixel",
    "KINDS",
    "block_kinds",
    "block_mean",
    "campaign_report",
    "compare_files",
    "exposure_report",
    "look_at_pixel",
    "quicklook",
    "report_path",
    "write_report",
]


def write_report(
    path: str | os.PathLike,
    out: str | os.PathLike | None = None,
    *,
    png: str | os.PathLike | None = None,
    noise: str | os.PathLike | None = None,
    pixels: Sequence[tuple[int, int]] = (),
) -> Path:
    """Write the report on whatever a file stands for.

    Parameters
    ----------
    path : path
        An L2 file, the configuration that it was made with, or a campaign file.
    out, png, noise : path, optional
    pixels : sequence of (int, int)
        As for `exposure_report`; a campaign has no noise file and no pixels.

    Returns
    -------
    Path
        The report.

    Raises
    ------
    InputError
        If a file cannot be read or written, or matplotlib is not installed.
    """
    from ..config.model import load_config
    from ..config.yaml_file import read_yaml
    from ..errors import InputError

    path = Path(path)
    try:
        with open(path, "rb") as file:
            is_asdf = file.read(5) == b"#ASDF"
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if is_asdf:
        return exposure_report(path, out, png=png, noise=noise, pixels=pixels)
    if "exposures" in read_yaml(path.absolute()):
        if noise is not None:
            raise InputError(f"--noise {noise}: {path} is a campaign file")
        if pixels:
            x, y = pixels[0]
            raise InputError(f"--pixel {x} {y}: {path} is a campaign file, expected an exposure")
        return campaign_report(path, out, png=png)
    config = load_config(path)
    if noise is None and config.NOISE is not None and os.path.exists(config.NOISE.OUT):
        noise = config.NOISE.OUT
    return exposure_report(config.OUT, out, png=png, noise=noise, pixels=pixels, config=config)
