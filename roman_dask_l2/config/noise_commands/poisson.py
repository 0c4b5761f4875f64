"""P: Poisson noise of the light."""

from __future__ import annotations

from dataclasses import dataclass

from .command import ActsOn, Command
from .label_text import LabelText
from .light import DETECTOR_BLOCK, LIGHT


@dataclass(frozen=True)
class Poisson:
    """Arguments of P.

    Attributes
    ----------
    background_order : int or None
        ``b``: order of the polynomial background, which is then the only light that counts; None:
        all light counts.
    """

    background_order: int | None = None


def parse(text: LabelText) -> Poisson:
    """``P`` means ``Pr``, and ``Pb`` means ``Pbr``: without ``r`` there would be no noise."""
    order = None
    while argument := text.argument("P", "br"):
        if argument == "b":
            order = text.order("b")
    return Poisson(order)


def background(argument: Poisson) -> int | None:
    return argument.background_order


command = Command(
    letter="P",
    name="poisson",
    grammar='"P" { "r" | "b" [ order ] }',
    acts_on=ActsOn.BLOCKS,
    parse=parse,
    needs=LIGHT,
    background=background,
    forms=(
        ("`P`, `Pr`", "Poisson noise of all light"),
        ("`Pb`, `Pbr`, `Prb`", "Poisson noise of the background only: a constant"),
        ("`Pb<n>r`, `Prb<n>`", "Poisson noise of the background only: a polynomial of order $n$"),
    ),
    streams=(("poisson", "Poisson draws", DETECTOR_BLOCK),),
    after=("R",),
    report="P that of the light, for Pb that of the background",
)
