"""The layer language: what a label such as ``Rz4S2C1`` asks for.

Its commands are declared in `roman_dask_l2.config.noise_commands`, one file for each letter.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .noise_commands.command import ActsOn, Command, Ramp
from .noise_commands.label_text import LabelText
from .noise_commands.registry import COMMANDS

log = logging.getLogger(__name__)


def grammar() -> str:
    """The language in EBNF.

    Beyond it: a command occurs at most once in a label unless it may repeat; an argument occurs at
    most once in its command; some commands may not follow others; an order is at most `MAX_ORDER`.
    """
    rules = {
        "layer": "command { command }",
        "command": " | ".join(command.name for command in COMMANDS.values()),
        **{command.name: command.grammar for command in COMMANDS.values()},
        "number": 'digit { digit } [ "." { digit } ] | "." digit { digit }',
        "order": "digit { digit }",
        "digit": '"0".."9"',
    }
    width = max(map(len, rules))
    return "".join(f"{name:{width}} = {rule}\n" for name, rule in rules.items())


@dataclass(frozen=True)
class Layer:
    """What one label asks for.

    Attributes
    ----------
    label : str
        As the configuration has it, comments included.
    arguments : tuple of (str, object)
        Letter and arguments of each of its commands, in the order in which they act. Comments are
        not among them.
    """

    label: str
    arguments: tuple[tuple[str, Any], ...] = ()

    def argument(self, letter: str) -> Any:
        """Arguments of a command, None if the layer does not have it."""
        return dict(self.arguments).get(letter)

    @property
    def commands(self) -> list[tuple[Command, Any]]:
        """Its commands with their arguments, in the order in which they act."""
        return [(COMMANDS[letter], argument) for letter, argument in self.arguments]

    def acting_on(self, target: ActsOn) -> list[tuple[Command, Any]]:
        """Those of its commands that act on `target`."""
        return [(command, given) for command, given in self.commands if command.acts_on is target]

    @property
    def ramp(self) -> Ramp | None:
        """The ramp that noise is added to, None if it is added to none."""
        ramps = (command.ramp(argument) for command, argument in self.acting_on(ActsOn.RAMP))
        return next(ramps, None)

    @property
    def clips(self) -> bool:
        """Whether any of its commands clips its noise."""
        return any(command.clips(argument) for command, argument in self.commands)

    @property
    def needs_light(self) -> bool:
        """Whether any of its commands draws the noise of the light."""
        return any(command.needs.light for command, _ in self.commands)

    @property
    def draws_blocks(self) -> bool:
        """Whether any of its noise is drawn in blocks of the image."""
        return bool(self.acting_on(ActsOn.BLOCKS))

    @property
    def backgrounds(self) -> list[int]:
        """Orders of the polynomial backgrounds that it is made from."""
        orders = (command.background(argument) for command, argument in self.commands)
        return sorted({order for order in orders if order is not None})


def parse(label: str) -> Layer:
    """Read one label; `grammar` says what it may be.

    Parameters
    ----------
    label : str

    Returns
    -------
    Layer

    Raises
    ------
    InputError
        If the label is not of the language. The message names it, and the place of the first
        character that cannot be understood.
    """
    if not isinstance(label, str):
        raise InputError(f"NOISE.LAYER {label!r}: expected text")
    text = LabelText(label)
    if not label:
        raise text.problem("expected a command", 0)
    arguments: dict[str, Any] = {}
    places: dict[str, int] = {}
    while (at := text.at) < len(label):
        letter = text.take("[A-Z]")
        if letter not in COMMANDS:
            expected = ", ".join(COMMANDS)
            raise text.problem(f"unknown command {label[at]!r}, expected one of {expected},", at)
        command = COMMANDS[letter]
        if letter in places and not command.repeats:
            raise text.problem(f"second command {letter!r}", at)
        for earlier, place in places.items():
            if letter in COMMANDS[earlier].after:
                raise text.problem(f"command {earlier!r} before {letter!r}", place)
            if command.acts_on is COMMANDS[earlier].acts_on is ActsOn.RAMP:
                raise text.problem(f"command {letter!r} beside {earlier!r}, one ramp only,", at)
        places[letter] = at
        text.given = set()
        arguments[letter] = command.parse(text)
    acting = [
        (letter, arguments[letter])
        for letter, command in COMMANDS.items()
        if letter in arguments and command.acts_on is not ActsOn.NOTHING
    ]
    return Layer(label, tuple(acting))


def warn_about(layers: Iterable[Layer]) -> None:
    """Warn about labels that are probably a mistake: with O and P, or without any noise.

    Not done by `parse`, because labels are read more than once in a run.
    """
    for layer in dict.fromkeys(layers):
        light = [command.letter for command, _ in layer.commands if command.needs.light]
        if len(light) > 1:
            log.warning(
                "NOISE.LAYER %r: %s both add the noise of the same light",
                layer.label,
                " and ".join(light),
            )
        if not any(command.adds_noise for command, _ in layer.commands):
            log.warning("NOISE.LAYER %r: no noise is asked for, the layer is zero", layer.label)


def parse_all(labels: Iterable[str]) -> list[tuple[Layer, int]]:
    """Read the labels of a configuration.

    Parameters
    ----------
    labels : iterable of str

    Returns
    -------
    list of (Layer, int)
        Each layer, and how many equal labels come before it. Equal labels are different
        realisations, so label and this number together identify the layer's random streams.

    Raises
    ------
    InputError
        With one problem for each label that cannot be read.
    """
    layers: list[tuple[Layer, int]] = []
    problems: list[str] = []
    seen: Counter[str] = Counter()
    for label in labels:
        try:
            layers.append((parse(label), seen[label]))
        except InputError as error:
            problems += error.problems
        seen[str(label)] += 1
    if problems:
        raise InputError(problems)
    return layers
