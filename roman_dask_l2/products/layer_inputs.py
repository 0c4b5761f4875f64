"""What noise layers need of the reference files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..config.noise_commands.command import ActsOn
from ..config.noise_labels import Layer
from ..core.step import BoundStep
from ..io.references import ARRAYS, Inputs
from .base_ramp import reads_output_alone


def needed_arrays(layers: Sequence[Layer]) -> set[str]:
    """Arrays of reference files that layers cannot do without."""
    return {
        name for layer in layers for c, argument in layer.commands for name in c.inputs(argument)
    }


def missing_inputs(
    layers: Sequence[Layer], inputs: Inputs, files: Mapping[str, Path]
) -> Iterator[str]:
    """What the layers cannot do without, and no file gives: a sentence for each layer.

    Parameters
    ----------
    layers : sequence of Layer
    inputs : Inputs
    files : mapping of str to Path
        CALDIR.
    """
    for layer in layers:
        for command, argument in layer.commands:
            lacking = [n for n in command.inputs(argument) if not inputs.available(n)]
            if lacking:
                keys = list(dict.fromkeys(name.partition(".")[0] for name in lacking))
                where = " and ".join(
                    f"CALDIR.{key}: {files[key]}" if key in files else f"CALDIR.{key}"
                    for key in keys
                )
                parts = [f"{name} ({ARRAYS[name].meaning})" for name in lacking]
                listed = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
                yield (
                    f"NOISE.LAYER {layer.label!r}: {command.letter} needs {listed}, which {where} "
                    f"{'has' if len(keys) == 1 else 'have'} not; expected the survey's file"
                    f"{'' if len(keys) == 1 else 's'} of that name, or a layer with Ra, which adds "
                    "the noise to the exposure's own ramp"
                )


def left_out(
    layers: Sequence[Layer], inputs: Inputs, steps: Sequence[BoundStep] = ()
) -> Iterator[str]:
    """What layers lack because no file gives it: a sentence for each label."""
    for label, layer in {layer.label: layer for layer in layers}.items():
        for command, _ in layer.commands:
            wishes = command.wishes
            if command.acts_on is ActsOn.RAMP and reads_output_alone(steps):
                wishes += ("read.amp33.std",)
            lacking = [name for name in wishes if not inputs.available(name)]
            if lacking:
                parts = ", ".join(f"{ARRAYS[name].meaning} ({name})" for name in lacking)
                yield f"layer {label}: without {parts}, which no reference file gives"
