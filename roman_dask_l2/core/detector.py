"""Geometry of one detector: reference border, readout channels, active pixels, windows, tiles.

Arrays are indexed ``[resultant, y, x]`` in the science frame. A detector of side ``N`` has a
border of 4 reference pixels on every side and ``N / 128`` readout channels of 128 columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ..errors import InputError

BORDER = 4
CHANNEL_WIDTH = 128
PADDED_WIDTH = CHANNEL_WIDTH + 12
"""Columns of a channel with the time between its rows, as `refpix_irrc` counts it."""
MIN_SIDE = 256
OMEGA_IDEAL = 2.8440360952308436e-13
"""Solid angle (sr) of a (0.11 arcsec)^2 pixel: the area that the flat field refers to."""


class Window(NamedTuple):
    """Rows ``y0:y1`` and columns ``x0:x1`` of the full frame."""

    y0: int
    y1: int
    x0: int
    x1: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.y1 - self.y0, self.x1 - self.x0

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def grown(self, halo: int, side: int) -> Window:
        """The window with `halo` more pixels on each side, clipped to a detector of `side`."""
        return Window(
            max(self.y0 - halo, 0),
            min(self.y1 + halo, side),
            max(self.x0 - halo, 0),
            min(self.x1 + halo, side),
        )

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Slices that cut this window out of an array that covers `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def intersection(self, other: Window) -> Window | None:
        """The part that both windows cover, None if they do not overlap."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Window(y0, y1, x0, x1) if y0 < y1 and x0 < x1 else None

    def active(self, side: int) -> Window:
        """The part of the window that lies on active (non-reference) pixels; may be empty."""
        y0, x0 = max(self.y0, BORDER), max(self.x0, BORDER)
        return Window(
            y0, max(min(self.y1, side - BORDER), y0), x0, max(min(self.x1, side - BORDER), x0)
        )


def check_side(side: int, what: str) -> None:
    """Raise `InputError` unless `side` is that of a detector we can handle."""
    if side < MIN_SIDE or side % CHANNEL_WIDTH:
        raise InputError(
            f"{what}: detector side {side}, "
            f"expected a multiple of {CHANNEL_WIDTH} from {MIN_SIDE} up"
        )


@dataclass(frozen=True)
class Grid:
    """A detector of `side` pixels cut into tiles of `tile` = (rows, columns); the last row and
    column of tiles may be smaller.

    Attributes
    ----------
    side : int
    tile : tuple of int
    """

    side: int
    tile: tuple[int, int]

    @staticmethod
    def _edges(side: int, step: int) -> list[tuple[int, int]]:
        return [(a, min(a + step, side)) for a in range(0, side, step)]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of tiles along y and x."""
        return -(-self.side // self.tile[0]), -(-self.side // self.tile[1])

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tile sizes along y and x, as Dask writes chunks."""
        y, x = (tuple(b - a for a, b in self._edges(self.side, step)) for step in self.tile)
        return y, x

    def window(self, iy: int, ix: int) -> Window:
        """Window of tile (iy, ix), without halo."""
        return Window(
            *self._edges(self.side, self.tile[0])[iy], *self._edges(self.side, self.tile[1])[ix]
        )


BAND = 64
"""Rows of a default tile: full rows are contiguous in the files, so each is one read."""


def parse_tile(text: str | int | tuple[int, int] | None, side: int) -> tuple[int, int]:
    """Tile size from ``256`` (square), ``128x4096`` (rows x columns) or None (the default).

    Raises
    ------
    InputError
        If it is neither, or smaller than 32 pixels.
    """
    if text is None:
        return min(BAND, side), side
    if isinstance(text, tuple):
        sizes = text
    else:
        parts = str(text).lower().split("x")
        if len(parts) > 2 or not all(p.strip().isdigit() for p in parts):
            raise InputError(
                f"--tile {text}: expected pixels such as 256, or rows x columns 128x4096"
            )
        sizes = (int(parts[0]), int(parts[-1]))
    if min(sizes) < 32:
        raise InputError(f"--tile {text}: expected at least 32 pixels")
    return min(sizes[0], side), min(sizes[1], side)
