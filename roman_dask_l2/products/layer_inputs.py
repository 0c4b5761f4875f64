"""What noise layers need of the reference files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..config.noise_labels import Layer
from ..io.references import ARRAYS, Inputs


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
                name = lacking[0]
                key = name.partition(".")[0]
                where = f"CALDIR.{key}: {files[key]} has" if key in files else "CALDIR has"
                yield (
                    f"NOISE.LAYER {layer.label!r}: {command.letter} needs {name} "
                    f"({ARRAYS[name].meaning}), which {where} not; expected a file that has it, as "
                    f"the survey's, or a layer with Ra, which adds the noise to the exposure's own "
                    "ramp"
                )


def left_out(layers: Sequence[Layer], inputs: Inputs) -> Iterator[str]:
    """What layers lack because no file gives it: a sentence for each label."""
    for label, layer in {layer.label: layer for layer in layers}.items():
        for command, _ in layer.commands:
            lacking = [name for name in command.wishes if not inputs.available(name)]
            if lacking:
                parts = ", ".join(f"{ARRAYS[name].meaning} ({name})" for name in lacking)
                yield f"layer {label}: without {parts}, which no reference file gives"
