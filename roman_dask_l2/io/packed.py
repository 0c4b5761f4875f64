"""Arrays that are not one plain block: compressed, in pieces, with strides.

They are decoded here and not by asdf, whose locks a task must never wait for: while one thread
imports what asdf brings along, it holds the lock of the import and waits for asdf's, another thread
the other way round.
"""

from __future__ import annotations

import bisect
import bz2
import math
import mmap
import os
import zlib
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..errors import InputError
from .opened import Cache, OpenFile

COMPRESSIONS = ("", "zlib", "bzp2", "lz4")
"""Four letters in the header of a block."""
_CHUNK = 1 << 20
"""Bytes that are read, and unpacked, at a time."""
_LZ4_MOST = 256
"""lz4 makes nothing smaller by more than this."""


@dataclass(frozen=True)
class Packed:
    """Where an array lies in a block.

    Attributes
    ----------
    start : int
        Byte of the file at which the block's data start.
    offset : int
        Byte of the unpacked data at which the array's first element lies.
    used : int
        Bytes of the block in the file,
    size : int
        and unpacked.
    compression : str
        One of `COMPRESSIONS`. With lz4 asdf packs a block piece by piece, each on its own (a length
        of 4 bytes, big-endian, and an lz4 block with its size in front): so a task unpacks only
        the pieces that its window touches.
    strides : tuple of int or None
        Bytes from one element to the next along each axis; None in C order.
    """

    start: int
    offset: int
    used: int
    size: int
    compression: str
    strides: tuple[int, ...] | None = None

    def span(self, shape: tuple[int, ...], itemsize: int) -> tuple[int, int]:
        """First and last (exclusive) byte of an array in the unpacked data."""
        if self.strides is None:
            return self.offset, self.offset + math.prod(shape) * itemsize
        if 0 in shape:
            return self.offset, self.offset
        ways = [(n - 1) * step for n, step in zip(shape, self.strides, strict=True)]
        first = self.offset + sum(way for way in ways if way < 0)
        return first, self.offset + sum(way for way in ways if way > 0) + itemsize


class Pieces:
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

    def __init__(self, handle: OpenFile, path: str, packed: Packed, nbytes: int, keep: int) -> None:
        self._handle, self._path, self._cache = handle, path, Cache(keep)
        # Unpacked size up to each piece; where each lies in the file, and its packed size.
        self._ends: list[int] = []
        self._places: list[tuple[int, int]] = []
        position, end, last = packed.start, 0, packed.start + packed.used
        head = bytearray(8)
        while end < nbytes:
            if position + len(head) > last:
                raise InputError(f"{path}: damaged, a compressed block ends too early")
            handle.read_into(memoryview(head), position, path)
            packed_size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[4:], "little")
            if packed_size <= 4 or size <= 0:
                raise InputError(f"{path}: damaged, a compressed block has an empty piece")
            if size > _LZ4_MOST * packed_size or position + 4 + packed_size > last:
                raise InputError(f"{path}: damaged, a compressed piece is larger than its block")
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
            piece: bytes = lz4.block.decompress(raw)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
            raise InputError(f"{self._path}: damaged, cannot be decompressed ({error})") from error
        if len(piece) != self._ends[i] - (self._ends[i - 1] if i else 0):
            raise InputError(f"{self._path}: damaged, a compressed piece has another size")
        return piece


def decode(
    handle: OpenFile, path: str, packed: Packed, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """A whole array of a compressed block.

    Parameters
    ----------
    handle : _OpenFile
    path : str
        For errors.
    packed : Packed
    shape : tuple of int
    dtype : dtype
        As stored.

    Returns
    -------
    ndarray
        As stored; with the block's strides.

    Raises
    ------
    InputError
        If the block is damaged.
    """
    first, last = packed.span(shape, dtype.itemsize)
    data = np.empty(last - first, np.uint8)
    if packed.compression == "lz4":
        Pieces(handle, path, packed, last, 1).read_into(data.data, first)
    elif len(data):
        _inflate(handle, path, packed, first, data.data)
    return np.ndarray(shape, dtype, data.data, packed.offset - first, packed.strides)


def _inflate(handle: OpenFile, path: str, packed: Packed, skipped: int, wanted: memoryview) -> None:
    """Unpack a zlib or bzp2 block into `wanted`, from byte `skipped` of the unpacked data on. What
    has its end there is unpacked to its end, where the check sum stands."""
    stream = _Zlib() if packed.compression == "zlib" else _Bzip2()
    position, end = packed.start, packed.start + packed.used
    total, done = 0, skipped + len(wanted)
    whole = done == packed.size
    raw = bytearray(min(_CHUNK, packed.used))
    try:
        while total < done or (whole and not stream.eof):
            chunk: bytes | memoryview = b""
            if stream.hungry:
                part = memoryview(raw)[: end - position]
                if not part:
                    raise InputError(f"{path}: damaged, a compressed block ends too early")
                handle.read_into(part, position, path)
                chunk, position = part, position + len(part)
            out = stream.decompress(chunk, _CHUNK)
            begin = max(skipped - total, 0)
            here = wanted[max(total - skipped, 0) :][: max(len(out) - begin, 0)]
            here[:] = memoryview(out)[begin : begin + len(here)]
            total += len(out)
            if stream.eof and total < done or total > packed.size:
                raise InputError(f"{path}: damaged, a compressed block has another size")
    except (zlib.error, OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: damaged, cannot be decompressed ({error})") from error


class _Zlib:
    """zlib's decompressor, used like that of bz2."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()
        self._full = False

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def hungry(self) -> bool:
        """Whether it needs more of the file to go on."""
        return not self._stream.unconsumed_tail and not self._full

    def decompress(self, data: bytes | memoryview, most: int) -> bytes:
        out = self._stream.decompress(self._stream.unconsumed_tail or data, most)
        self._full = len(out) == most  # there may be more of it
        return out


class _Bzip2:
    """bz2's decompressor."""

    def __init__(self) -> None:
        self._stream = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def hungry(self) -> bool:
        """Whether it needs more of the file to go on."""
        return self._stream.needs_input

    def decompress(self, data: bytes | memoryview, most: int) -> bytes:
        return self._stream.decompress(data, most)


def from_map(
    handle: OpenFile,
    packed: Packed,
    shape: tuple[int, ...],
    dtype: np.dtype,
    cut: tuple[slice, ...],
) -> np.ndarray:
    """Part of an array with strides in a block that is not compressed.

    Parameters
    ----------
    handle : _OpenFile
    packed : Packed
    shape : tuple of int
    dtype : dtype
        As stored.
    cut : tuple of slice

    Returns
    -------
    ndarray
        In native byte order and C order.
    """
    view = np.ndarray(shape, dtype, handle.map, packed.start + packed.offset, packed.strides)
    out = np.array(view[cut], dtype=dtype.newbyteorder("="), order="C")
    # They stay in the system's cache, but do not count as this process's memory.
    low, high = packed.span(shape, dtype.itemsize)
    first = (packed.start + low) // mmap.PAGESIZE * mmap.PAGESIZE
    if high > low:
        handle.map.madvise(mmap.MADV_DONTNEED, first, packed.start + high - first)
    return out


def unchanged(handle: OpenFile, size: int) -> bool:
    """Whether a file still has its size: reading a map beyond the end of one that was cut off
    meanwhile would kill the process, not raise an error."""
    return os.fstat(handle.fd).st_size == size
