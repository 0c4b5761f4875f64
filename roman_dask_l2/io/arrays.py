"""Arrays that are read by window, inside tasks, wherever they lie.

A source is a small picklable object with ``read(window)``. Building a graph makes sources and
reads no pixels; a worker that runs a task opens the file itself.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.detector import BORDER, Window
from ..errors import InputError
from .opened import Cache, OpenFile
from .packed import Packed, Pieces, decode, from_map, unchanged

_NARROW = 16
"""A window this many times narrower than the array counts as a strip."""
_ROWS_BYTES = 1 << 19
"""Bytes of each plane that are read at a time for a strip."""

_files = Cache(64)
_decoded = Cache(16)
_pieces = Cache(16)
_PIECE_BYTES = 1 << 24
"""A block in larger pieces is unpacked as a whole."""


def keep_open(paths: Collection[str]) -> None:
    """Close all other files of this process and drop their decoded arrays.

    Between exposures: what the next one shares with this one stays, so that memory does not grow.
    """
    for cache in (_files, _decoded, _pieces):
        cache.keep(lambda key: key[0] in paths)


PIECE_BYTES = 1 << 22
"""Unpacked size of the pieces that asdf makes."""


def pieces_kept(shape: tuple[int, ...]) -> int:
    """Pieces of an array that are kept: those that a tile needs of every plane, and those of
    another tile where the next pieces begin."""
    n_planes = math.prod(shape[:-2])
    return 2 * n_planes + 2


@dataclass(frozen=True)
class FileArray:
    """One array in an ASDF file.

    Attributes
    ----------
    path : str
    key : tuple of str
        Where it stands in the file's tree.
    shape : tuple of int
    dtype : str
        As stored, byte order included.
    offset : int or None
        Byte at which it starts; None where it is not one plain block in C order.
    size_and_mtime : tuple of int
        Size and modification time of the file when it was described.
    packed : Packed or None
        Where it lies in another block; None as well where its numbers stand in the tree. What is
        compressed is decoded once per process, except with lz4, and what stands in the tree too.
    """

    path: str
    key: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    size_and_mtime: tuple[int, int]
    packed: Packed | None = None

    def read(self, window: Window | None = None, planes: slice = slice(None)) -> np.ndarray:
        """Rows and columns of `window` of the last two axes, `planes` of the first of three.

        Returns
        -------
        ndarray
            A fresh aligned array in native byte order.
        """
        stored = np.dtype(self.dtype)
        native = stored.newbyteorder("=")
        ny, nx = (1, 1, *self.shape)[-2:]
        w = window if window is not None else Window(0, ny, 0, nx)
        if self.in_pieces and 0 not in self.shape:
            pieces = _pieces.get((self.path, self.size_and_mtime, self.packed), self._open_pieces)
            if pieces.largest <= _PIECE_BYTES:
                return self._unpacked(pieces, w, planes)
        if self.offset is None:
            return self._from_other(w, planes)
        handle = self._open()
        if len(self.shape) < 2:
            out = np.empty(self.shape, stored)
            handle.read_into(out.reshape(-1).data.cast("B"), self.offset, self.path)
            return out.astype(native, copy=False)
        lead = self.shape[:-2]
        selected = range(lead[0])[planes] if lead else range(1)
        shape = (len(selected), *lead[1:], *w.shape) if lead else w.shape
        if 0 in shape:
            return np.empty(shape, native)
        if w.x0 == 0 and w.x1 == nx:
            out = np.empty(shape, stored)
            per_plane = int(np.prod(lead[1:], dtype=int))
            for i, target in enumerate(out.reshape(-1, *w.shape)):
                plane = selected[i // per_plane] * per_plane + i % per_plane
                start = self.offset + (plane * ny + w.y0) * nx * stored.itemsize
                handle.read_into(target.data.cast("B"), start, self.path)
            return out.astype(native, copy=False)
        if w.shape[1] * _NARROW < nx:
            # A strip touches every page of the file: better read all of it, a few rows at a time,
            # than keep it all mapped.
            out = np.empty(shape, native)
            step = max(_ROWS_BYTES // (nx * stored.itemsize), 1)
            for y in range(w.y0, w.y1, step):
                rows = self.read(Window(y, min(y + step, w.y1), 0, nx), planes)
                out[..., y - w.y0 : y - w.y0 + rows.shape[-2], :] = rows[..., w.x0 : w.x1]
            return out
        # Part of every row: the kernel's page cache is the better reader.
        self._check_size(handle)
        out = np.empty(shape, native)
        flat = out.reshape(-1, *w.shape)
        per_plane = int(np.prod(lead[1:], dtype=int))
        for i, target in enumerate(flat):
            plane = selected[i // per_plane] * per_plane + i % per_plane
            start = self.offset + (plane * ny + w.y0) * nx * stored.itemsize
            rows = np.ndarray((w.shape[0], nx), stored, handle.map, start)
            target[...] = rows[:, w.x0 : w.x1]
            # They stay in the system's cache, but do not count as this process's memory.
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            handle.map.madvise(mmap.MADV_DONTNEED, first, start + rows.nbytes - first)
        return out

    @property
    def in_pieces(self) -> bool:
        """Whether it is unpacked piece by piece, as it is needed."""
        packed = self.packed
        return packed is not None and packed.compression == "lz4" and packed.strides is None

    def _open(self) -> OpenFile:
        file: OpenFile = _files.get(
            (self.path, self.size_and_mtime), lambda: OpenFile(self.path, self.size_and_mtime)
        )
        return file

    def _check_size(self, handle: OpenFile) -> None:
        if not unchanged(handle, self.size_and_mtime[0]):
            raise InputError(f"{self.path}: was changed while it was in use")

    def _open_pieces(self) -> Pieces:
        assert self.packed is not None
        handle = self._open()
        nbytes = self.packed.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return Pieces(handle, self.path, self.packed, nbytes, pieces_kept(self.shape))

    def _unpacked(self, pieces: Pieces, w: Window, planes: slice) -> np.ndarray:
        """`read` from a packed block: whole rows are unpacked, then cut."""
        assert self.packed is not None
        stored = np.dtype(self.dtype)
        ny, nx = (1, 1, *self.shape)[-2:]
        lead = self.shape[:-2]
        inner = math.prod(lead[1:])
        selected = range(lead[0])[planes] if lead else range(1)
        out = np.empty((len(selected), inner, *w.shape), stored.newbyteorder("="))
        rows = np.empty((w.shape[0], nx), stored)
        for i, j in enumerate(selected):
            for k in range(inner):
                start = (((j * inner + k) * ny) + w.y0) * nx * stored.itemsize
                pieces.read_into(rows.data.cast("B"), self.packed.offset + start)
                out[i, k] = rows[:, w.x0 : w.x1]
        if len(self.shape) < 2:
            return out.reshape(self.shape)
        return out.reshape((*((len(selected), *lead[1:]) if lead else ()), *w.shape))

    def _from_other(self, w: Window, planes: slice) -> np.ndarray:
        """`read` where it is not one plain block."""
        stored = np.dtype(self.dtype)
        cut: tuple[Any, ...] = (...,)
        if len(self.shape) > 1:
            cut = (planes, ..., *w.slices) if len(self.shape) > 2 else w.slices
        if self.packed is not None and not self.packed.compression:
            handle = self._open()
            self._check_size(handle)
            return from_map(handle, self.packed, self.shape, stored, cut)
        whole = _decoded.get((self.path, self.key, self.size_and_mtime), self._decode)
        return np.array(whole[cut], dtype=stored.newbyteorder("="), order="C")

    def _decode(self) -> np.ndarray:
        """The whole array, as stored."""
        if self.packed is None:
            from .scan import inline_values

            return inline_values(self.path, self.key, self.size_and_mtime)
        handle = OpenFile(
            self.path, self.size_and_mtime
        )  # raises unless it is the file that was described
        return decode(handle, self.path, self.packed, self.shape, np.dtype(self.dtype))


@dataclass(frozen=True)
class Placed:
    """A file's array as the pipeline wants it: type, last planes, and place on the detector.

    Attributes
    ----------
    array : FileArray
    side : int
        Detector side N.
    dtype : str or None
        Type to convert to; None keeps float32 or float64 as stored.
    planes : int or None
        Take the last so many planes,
    first : bool
        or the first so many.
    """

    array: FileArray
    side: int
    dtype: str | None
    planes: int | None = None
    first: bool = False

    def read(self, window: Window | None = None) -> np.ndarray:
        """The array on a window of the full frame; zero on the border if it covers only active
        pixels."""
        shape = self.array.shape
        planes = slice(None)
        if self.planes is not None:
            skipped = 0 if self.first else shape[0] - self.planes
            planes = slice(skipped, skipped + self.planes)
        if window is None or len(shape) < 2 or shape[-1] != self.side - 2 * BORDER:
            return self._converted(self.array.read(window, planes))
        inner = window.active(self.side)
        moved = Window(*(v - BORDER for v in inner))
        part = self._converted(self.array.read(moved, planes))
        out = np.zeros((*part.shape[:-2], *window.shape), part.dtype)
        out[(..., *inner.within(window))] = part
        return out

    def _converted(self, values: np.ndarray) -> np.ndarray:
        if self.dtype is not None:
            return values.astype(self.dtype, copy=False)
        return values if values.dtype in (np.float32, np.float64) else values.astype(np.float32)


@dataclass(frozen=True)
class Constant:
    """A small value that is known when the graph is built."""

    value: Any = field(hash=False)

    def read(self, window: Window | None = None) -> Any:
        return self.value


@dataclass(frozen=True)
class ReadTime:
    """Read time of each pixel within a frame, s."""

    detector_number: int
    side: int
    frame_time: float

    def read(self, window: Window | None = None) -> np.ndarray:
        from ..core.pixel_times import pixel_times

        whole = Window(0, self.side, 0, self.side)
        return pixel_times(self.detector_number, self.side, self.frame_time, window or whole)


@dataclass(frozen=True, eq=False)
class PixelArea:
    """Solid angle of each pixel over that of a (0.11 arcsec)^2 one; 1 on the border."""

    spline: Any
    side: int

    def read(self, window: Window | None = None) -> np.ndarray:
        window = window or Window(0, self.side, 0, self.side)
        inner = window.active(self.side)
        out = np.ones(window.shape)
        out[inner.within(window)] = self.spline.window(*(v - BORDER for v in inner))
        return out
