"""O: Pearson draws with the moments of pseudo-Poisson noise."""

from __future__ import annotations

from dataclasses import dataclass

from .command import ActsOn, Command
from .label_text import LabelText
from .light import DETECTOR_BLOCK, LIGHT


@dataclass(frozen=True)
class Pearson:
    """O has no arguments."""


def parse(text: LabelText) -> Pearson:
    text.argument("O", "")
    return Pearson()


command = Command(
    letter="O",
    name="pearson",
    grammar='"O"',
    acts_on=ActsOn.BLOCKS,
    parse=parse,
    needs=LIGHT,
    forms=(("`O`", "Pearson draws with the moments of pseudo-Poisson noise"),),
    streams=(
        ("pearson", "Pearson draws", DETECTOR_BLOCK),
        (
            "pearson_excluded",
            "Pearson draws of pixels that were fitted "
            "[without some resultants](algorithms.md#excluded-resultants)",
            DETECTOR_BLOCK,
        ),
    ),
    no_draw="have moments that no Pearson distribution has",
    report="O that of the light",
)
