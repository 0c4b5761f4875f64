"""The layer language: what a label such as ``Rz4S2C1`` asks for."""

from __future__ import annotations

import logging
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ..core.cells import MAX_ORDER
from ..errors import InputError

log = logging.getLogger(__name__)

GRAMMAR = """\
layer    = command { command }
command  = read | pearson | poisson | sky | comment
read     = "R" { "a" | "z" number }
pearson  = "O"
poisson  = "P" { "r" | "b" [ order ] }
sky      = "S" [ order ]
comment  = "C" { "a".."z" | digit | "_" }
number   = digit { digit } [ "." { digit } ] | "." digit { digit }
order    = digit { digit }
digit    = "0".."9"
"""
"""The language in EBNF. Beyond it: each command stands at most once, but comments may repeat; each
argument stands at most once in its command; P does not stand before R; an order is at most
`MAX_ORDER`."""

_LETTERS = "ROPSC"


@dataclass(frozen=True)
class ReadNoise:
    """Command R.

    Attributes
    ----------
    own_ramp : bool
        ``a``: the noise is added to the exposure's own ramp, not to the dark.
    clip : float or None
        ``z<q>``: the layer is clipped to its median +- q sigma; None leaves it as it is.
    """

    own_ramp: bool = False
    clip: float | None = None


@dataclass(frozen=True)
class Poisson:
    """Command P.

    Attributes
    ----------
    background_order : int or None
        ``b``: order of the polynomial that stands for the background, the only light that counts;
        None: all light counts.
    """

    background_order: int | None = None


@dataclass(frozen=True)
class Layer:
    """What one label asks for; a command that it does not have is None (or False).

    Attributes
    ----------
    label : str
        As the configuration has it, comments included.
    read : ReadNoise or None
        R.
    pearson : bool
        O.
    poisson : Poisson or None
        P.
    sky_order : int or None
        S: order of the layer's own polynomial, which is subtracted.
    """

    label: str
    read: ReadNoise | None = None
    pearson: bool = False
    poisson: Poisson | None = None
    sky_order: int | None = None


@dataclass
class _Text:
    """A label and how much of it has been read."""

    label: str
    at: int = 0
    given: set[str] = field(default_factory=set)  # arguments of the current command

    def take(self, pattern: str) -> str:
        """The text that matches here, read; empty if none does."""
        found = re.compile(pattern).match(self.label, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def problem(self, what: str, at: int) -> InputError:
        """The error that something is wrong with the character of index `at`."""
        shown = "".join(c if c.isprintable() else "?" for c in self.label)
        return InputError(
            f"NOISE.LAYER {self.label!r}: {what} at position {at + 1}\n  {shown}\n  {' ' * at}^"
        )

    def argument(self, command: str, known: str) -> str:
        """The next argument, a letter of `known`; empty at the end of the command."""
        at = self.at
        letter = self.take(r"[^A-Z]")
        if letter and letter not in known:
            raise self.problem(f"unknown argument {letter!r} of {command}", at)
        if letter in self.given:
            raise self.problem(f"second argument {letter!r} of {command}", at)
        self.given.add(letter)
        return letter

    def number(self, name: str) -> float:
        """A decimal number without sign or exponent."""
        at = self.at
        digits = self.take(r"[0-9.]+")
        if not re.fullmatch(r"[0-9]+\.?[0-9]*|\.[0-9]+", digits):
            raise self.problem(f"expected a number after {name!r}, found {digits!r}", at)
        if not math.isfinite(float(digits)):
            raise self.problem(f"number after {name!r} is too large", at)
        return float(digits)

    def order(self, name: str) -> int:
        """A non-negative integer, 0 if there is none."""
        at = self.at
        digits = self.take(r"[0-9.]+") or "0"
        if "." in digits:
            raise self.problem(f"expected a whole number after {name!r}, found {digits!r}", at)
        if float(digits) > MAX_ORDER:
            raise self.problem(f"order after {name!r} is larger than {MAX_ORDER}", at)
        return int(digits)


def _read(text: _Text) -> ReadNoise:
    own_ramp, clip = False, None
    while argument := text.argument("R", "az"):
        if argument == "a":
            own_ramp = True
        else:
            clip = text.number("z")
    return ReadNoise(own_ramp, clip)


def _poisson(text: _Text) -> Poisson:
    order = None
    while argument := text.argument("P", "br"):
        if argument == "b":
            order = text.order("b")
    return Poisson(order)


def parse(label: str) -> Layer:
    """Read one label; `GRAMMAR` says what it may be.

    Parameters
    ----------
    label : str

    Returns
    -------
    Layer

    Raises
    ------
    InputError
        If the label is not of the language. The message names it, and its last line is a caret
        below the first character that cannot be understood.

    Notes
    -----
    ``P`` alone means ``Pr``, and ``Pb`` means ``Pbr``: without ``r`` there would be no noise.
    """
    if not isinstance(label, str):
        raise InputError(f"NOISE.LAYER {label!r}: expected text")
    text = _Text(label)
    if not label:
        raise text.problem("expected a command", 0)
    read, pearson, poisson, sky_order = None, False, None, None
    commands: dict[str, int] = {}
    while (at := text.at) < len(label):
        command = text.take(f"[{_LETTERS}]")
        if not command:
            expected = ", ".join(_LETTERS)
            raise text.problem(f"unknown command {label[at]!r}, expected one of {expected},", at)
        if command in commands and command != "C":
            raise text.problem(f"second command {command!r}", at)
        if command == "R" and "P" in commands:
            raise text.problem("command 'P' before 'R'", commands["P"])
        commands[command] = at
        text.given = set()
        if command == "R":
            read = _read(text)
        elif command == "P":
            poisson = _poisson(text)
        elif command == "S":
            sky_order = text.order("S")
            text.argument("S", "")
        elif command == "C":
            text.take("[a-z0-9_]+")
            text.argument("C", "")
        else:
            pearson = True
            text.argument("O", "")
    return Layer(label, read, pearson, poisson, sky_order)


def warn_about(layers: Iterable[Layer]) -> None:
    """Tell of labels that are probably not meant: with O and P, or without any noise.

    Not where labels are read: that happens more than once in a run.
    """
    for layer in dict.fromkeys(layers):
        if layer.pearson and layer.poisson:
            log.warning("NOISE.LAYER %r: O and P both add the noise of the same light", layer.label)
        if not (layer.read or layer.pearson or layer.poisson):
            log.warning("NOISE.LAYER %r: no noise is asked for, the layer is zero", layer.label)


def parse_all(labels: Iterable[str]) -> list[tuple[Layer, int]]:
    """Read the labels of a configuration.

    Parameters
    ----------
    labels : iterable of str

    Returns
    -------
    list of (Layer, int)
        With each layer how many equal labels stand before it. Equal labels are different
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
