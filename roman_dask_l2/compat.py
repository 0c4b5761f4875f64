"""The functions of romanimpreprocess under their own names, so that scripts change one import.

``from romanimpreprocess.L1_to_L2.gen_cal_image import calibrateimage`` becomes
``from roman_dask_l2.compat import calibrateimage``. The numbers are those of the default recipe;
``config | {"GRAPH": "romanimpreprocess_1.0"}`` gives the package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .products.level2 import calibrate


def calibrateimage(config: Mapping[str, Any] | str | Path) -> None:
    """Calibrate the exposure of a configuration and write its files.

    Parameters
    ----------
    config : mapping, str or Path
        The configuration as ``yaml.safe_load`` gives it, or its file. Relative paths of a mapping
        start from the working directory.

    Raises
    ------
    InputError
        If the configuration or a file cannot be used.

    Notes
    -----
    Writes the Level-2 file OUT, whose arrays (N-8, N-8) are in DN/s; see `calibrate`.
    """
    calibrate(config)


def generate_all_noise(config: Mapping[str, Any] | str | Path) -> None:
    """Make a configuration's noise layers, after ``calibrateimage(config | {'SLICEOUT': True})``.

    Parameters
    ----------
    config : mapping, str or Path
        As for `calibrateimage`.

    Raises
    ------
    InputError
        If the configuration or a file cannot be used, or OUT was not made from it.

    Notes
    -----
    Writes the file ``NOISE.OUT`` with the layers (L, N-8, N-8), DN/s; see `generate_noise`.
    """
    from .products.noise_layers import generate_noise

    generate_noise(config)
