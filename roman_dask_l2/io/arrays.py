"""Arrays that are read by window, inside tasks, wherever they lie.

A source is a small picklable object with ``read(window)``. Building a graph makes sources and
reads no pixels; a worker that runs a task opens the file itself.
"""

from __future__ import annotations

import bisect
import math
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from ..detector import BORDER, Window
from ..errors import InputError


class _OpenFile:
    """A file descriptor, and a map of the file where partial rows are wanted."""

    def __init__(self, path: str, mark: tuple[int, int]) -> None:
        try:
            self.fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        status = os.fstat(self.fd)
        if (status.st_size, status.st_mtime_ns) != mark:
            os.close(self.fd)
            raise InputError(f"{path}: was changed while it was in use")
        self._lock = threading.Lock()
        self._map: mmap.mmap | None = None

    @property
    def map(self) -> mmap.mmap:
        with self._lock:
            if self._map is None:
                self._map = mmap.mmap(self.fd, 0, access=mmap.ACCESS_READ)
            return self._map

    def read_into(self, buffer: memoryview, offset: int, path: str) -> None:
        while len(buffer):
            n = os.preadv(self.fd, [buffer], offset)
            if n == 0:
                raise InputError(f"{path}: ends too early (truncated file?)")
            buffer, offset = buffer[n:], offset + n

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            os.close(self.fd)


class _Cache:
    """A small bounded per-process cache; an entry is made once even if threads race for it."""

    def __init__(self, size: int) -> None:
        self._size, self._lock = size, threading.Lock()
        self._entries: OrderedDict[Any, Any] = OrderedDict()
        self._making: dict[Any, threading.Lock] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._entries:
                    return self._entries[key]
            value = make()
            with self._lock:
                self._entries[key] = value
                self._making.pop(key, None)
                while len(self._entries) > self._size:
                    self._entries.popitem(last=False)
            return value

    def keep(self, wanted: Callable[[Any], bool]) -> None:
        """Drop all other keys."""
        with self._lock:
            for key in [key for key in self._entries if not wanted(key)]:
                del self._entries[key]


_NARROW = 16
"""A window this many times narrower than the array counts as a strip."""
_ROWS_BYTES = 1 << 19
"""Bytes of each plane that are read at a time for a strip."""

_files = _Cache(64)
_decoded = _Cache(16)
_pieces = _Cache(16)
_PIECE_BYTES = 1 << 24
"""A block in larger pieces is unpacked as a whole."""


def keep_open(paths: Collection[str]) -> None:
    """Close all other files of this process and drop their decoded arrays.

    Between exposures: what the next one shares with this one stays, so that memory does not grow.
    """
    for cache in (_files, _decoded, _pieces):
        cache.keep(lambda key: key[0] in paths)


@dataclass(frozen=True)
class Packed:
    """Where an array lies in a block that is compressed with lz4.

    asdf packs a block piece by piece, each on its own (a length of 4 bytes, big-endian, and an
    lz4 block with its size in front): so a task unpacks only the pieces that its window touches.

    Attributes
    ----------
    start : int
        Byte of the file at which the block's data start.
    offset : int
        Byte of the unpacked data at which the array starts.
    """

    start: int
    offset: int


