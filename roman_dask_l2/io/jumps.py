"""Where and when jumps were found: ``jump_indices`` of the L2 file.

While tiles are made a bit is kept for each resultant of each pixel, in the file that is being
written, where tiles without jumps leave holes. In the end the list takes the place of the bits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from ..core.bits import pack
from ..core.detector import Window
from ..core.dq import GROUP
from .blocks import Block

ROWS = 256
"""Rows that are looked at in one go."""


@dataclass(frozen=True)
class JumpBits:
    """A place for the bits of JUMP_DET.

    Attributes
    ----------
    bits : Block
        (ceil(R / 8), y, x) of uint8, zero before the first `put`; bit j % 8 of plane j // 8 stands
        for resultant j.
    packed : bool
        `put` gets the variable ``events``, which begins with these bits, and not ``groupdq``.
    """

    bits: Block
    packed: bool

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write the jumps of `values`, flags of resultants on `window` of the full frame."""
        planes, flag = self.bits.planes, GROUP["JUMP_DET"]
        found = values[:planes] if self.packed else pack(values, flag)
        if found.any():
            self.bits.put(found, window)

    def read(self, window: Window | None = None) -> np.ndarray:
        """The bits on a window of the full frame."""
        return self.bits.read(window)

    def indices(self) -> np.ndarray:
        """Rows (resultant, y, x) of int16 in this order; y and x from the corner of the block."""
        area = self.bits.window
        bands = [
            Window(y, min(y + ROWS, area.y1), area.x0, area.x1)
            for y in range(area.y0, area.y1, ROWS)
        ]
        found: list[list[np.ndarray]] = [[] for _ in range(8 * (self.bits.planes or 0))]
        for k in range(self.bits.planes or 0):
            plane = self.bits.plane(k)
            for band in bands:
                bits = plane.read(band)
                y, x = np.divmod(np.flatnonzero(bits), bits.shape[1])
                bits = bits[y, x]
                for j in range(8 * k, 8 * k + 8):
                    here = np.flatnonzero(bits & (1 << j % 8))
                    rows = np.empty((len(here), 3), np.int16)
                    rows[:, 0], rows[:, 1], rows[:, 2] = j, y[here] + (band.y0 - area.y0), x[here]
                    found[j].append(rows)
        return np.concatenate([np.zeros((0, 3), np.int16), *itertools.chain(*found)])
