"""Random streams: a draw is identified by its purpose, not by the task that makes it.

A stream is a counter-based generator of Salmon et al. (2011, *Parallel random numbers: as easy as
1, 2, 3*, SC'11, doi:10.1145/2063384.2063405) with a 128-bit key of its own and its counter at 0:
NumPy's Philox4x64-10, or for the hundreds of millions of normals of read noise Philox4x32-10 (see
`normals`), which is never given the key of the other. The key is the BLAKE2b hash (RFC 7693), 16
bytes long, of the text

    seed LF occurrence LF kind LF resultant LF block LF label

with decimal integers and ``-`` for no resultant. Only the label, which is last, could hold a line
feed, so different tuples are different texts. `VERSION` is BLAKE2b's personalisation: a change of
the scheme changes every stream. Streams of different keys are statistically independent, and n keys
collide with probability n^2 / 2^129: 2e-22 for 100 layers of 64 resultants, 10 kinds of draws and
4096 blocks. A stream has 2^258 words of 64 bits; no caller draws more than 2^24 numbers from one.

The words are the same on every machine, and so are the normals of `normals`. NumPy makes other
distributions of its words and may change how in a new release (NEP 19), so equal bits need equal
releases of NumPy.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum
from operator import index

import numpy as np

from .normals import fill

VERSION = b"roman-dask-l2 v1"
"""At most 16 bytes."""


class DrawKind(StrEnum):
    """What the shipped commands draw. A member's text is part of the keys: never change it."""

    WHITE = "white"
    """Read noise of the pixels. Block: readout channel."""
    RESET = "reset"
    """Reset noise of the reference pixels, no resultant: all share it. Block: 0."""
    PINK_COMMON = "pink_common"
    """1/f noise common to the channels. Block: 0."""
    PINK_CHANNEL = "pink_channel"
    """1/f noise of one channel. Block: readout channel."""
    AMP33_WHITE = "amp33_white"
    """White noise of the reference output. Block: 0."""
    AMP33_PINK = "amp33_pink"
    """1/f noise of the reference output alone. Block: 0."""
    POISSON = "poisson"
    """Poisson draws, no resultant. Block: 128 x 128 pixels of the frame, counted row by row."""
    PEARSON = "pearson"
    """Pearson draws, no resultant. Block: as of POISSON."""
    PEARSON_EXCLUDED = "pearson_excluded"
    """The same for the pixels that were fitted without some of their resultants."""


def stream_key(
    seed: int, label: str, occurrence: int, kind: str, resultant: int | None, block: int
) -> int:
    """The 128-bit key of a stream; see `stream`."""
    if not re.fullmatch("[a-z0-9_]+", kind):
        raise ValueError(f"stream {kind!r}: expected lower-case letters, digits and underscores")
    j = "-" if resultant is None else index(resultant)
    text = f"{index(seed)}\n{index(occurrence)}\n{kind}\n{j}\n{index(block)}\n{label}"
    digest = hashlib.blake2b(text.encode(), digest_size=16, person=VERSION).digest()
    return int.from_bytes(digest, "little")


def stream(
    seed: int, label: str, occurrence: int, kind: str, resultant: int | None, block: int
) -> np.random.Generator:
    """A new generator at the beginning of a stream.

    Parameters
    ----------
    seed : int
        NOISE.SEED.
    label : str
        The layer's label.
    occurrence : int
        How many equal labels precede it.
    kind : str
        What is drawn: a `DrawKind`, or the name (lower-case letters, digits and underscores) of a
        draw that another file defines.
    resultant : int or None
        Index of the resultant; None for draws that all resultants share.
    block : int
        A fixed part of the detector, which no tile size may change; see `DrawKind`.

    Returns
    -------
    numpy.random.Generator
        On a Philox bit generator.
    """
    key = stream_key(seed, label, occurrence, kind, resultant, block)
    return np.random.Generator(np.random.Philox(key=key))


@dataclass(frozen=True)
class Streams:
    """The streams of one layer; small, and can be sent to other processes.

    Attributes
    ----------
    seed : int
    label : str
    occurrence : int
    """

    seed: int
    label: str
    occurrence: int

    def __call__(self, kind: str, resultant: int | None, block: int) -> np.random.Generator:
        """A generator at the beginning of a stream, see `stream`."""
        return stream(self.seed, self.label, self.occurrence, kind, resultant, block)

    def normals(
        self, kind: str, resultant: int | None, block: int, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The first unit normals of a stream that is used for nothing else, float32; see
        `normals.fill`."""
        out = np.empty(shape, np.float32)
        self.fill(kind, resultant, block, out.reshape(-1))
        return out

    def fill(
        self,
        kind: str,
        resultant: int | None,
        block: int,
        out: np.ndarray,
        sigma: np.ndarray | None = None,
    ) -> None:
        """`normals` into an array (n,) of float32, each times its `sigma`."""
        key = stream_key(self.seed, self.label, self.occurrence, kind, resultant, block)
        fill(key, out, sigma)
