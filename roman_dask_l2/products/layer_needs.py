"""What the commands of noise layers need of the recipe and of the L2 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..config.noise_commands.command import Command, Needs
from ..config.noise_commands.registry import COMMANDS
from ..config.noise_labels import Layer
from ..errors import InputError
from ..io.layout import Layout
from ..steps.likelihood_params import LikelihoodParams
from ..steps.ramp_params import RampFitParams
from .job import Job

FITS: dict[str, tuple[type[Any], str]] = {
    "ramp_fit": (RampFitParams, "endslice"),
    "ramp_fit_likelihood": (LikelihoodParams, "noise_ratio"),
}
"""Ramp fits that the noise of the light can go through: step -> its parameters, by which it is
recognised, and the array of ``processinfo`` that says how each pixel was fitted."""


def ramp_fit(job: Job) -> Any:
    """Parameters of the recipe's ramp fit, None if the noise of the light cannot go through it."""
    name = _fit_name(job)
    return None if name is None else job.params(name)


def _fit_name(job: Job) -> str | None:
    found = (name for name, (kind, _) in FITS.items() if isinstance(job.params(name), kind))
    return next(found, None)


def check_needs(job: Job, l2: Layout, layers: Sequence[Layer]) -> None:
    """The recipe and the L2 file must have what the layers are made from.

    Raises
    ------
    InputError
        Naming what is missing, and the letters that need it.
    """
    fit = _fit_name(job)

    def arrays(needs: Needs) -> tuple[str, ...]:
        return (*needs.arrays, *([FITS[fit][1]] if needs.light and fit else ()))

    for _, name in _needed(layers, arrays):
        if l2.array("processinfo", name) is None:
            raise InputError(
                f"OUT: {job.config.OUT}: has no {name}, which {_needing(name, arrays)}; "
                "calibrate with SLICEOUT"
            )

    def steps(needs: Needs) -> tuple[str, ...]:
        return (*needs.steps, *([" or ".join(FITS)] if needs.light and not fit else ()))

    for layer, name in _needed(layers, steps):
        if job.params(name) is None:
            raise InputError(
                f"layer {layer.label!r}: {_needing(name, steps)} the step {name} in the recipe"
            )


def _needed(
    layers: Sequence[Layer], of: Callable[[Needs], tuple[str, ...]]
) -> Iterator[tuple[Layer, str]]:
    """What the commands of the layers need, each with its layer."""
    for layer in layers:
        for command, _ in layer.commands:
            for name in of(command.needs):
                yield layer, name


def _needing(name: str, of: Callable[[Needs], tuple[str, ...]]) -> str:
    """All letters that need an array or a step, such as "P and O need"."""
    commands: list[Command] = [c for c in reversed(COMMANDS.values()) if name in of(c.needs)]
    letters = [command.letter for command in commands]
    return " and ".join(letters) + (" need" if letters[1:] else " needs")
