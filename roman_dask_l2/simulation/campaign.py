"""Several simulated exposures of one detector, with shared reference files and a campaign file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import InputError
from .options import DITHER
from .settings import Simulation
from .simulate import simulate

CAMPAIGN = "campaign.yaml"


def simulate_exposures(
    directory: str | os.PathLike,
    exposures: int,
    *,
    seed: int = 1,
    cal: str | os.PathLike | None = None,
    **options: Any,
) -> Path:
    """Simulate dithered exposures of one field, and a campaign file that calibrates them.

    Parameters
    ----------
    directory : path
        Exposure i goes to the folder i in it, from 1 on.
    exposures : int
        How many.
    seed : int
        Of the first exposure, of the sky and the dithers, and if it is not given of the detector;
        exposure i has ``seed + i - 1``.
    cal : path, optional
        Folder of the reference files, see `simulate`. Default: ``cal`` in `directory`.
    **options
        As for `simulate`.

    Returns
    -------
    Path
        The campaign file.

    Raises
    ------
    InputError
        For options that cannot be.
    """
    if exposures < 1:
        raise InputError(f"exposures {exposures}: expected at least 1")
    folder = Path(directory)
    cal = folder / "cal" if cal is None else Path(cal)
    shared: dict[str, Any] = {"detector_seed": seed, "sky_seed": seed, "cal": cal} | options
    made: list[Simulation] = [
        simulate(
            folder / str(i), seed=seed + i - 1, dither=_dither(seed, i, shared["side"]), **shared
        )
        for i in range(1, exposures + 1)
    ]
    path = folder / CAMPAIGN
    path.write_text(yaml.safe_dump(_campaign(folder, made[0]), sort_keys=False))
    return path


def _dither(seed: int, number: int, side: int) -> tuple[float, float]:
    """None for the first; half as far as it may be for the others."""
    if number == 1:
        return 0.0, 0.0
    reach = DITHER / 2 * side
    y, x = np.random.default_rng([seed, number]).uniform(-reach, reach, 2)
    return float(y), float(x)


def _campaign(folder: Path, first: Simulation) -> dict[str, Any]:
    """The first exposure's configuration with its number replaced by a placeholder."""
    settings = yaml.safe_load(first.config.read_text())
    if "FITSWCS" in settings:
        settings["FITSWCS"] = "{obs}/wcs.txt"
    settings["OUT"] = "l2/exposure_{obs}.asdf"
    settings["CALDIR"] = {key: os.path.relpath(path, folder) for key, path in first.caldir.items()}
    del settings["IN"]
    return {"template": settings, "exposures": {"glob": "{obs:d}/l1.asdf"}}
