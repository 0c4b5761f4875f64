"""All commands of the layer language, in the order in which they act."""

from __future__ import annotations

from . import comment, own_sky, pearson, poisson, read_noise
from .command import Command

COMMANDS: dict[str, Command] = {
    module.command.letter: module.command
    for module in (read_noise, pearson, poisson, own_sky, comment)
}
"""Letter -> command. `roman_dask_l2.products.noise_commands.registry` has the drawing of each."""
