"""An ASDF file whose large arrays have their place before its tree is known.

The arrays come first into being, tile by tile, from many tasks or processes; the tree, which says
what was found on the way, is written last, in front of them. So no frame is ever held in memory
to be written, and none is copied.

ASDF standard 1.6: a block is a header and its data, which may be allocated more room than it uses;
``source: n`` in the tree names the n-th block.
"""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import Window
from ..system.files import NEW, named, opened_here
from ..system.foreign import alone, load_asdf
from .blocks import Block

_MAGIC = b"\xd3BLK"
_HEADER = struct.Struct(">4sHI4sQQQ16s")
_LENGTH = _HEADER.size - 6
_PAGE = 4096
_FIRST = 1_000_000
"""Number of our first block while the tree is made; asdf gives its own, small arrays the numbers
from 0, and how many these are shows only then."""
_TAG = "tag:stsci.edu:asdf/core/ndarray-1.1.0"


class InPlaceFile:
    """A file in the making.

    Parameters
    ----------
    path : Path
        A temporary name, see `roman_dask_l2.io.atomic.replacing`.
    room : int
        Bytes kept free for the tree and its small arrays. If they need more in the end, the large
        arrays are moved, which costs time only.
    """

    def __init__(self, path: Path, room: int = 1 << 20) -> None:
        self.path = Path(path)
        self._first = self._end = -(-room // _PAGE) * _PAGE
        self._blocks: dict[str, Block] = {}

    def add(self, name: str, dtype: str, window: Window, planes: int | None = None) -> Block:
        """Give an array its place.

        Parameters
        ----------
        name : str
        dtype : str
            In native (little-endian) order.
        window : Window
            What it holds of the full frame.
        planes : int, optional
            Length of a first axis.
        """
        if name in self._blocks:
            raise ValueError(f"{name} has its place already")
        start = -(-(self._end + _HEADER.size) // _PAGE) * _PAGE
        block = Block(str(self.path), start, np.dtype(dtype).str, window, planes)
        self._blocks[name] = block
        self._end = start + block.nbytes
        return block

    def drop_last(self) -> None:
        """Take back the place of the array that was added last."""
        self._blocks.popitem()
        last = next(reversed(self._blocks.values()))
        self._end = last.offset + last.nbytes

    def create(self) -> None:
        """Make the file in its full size, all arrays zero (holes, which take no space)."""
        fd = os.open(self.path, NEW, 0o666)
        try:
            os.truncate(fd, self._end)
        finally:
            os.close(fd)

    def node(self, name: str) -> Any:
        """What stands in the tree for an array."""
        with alone():
            from asdf.tagged import TaggedDict

        block = self._blocks[name]
        dtype = np.dtype(block.dtype)
        node = {
            "source": _FIRST + list(self._blocks).index(name),
            "datatype": "bool8" if dtype.kind == "b" else dtype.name,
            "byteorder": "little",
            "shape": list(block.shape),
        }
        return TaggedDict(node, _TAG)

    def finish(self, tree: dict[str, Any]) -> None:
        """Write the tree in front of the arrays.

        Parameters
        ----------
        tree : dict
            With `node` where an array of this file belongs. Other arrays in it should be small.

        Raises
        ------
        asdf.ValidationError
            If the tree is not what its schemas want.
        """
        buffer = io.BytesIO()
        with alone():
            load_asdf().AsdfFile(tree).write_to(buffer, include_block_index=False)
        made = buffer.getvalue()
        end = made.index(b"\n...\n") + len(b"\n...\n")
        own = _own_blocks(made, end)
        numbers = rb"(?<=\n)( *source: )(%d\d{%d})(?=\n)" % (_FIRST // 10**6, 6)
        text = re.sub(numbers, lambda m: m[1] + b"%d" % (int(m[2]) - _FIRST + len(own)), made[:end])
        pieces = [text, *own]
        size = sum(len(p) for p in pieces)
        shift = 0
        if size + _HEADER.size > self._first:
            shift = -(-(size + _HEADER.size - self._first) // _PAGE) * _PAGE
            self._move(shift)
        with named(self.path), open(self.path, "r+b", opener=opened_here) as file:
            starts, position = [], len(text)
            file.write(text)
            for i, piece in enumerate(own):
                starts.append(position)
                if i == len(own) - 1:  # its room reaches up to the first large array
                    piece = _allocated(piece, self._headers(shift)[0] - position - _HEADER.size)
                file.write(piece)
                position += len(piece)
            if not own:  # nothing but padding may stand between the tree and the first block
                file.write(b"\0" * (self._headers(shift)[0] - position))
            headers = self._headers(shift)
            after = [*headers[1:], self._end + shift]
            for block, here, following in zip(self._blocks.values(), headers, after, strict=True):
                room = following - here - _HEADER.size
                head = (_MAGIC, _LENGTH, 0, b"", room, block.nbytes, block.nbytes, b"")
                file.seek(here)
                file.write(_HEADER.pack(*head))
            file.seek(self._end + shift)
            index = "".join(f"- {n}\n" for n in [*starts, *headers])
            file.write(f"#ASDF BLOCK INDEX\n%YAML 1.1\n---\n{index}...\n".encode())
            file.truncate()

    def _headers(self, shift: int) -> list[int]:
        return [b.offset + shift - _HEADER.size for b in self._blocks.values()]

    def _move(self, shift: int) -> None:
        """Move everything from the first block on towards the end of the file."""
        step = 1 << 24
        with named(self.path), open(self.path, "r+b", opener=opened_here) as file:
            for start in reversed(range(self._first, self._end, step)):
                file.seek(start)
                data = file.read(min(step, self._end - start))
                file.seek(start + shift)
                file.write(data)


def _own_blocks(made: bytes, position: int) -> list[bytes]:
    """The blocks that asdf wrote, header and data each."""
    found = []
    while made[position : position + 4] == _MAGIC:
        length = int.from_bytes(made[position + 4 : position + 6], "big")
        allocated = int.from_bytes(made[position + 14 : position + 22], "big")
        size = 6 + length + allocated
        found.append(made[position : position + size])
        position += size
    return found


def _allocated(block: bytes, size: int) -> bytes:
    """A block with another allocated size in its header."""
    return block[:14] + size.to_bytes(8, "big") + block[22:]
