"""What a command of the layer language declares: its syntax, what it needs, and its manual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Literal

from .label_text import LabelText


class ActsOn(Enum):
    """Where a command takes part in a layer."""

    RAMP = "ramp"
    """Draws noise into a ramp, which then goes through the recipe."""
    BLOCKS = "blocks"
    """Draws noise of the image, in fixed blocks of the detector."""
    SUM = "sum"
    """Changes the sum of all noise."""
    NOTHING = "nothing"
    """Only tells labels apart."""


@dataclass(frozen=True)
class Needs:
    """What a command is made from.

    Attributes
    ----------
    light : bool
        The light on each pixel, and how each pixel's ramp was fitted: a ramp fit in the recipe, and
        the array that it leaves in the Level-2 file for this.
    arrays : tuple of str
        Optional arrays of the Level-2 file, stored in ``processinfo``.
    steps : tuple of str
        Steps of the recipe.
    """

    light: bool = False
    arrays: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


Ramp = Literal["dark", "own"]
"""The ramp that noise is added to: the dark cube, or the exposure itself."""


def nothing(argument: Any) -> tuple[str, ...]:
    """For commands that read no reference file."""
    return ()


def none(argument: Any) -> None:
    """For commands that need none, whatever their arguments."""
    return None


@dataclass(frozen=True)
class Command:
    """One letter of the layer language.

    Attributes
    ----------
    letter : str
        ``A`` to ``Z``.
    name : str
        Of its rule in the grammar.
    grammar : str
        Right side of that rule, in EBNF.
    acts_on : ActsOn
    parse : callable
        ``parse(text)`` reads the arguments that follow the letter; returns them as a hashable
        value, which may not be None unless `acts_on` is NOTHING.
    forms : tuple of (str, str)
        For the manual, in Markdown: how it is written, and what it adds to the layer.
    needs : Needs
    ramp : callable
        ``ramp(argument)`` that its noise is added to, if it acts on ramps; else None.
    inputs : callable
        ``inputs(argument)`` -> arrays of reference files, as steps name them, that it cannot do
        without.
    wishes : tuple of str
        Those without which it lacks a part; it says so then.
    clips : callable
        ``clips(argument)``: whether it clips its noise.
    background : callable
        ``background(argument)``: order of the polynomial background of the Level-2 image that it
        needs, or None.
    streams : tuple of (str, str, str)
        For the manual, in Markdown: random streams that it draws from, what is drawn from each,
        and what a block of it is.
    after : tuple of str
        Letters that may not follow it in a label.
    repeats : bool
        It may occur more than once in a label.
    no_draw : str
        Why some pixels have no draw, after "... pixels"; empty if all have one.
    report : str
        For reports: the letter and the variance that is expected of its noise, after "for"; empty
        if it adds none.
    report_formula : (str, str) or None
        For reports: formula of its expected spectrum in HTML, and the meaning of the symbols.
    """

    letter: str
    name: str
    grammar: str
    acts_on: ActsOn
    parse: Callable[[LabelText], Any]
    forms: tuple[tuple[str, str], ...]
    needs: Needs = Needs()
    ramp: Callable[[Any], Ramp | None] = none
    inputs: Callable[[Any], tuple[str, ...]] = nothing
    wishes: tuple[str, ...] = ()
    clips: Callable[[Any], bool | None] = none
    background: Callable[[Any], int | None] = none
    streams: tuple[tuple[str, str, str], ...] = ()
    after: tuple[str, ...] = ()
    repeats: bool = False
    no_draw: str = ""
    report: str = ""
    report_formula: tuple[str, str] | None = None

    @property
    def adds_noise(self) -> bool:
        """Whether a layer with no other command is not zero."""
        return self.acts_on in (ActsOn.RAMP, ActsOn.BLOCKS)
