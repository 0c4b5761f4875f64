"""What an ASDF file holds and where, without reading an array.

Only the YAML tree and the headers of the binary blocks are read (ASDF standard 1.6, "Blocks"), so
a file of any size is described in milliseconds, no extension has to be loaded, and each task can
read its own window straight from the file.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .arrays import FileArray
from .opened import Cache
from .packed import COMPRESSIONS, Packed
from .scan import (
    EXTERNAL,
    BinaryBlock,
    external_files,
    file_size_and_mtime,
    joined_content,
    naming_file,
    scan_file,
)
from .tree import (
    BESIDE,
    TYPES,
    inline_array,
    lookup,
    parse_tree,
    parse_tree_and_tag,
    resolve,
    shown,
)

_known = Cache(64)
_MOST_AXES = 8
_MOST_SIDE = 1 << 40
"""Elements of an array."""


@dataclass(frozen=True)
class Layout:
    """Tree and blocks of one ASDF file.

    Attributes
    ----------
    path : str
        Absolute path.
    tree : dict
        The YAML tree, custom tags left as plain dicts, lists and scalars.
    blocks : tuple
    size_and_mtime : tuple of int
        Size and modification time in nanoseconds.
    content : str
        SHA-256 of the tree and the block headers. These carry an MD5 of every block, so it
        changes with any pixel, without the cost of reading them. Where a writer left the MD5
        out, size and modification time of the file stand in for it. The same of the files beside
        it in which it has arrays.
    beside : tuple of (str, tuple of int)
        Files in which it has arrays, and their sizes and modification times.
    tag : str or None
        The YAML tag of ``roman``, None if it has none.
    """

    path: str
    tree: Any
    blocks: tuple[BinaryBlock, ...]
    size_and_mtime: tuple[int, int]
    content: str
    beside: tuple[tuple[str, tuple[int, int] | None], ...] = ()
    tag: str | None = None

    def array(self, *key: str) -> FileArray | None:
        """Describe the array at ``tree[key[0]][key[1]]...``; None if there is nothing.

        Raises
        ------
        InputError
            If what stands there is not an array.
        """
        try:
            node = lookup(self.tree, key)
        except KeyError:
            return None
        if node is None:
            return None
        if isinstance(node, dict) and "value" in node and "unit" in node:
            node = node["value"]  # an astropy Quantity
        where = f"{self.path}: {'.'.join(key)}"
        if isinstance(node, list) or (isinstance(node, dict) and "data" in node):
            values = inline_array(node, where)
            return FileArray(
                self.path, key, values.shape, values.dtype.str, None, self.size_and_mtime
            )
        if not (isinstance(node, dict) and {"source", "shape", "datatype"} <= set(node)):
            raise InputError(f"{where} is not an array")
        try:
            shape = tuple(int(n) if n != "*" else -1 for n in node["shape"])
            offset = int(node.get("offset", 0))
            strides = tuple(int(n) for n in node["strides"]) if "strides" in node else None
            consistent = strides is None or len(strides) == len(shape)
        except (TypeError, ValueError):
            consistent = False
        if not consistent:
            raise InputError(f"{where} has no usable shape, offset and strides")
        name = node["datatype"]
        if not isinstance(name, str) or name not in TYPES or min((0, *shape)) < 0:
            raise InputError(f"{where} has unsupported type {shown(name)} {shown(shape)}")
        if (
            len(shape) > _MOST_AXES
            or max((0, *shape)) > _MOST_SIDE
            or math.prod(shape) > _MOST_SIDE
        ):
            raise InputError(f"{where} has an impossible shape {shown(shape)}")
        dtype = np.dtype(TYPES[name]).newbyteorder(
            ">" if node.get("byteorder", "little") == "big" else "<"
        )
        path, size_and_mtime, block = self._block(node["source"], where)
        packed = Packed(block.start, offset, block.used, block.size, block.compression, strides)
        if packed.compression not in COMPRESSIONS:
            raise InputError(
                f"{where} is compressed with {packed.compression!r}, "
                "expected zlib, bzp2, lz4 or no compression"
            )
        first, last = packed.span(shape, dtype.itemsize)
        if first < 0 or last > block.size:
            raise InputError(f"{where} is larger than its block")
        if packed.compression or strides is not None:
            return FileArray(path, key, shape, dtype.str, None, size_and_mtime, packed)
        return FileArray(path, key, shape, dtype.str, block.start + offset, size_and_mtime)

    def _block(self, source: Any, where: str) -> tuple[str, tuple[int, int], BinaryBlock]:
        """The block that holds an array, and the path, size and time of the file that has it."""
        if isinstance(source, int):
            if not -len(self.blocks) <= source < len(self.blocks):
                raise InputError(
                    f"{self.path}: truncated, the data of {where.rpartition(': ')[2]} are missing"
                )
            return self.path, self.size_and_mtime, self.blocks[source]
        path = resolve(self.path, source)
        if path is None:
            raise InputError(f"{where} lies in {shown(source)}, {BESIDE}")
        try:
            with naming_file(path):
                _, blocks, size_and_mtime, _ = scan_file(path)
        except InputError as error:
            raise InputError(f"{where} lies in {error}") from error
        if not blocks:
            raise InputError(f"{where} lies in {path}: truncated, it has no data")
        return str(path), size_and_mtime, blocks[0]

    def value(self, *key: str, default: Any = None) -> Any:
        """A scalar, list or mapping of the tree, or `default` where there is none."""
        try:
            return lookup(self.tree, key)
        except KeyError:
            return default


def read_layout(path: str | os.PathLike[str]) -> Layout:
    """Describe an ASDF file.

    Raises
    ------
    InputError
        If the file is missing, unreadable, not ASDF, or truncated.
    """
    path = Path(path).absolute()
    with naming_file(path):
        head, blocks, size_and_mtime, content = scan_file(path)
        tree, tag = parse_tree_and_tag(head, "roman")
    if not isinstance(tree, dict):
        raise InputError(f"{path}: the ASDF file has no tree")
    beside = external_files(path, tree) if EXTERNAL.search(head) else ()
    return Layout(
        str(path), tree, tuple(blocks), size_and_mtime, joined_content(content, beside), beside, tag
    )


def known_layout(path: str | os.PathLike[str]) -> Layout:
    """`read_layout`, once per process while size and modification time stay what they are.

    For reference files, which many exposures share.
    """
    path = Path(path).absolute()
    with naming_file(path):
        status = os.stat(path)
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    layout: Layout = _known.get(key, lambda: read_layout(path))
    if any(file_size_and_mtime(Path(other)) != found for other, found in layout.beside):
        return read_layout(path)
    return layout


def read_head(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The YAML tree as it stands in the file, and `Layout.content`; without parsing the tree.

    Raises
    ------
    InputError
        As `read_layout`.
    """
    path = Path(path).absolute()
    with naming_file(path):
        head, _, _, content = scan_file(path)
        beside = external_files(path, parse_tree(head)) if EXTERNAL.search(head) else ()
    return head, joined_content(content, beside)
