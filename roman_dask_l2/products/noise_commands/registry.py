"""The drawing of each command of the layer language."""

from __future__ import annotations

from . import own_sky, pearson, poisson, read_noise
from .drawing import Drawing

DRAWINGS: dict[str, Drawing] = {
    "R": read_noise.drawing,
    "O": pearson.drawing,
    "P": poisson.drawing,
    "S": own_sky.drawing,
}
"""Letter -> drawing, for each letter of `roman_dask_l2.config.noise_commands` that acts."""
