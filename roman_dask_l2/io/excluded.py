"""Which resultants are left out of each pixel's fit, as the L2 file keeps it.

Most exposures have few such pixels or none. So a bit for each resultant is kept, tiles without any
are not written (they are holes in the file), and a file without any has no such array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.detector import Window
from ..steps.ramp_subsets import any_excluded, pack
from .blocks import Block

ROWS = 256
"""Rows that are looked at in one go."""


@dataclass(frozen=True)
class ExcludedBlock:
    """A place for the bits of `ramp_subsets.pack`, filled from flags of resultants.

    Attributes
    ----------
    bits : Block
        (ceil(R / 8), y, x) of uint8, zero before the first `put`.
    start : int
        First resultant that fits use: those before are not left out, no fit has them.
    """

    bits: Block
    start: int

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write what `values`, flags (R, y, x) on `window` of the full frame, leave out."""
        if not any_excluded(values[self.start :]):
            return
        flags = values.copy()
        flags[: self.start] = 0
        self.bits.put(pack(flags), window)

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
