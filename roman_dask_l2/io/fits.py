"""The FITS copy of an image, for viewers: written tile by tile, as the L2 file is.

Not with astropy: it swaps the bytes of an array in place while it writes, which whoever else reads
that array at the time gets to see; and it wants whole images.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.detector import Window
from ..system.files import NEW, named
from .blocks import Block

MASKED = -1000.0
"""Value of masked pixels in the third HDU."""
_RECORD = 2880
_CARD = 80
_SIGN = np.uint32(1 << 31)


def fits_name(out: Path) -> Path:
    """``OUT`` with ``.asdf`` replaced by ``_asdf_to.fits``."""
    return out.with_name(out.name.removesuffix(".asdf") + "_asdf_to.fits")


@dataclass(frozen=True)
class FitsCopy:
    """The FITS copy of an L2 image in the making: data, dq, and data blanked where masked.

    Attributes
    ----------
    data, dq, masked : Block
    """

    data: Block
    dq: Block
    masked: Block

    @classmethod
    def create(cls, path: Path, window: Window, uniform_light: str | None = None) -> FitsCopy:
        """Make the file with its headers, all pixels zero.

        Parameters
        ----------
        path : Path
        window : Window
            The active pixels.
        uniform_light : str, optional
            What light of uniform surface brightness looks like in the image.
        """
        flags = [("BZERO", 1 << 31, "unsigned integers"), ("BSCALE", 1, "")]
        rate: list[tuple[str, str | int, str]] = [("BUNIT", "DN/s", "")]
        if uniform_light is not None:
            rate.append(("UNILIGHT", uniform_light.upper(), "what uniform light looks like"))
        return cls(
            *create_fits(
                path,
                [window] * 3,
                [None] * 3,
                (-32, 32, -32),
                (rate, [*flags, ("EXTNAME", "DQ", "")], [*rate, ("EXTNAME", "MASKED", "")]),
            )
        )

    def put(self, data: np.ndarray, dq: np.ndarray, mask: np.ndarray, window: Window) -> None:
        """Write one tile.

        Parameters
        ----------
        data : ndarray (y, x) of float32
            DN/s.
        dq : ndarray (y, x) of uint32
        mask : ndarray (y, x) of bool
            True = masked.
        window : Window
            Where the tile lies on the full frame.
        """
        self.data.put(data, window)
        self.dq.put((dq ^ _SIGN).view(np.int32), window)  # the same as subtracting BZERO
        self.masked.put(np.where(mask, np.float32(MASKED), data), window)


def create_fits(
    path: Path,
    windows: Sequence[Window],
    planes: Sequence[int | None],
    bitpix: Sequence[int],
    cards: Sequence[Sequence[tuple[str, str | int, str]]],
) -> list[Block]:
    """Make a FITS file with headers and room for the pixels of each HDU.

    FITS Standard 4.0 (Pence et al. 2010, A&A 524, A42): records of 2880 bytes, cards of 80, big
    endian.

    Parameters
    ----------
    path : Path
    windows : sequence of Window
        What each HDU holds of the full frame.
    planes : sequence of int or None
        Length of a third axis.
    bitpix : sequence of int
        -32 (float32) or 32 (int32).
    cards : sequence
        Further keywords, values and comments of each HDU.

    Returns
    -------
    list of Block
    """
    blocks, headers, position = [], [], 0
    for i, (window, n, bits, more) in enumerate(zip(windows, planes, bitpix, cards, strict=True)):
        block = Block("", 0, ">f4" if bits == -32 else ">i4", window, n)
        axes = block.shape[::-1]
        first: list[tuple[str, str | int | bool, str]] = (
            [("XTENSION", "IMAGE", "image extension")] if i else [("SIMPLE", True, "FITS standard")]
        )
        first += [("BITPIX", bits, "array data type"), ("NAXIS", len(axes), "number of axes")]
        first += [(f"NAXIS{k}", size, "") for k, size in enumerate(axes, 1)]
        if i:
            first += [("PCOUNT", 0, "no parameters"), ("GCOUNT", 1, "one group")]
        elif len(windows) > 1:
            first += [("EXTEND", True, "")]
        header = b"".join(_card(*card) for card in (*first, *more)) + b"END".ljust(_CARD)
        header = header.ljust(-(-len(header) // _RECORD) * _RECORD)
        headers.append((position, header))
        position += len(header)
        blocks.append(Block(str(path), position, block.dtype, window, n))
        position += -(-block.nbytes // _RECORD) * _RECORD
    fd = os.open(path, NEW, 0o666)
    try:
        os.truncate(fd, position)
        with named(path):
            for start, header in headers:
                os.pwrite(fd, header, start)
    finally:
        os.close(fd)
    return blocks


def _card(keyword: str, value: str | int | bool, comment: str) -> bytes:
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int):
        text = f"{value:>20}"
    else:
        text = f"'{value:<8}'".ljust(20)
    line = f"{keyword:<8}= {text}" + (f" / {comment}" if comment else "")
    return line.ljust(_CARD).encode("ascii")
