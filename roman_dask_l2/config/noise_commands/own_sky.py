"""S: subtraction of the layer's own polynomial."""

from __future__ import annotations

from dataclasses import dataclass

from .command import ActsOn, Command
from .label_text import LabelText


@dataclass(frozen=True)
class OwnSky:
    """Arguments of S.

    Attributes
    ----------
    order : int
        Of the polynomial.
    """

    order: int = 0


def parse(text: LabelText) -> OwnSky:
    order = text.order("S")
    text.argument("S", "")
    return OwnSky(order)


command = Command(
    letter="S",
    name="sky",
    grammar='"S" [ order ]',
    acts_on=ActsOn.SUM,
    parse=parse,
    forms=(
        (
            "`S`, `S<n>`",
            "nothing; subtracts the layer's own polynomial of order $n$ (default 0)",
        ),
    ),
)
