"""Arrays at a fixed place in a file, filled tile by tile, by whichever process has the tile.

A block is a small picklable description. Each `put` opens the file, writes the rows and closes it
again: so that on a network file system, too, whoever reads after it sees them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from ..core.detector import Window
from ..core.float16 import to_float16
from ..system.files import NOT_THROUGH, named


@dataclass(frozen=True)
class Block:
    """A window of the detector in a file, plane after plane, row after row.

    Attributes
    ----------
    path : str
    offset : int
        Byte at which it starts.
    dtype : str
        As stored, byte order included.
    window : Window
        The part of the full frame that it holds.
    planes : int or None
        Length of a first axis, None for a two-dimensional array.
    """

    path: str
    offset: int
    dtype: str
    window: Window
    planes: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (*(() if self.planes is None else (self.planes,)), *self.window.shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def plane(self, j: int) -> Block:
        """Plane `j` of the first axis, as a block of its own."""
        size = int(np.prod(self.window.shape)) * np.dtype(self.dtype).itemsize
        return Block(self.path, self.offset + j * size, self.dtype, self.window)

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write what `values`, an array on `window` of the full frame, has of this block."""
        with _opened(self.path, os.O_WRONLY) as fd:
            self._write(fd, values, window)

    def _write(self, fd: int, values: np.ndarray, window: Window) -> None:
        both = self.window.intersection(window)
        if both is None:
            return
        part = values[(..., *both.within(window))]
        part = to_float16(part) if np.dtype(self.dtype) == np.float16 else part
        part = np.ascontiguousarray(part, dtype=self.dtype)
        for rows, start in self._runs(part, both):
            view = rows.data.cast("B")
            with named(self.path):
                while len(view):
                    n = os.pwrite(fd, view, start)
                    view, start = view[n:], start + n

    def read(self, window: Window | None = None) -> np.ndarray:
        """A window of the full frame, zero outside the block; the whole block by default."""
        window = self.window if window is None else window
        native = np.dtype(self.dtype).newbyteorder("=")
        lead = () if self.planes is None else (self.planes,)
        both = self.window.intersection(window)
        if both is None:
            return np.zeros((*lead, *window.shape), native)
        part = np.empty((*lead, *both.shape), self.dtype)
        with _opened(self.path, os.O_RDONLY) as fd:
            for rows, start in self._runs(part, both):
                view = rows.data.cast("B")
                while len(view):
                    n = os.preadv(fd, [view], start)
                    if n == 0:
                        raise OSError(f"{self.path}: ends before byte {start + len(view)}")
                    view, start = view[n:], start + n
        part = part.astype(native, copy=False)
        if both == window:
            return part
        out = np.zeros((*lead, *window.shape), native)
        out[(..., *both.within(window))] = part
        return out

    def _runs(self, part: np.ndarray, place: Window) -> Iterable[tuple[np.ndarray, int]]:
        """Contiguous pieces of `part`, an array on `place`, and the byte where each lies."""
        ny, nx = self.window.shape
        size = part.dtype.itemsize
        y, x = place.y0 - self.window.y0, place.x0 - self.window.x0
        for j, plane in enumerate(part if part.ndim > 2 else part[np.newaxis]):
            start = self.offset + ((j * ny + y) * nx + x) * size
            if plane.shape[1] == nx:
                yield plane, start
            else:
                for i, row in enumerate(plane):
                    yield row, start + i * nx * size


@contextmanager
def _opened(path: str, flags: int):
    # Never O_CREAT: a task that outlives a failed run must not bring its file back.
    fd = os.open(path, flags | NOT_THROUGH)
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(frozen=True)
class Together:
    """Blocks that hold different parts of the same variable."""

    blocks: tuple[Block, ...]

    def put(self, values: np.ndarray, window: Window) -> None:
        """Write to each block what it has of `window`."""
        for block in self.blocks:
            if block.window.intersection(window) is not None:
                block.put(values, window)

    def read(self, window: Window | None = None) -> np.ndarray:
        """A window of the full frame, zero where no block is; the first block by default."""
        window = self.blocks[0].window if window is None else window
        out = self.blocks[0].read(window)
        for block in self.blocks[1:]:
            both = block.window.intersection(window)
            if both is not None:
                out[(..., *both.within(window))] = block.read(both)
        return out
