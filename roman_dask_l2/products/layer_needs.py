"""What the commands of noise layers need of the recipe and of the L2 file."""

from __future__ import annotations

from collections.abc import Sequence

from ..config.noise_commands.registry import COMMANDS
from ..config.noise_labels import Layer
from ..errors import InputError
from ..io.layout import Layout
from ..steps.ramp_params import RampFitParams
from .job import Job

PARAMS = {"ramp_fit": RampFitParams}
"""Step that commands may need -> its parameters, by which it is recognised."""


def check_needs(job: Job, l2: Layout, layers: Sequence[Layer]) -> None:
    """The recipe and the L2 file must have what the layers are made from.

    Raises
    ------
    InputError
        Naming what is missing, and the letters that need it.
    """
    for layer in layers:
        for command, _ in layer.commands:
            for name in command.needs.arrays:
                if l2.array("processinfo", name) is None:
                    raise InputError(
                        f"OUT: {job.config.OUT}: has no {name}, which {_needing(name)}; "
                        "calibrate with SLICEOUT"
                    )
    for layer in layers:
        for command, _ in layer.commands:
            for name in command.needs.steps:
                if not isinstance(job.params(name), PARAMS[name]):
                    raise InputError(
                        f"layer {layer.label!r}: {_needing(name)} the {name} step in the recipe"
                    )


def _needing(name: str) -> str:
    """All letters that need an array or a step, such as "P and O need"."""
    letters = [
        letter
        for letter, command in reversed(COMMANDS.items())
        if name in (*command.needs.arrays, *command.needs.steps)
    ]
    return " and ".join(letters) + (" need" if letters[1:] else " needs")
