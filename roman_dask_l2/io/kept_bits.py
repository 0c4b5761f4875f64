"""What is left out of each pixel's fit, as the L2 file keeps it.

Most exposures have few such pixels or none. So a bit is kept for each resultant (or for each
difference of two), tiles without any are not written (they are holes in the file), and a file
without any has no such array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.bits import pack
from ..core.detector import Window
from .blocks import Block

ROWS = 256
"""Rows that are looked at in one go."""


@dataclass(frozen=True)
class Kept:
    """An array of bits that ``processinfo`` may have, and what its bits are made of.

    Attributes
    ----------
    name : str
        Of the array.
    step, variable : str
        The variable (R, y, x) of uint8 as it is after this step.
    count : int
        How many of its planes have a bit.
    start : int
        First plane that counts; no fit has those before it, so they are not left out.
    flags : int
        A bit is 1 where the variable has any of these flags.
    """

    name: str
    step: str
    variable: str
    count: int
    start: int
    flags: int

    @property
    def planes(self) -> int:
        """Planes of uint8 that the bits take."""
        return -(-self.count // 8)


@dataclass(frozen=True)
class KeptBits:
    """The place of such an array, filled from the variable.

    Attributes
    ----------
    bits : Block
        (ceil(count / 8), y, x) of uint8, zero before the first `put`. Bit j % 8 of plane j // 8
        stands for plane j of the variable.
    kept : Kept
    """

    bits: Block
    kept: Kept

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write the bits of `values`, the variable on `window` of the full frame."""
        start, flags = self.kept.start, self.kept.flags
        values = values[: self.kept.count]
        if not (np.bitwise_or.reduce(values[start:], axis=0) & flags).any():
            return
        self.bits.put(pack(values, flags, start), window)

    def read(self, window: Window | None = None) -> np.ndarray:
        """The bits on a window of the full frame."""
        return self.bits.read(window)

    def empty(self) -> bool:
        """Whether nothing is left out anywhere."""
        area = self.bits.window
        bands = (
            Window(y, min(y + ROWS, area.y1), area.x0, area.x1)
            for y in range(area.y0, area.y1, ROWS)
        )
        return not any(self.bits.read(band).any() for band in bands)