class _Pieces:
    """The pieces of one packed block; the last used ones are kept unpacked.

    Parameters
    ----------
    handle : _OpenFile
    path : str
    packed : Packed
    nbytes : int
        Unpacked bytes that are needed, from the block's start.
    keep : int
        Pieces to keep.
    """

    def __init__(
        self, handle: _OpenFile, path: str, packed: Packed, nbytes: int, keep: int
    ) -> None:
        self._handle, self._path, self._cache = handle, path, _Cache(keep)
        # Unpacked size up to each piece; where each lies in the file, and its packed size.
        self._ends: list[int] = []
        self._places: list[tuple[int, int]] = []
        position, end = packed.start, 0
        head = bytearray(8)
        while end < nbytes:
            handle.read_into(memoryview(head), position, path)
            packed_size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[4:], "little")
            if packed_size <= 4 or size <= 0:
                raise InputError(f"{path}: damaged, a compressed block has an empty piece")
            end += size
            self._ends.append(end)
            self._places.append((position + 4, packed_size))
            position += 4 + packed_size

    @property
    def largest(self) -> int:
        """Bytes of the largest piece."""
        return max(b - a for a, b in zip([0, *self._ends], self._ends, strict=False))

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` with unpacked bytes from `offset` on."""
        i = bisect.bisect_right(self._ends, offset)
        while len(buffer):
            begin = self._ends[i - 1] if i else 0
            piece = self._cache.get(i, partial(self._unpack, i))
            part = memoryview(piece)[offset - begin : offset - begin + len(buffer)]
            buffer[: len(part)] = part
            buffer, offset, i = buffer[len(part) :], offset + len(part), i + 1

    def _unpack(self, i: int) -> bytes:
        import lz4.block

        place, size = self._places[i]
        raw = bytearray(size)
        self._handle.read_into(memoryview(raw), place, self._path)
        try:
            piece = lz4.block.decompress(raw)
        except lz4.block.LZ4BlockError as error:
            raise InputError(f"{self._path}: damaged, cannot be decompressed ({error})") from error
        if len(piece) != self._ends[i] - (self._ends[i - 1] if i else 0):
            raise InputError(f"{self._path}: damaged, a compressed piece has another size")
        return piece


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
        Byte at which it starts; None where it is not one plain block (compressed, inline): then
        it is decoded by asdf, once per process.
    mark : tuple of int
        Size and modification time of the file when it was described.
    packed : Packed or None
        Where it lies in an lz4 block.
    """

    path: str
    key: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    mark: tuple[int, int]
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
        ny, nx = self.shape[-2:] if len(self.shape) > 1 else (1, *self.shape[-1:])
        w = window if window is not None else Window(0, ny, 0, nx)
        if self.packed is not None and 0 not in self.shape:
            pieces = _pieces.get((self.path, self.mark, self.packed), self._open_pieces)
            if pieces.largest <= _PIECE_BYTES:
                return self._unpacked(pieces, w, planes)
        if self.offset is None:
            cut = (planes, ..., *w.slices) if len(self.shape) > 2 else w.slices
            whole = _decoded.get((self.path, self.key, self.mark), self._decode)
            return np.array(whole[cut] if len(self.shape) > 1 else whole, dtype=native, order="C")
        handle = _files.get((self.path, self.mark), lambda: _OpenFile(self.path, self.mark))
        if len(self.shape) < 2:
            out = np.empty(self.shape, stored)
            handle.read_into(out.data.cast("B"), self.offset, self.path)
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
        # Part of every row: the kernel's page cache is the better reader. Reading a map beyond the
        # end of a file that was cut off meanwhile would kill the process, not raise an error.
        if os.fstat(handle.fd).st_size != self.mark[0]:
            raise InputError(f"{self.path}: was changed while it was in use")
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

    def _open_pieces(self) -> _Pieces:
        assert self.packed is not None
        handle = _files.get((self.path, self.mark), lambda: _OpenFile(self.path, self.mark))
        nbytes = self.packed.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize
        return _Pieces(handle, self.path, self.packed, nbytes, pieces_kept(self.shape))

    def _unpacked(self, pieces: _Pieces, w: Window, planes: slice) -> np.ndarray:
        """`read` from a packed block: whole rows are unpacked, then cut."""
        assert self.packed is not None
        stored = np.dtype(self.dtype)
        ny, nx = self.shape[-2:] if len(self.shape) > 1 else (1, self.shape[-1])
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

    def _decode(self) -> np.ndarray:
        import asdf

        _OpenFile(self.path, self.mark)  # raises unless the file is the one that was described
        with asdf.config_context() as config:
            config.io_block_size = 1 << 22  # the default reads compressed data 4 kB at a time
            file = asdf.open(self.path, lazy_load=True, memmap=False)
        with file:
            node = lookup(file.tree, self.key)
            return np.array(getattr(node, "value", node))


def lookup(tree: Any, key: tuple[str, ...]) -> Any:
    """``tree[key[0]][key[1]]...``; raises KeyError where there is nothing."""
    for name in key:
        try:
            tree = tree[name]
        except (KeyError, TypeError, AttributeError) as error:
            raise KeyError(name) from error
    return tree


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
        if window is None or shape[-1] == self.side or len(shape) < 2:
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
        from ..pixel_times import pixel_times

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
