"""What an ASDF file holds and where, without reading an array.

Only the YAML tree and the headers of the binary blocks are read (ASDF standard 1.6, "Blocks"), so
a file of any size is described in milliseconds, no extension has to be loaded, and each task can
read its own window straight from the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .arrays import FileArray, lookup
from .opened import _Cache
from .packed import COMPRESSIONS, Packed
from .tree import TYPES, first_line, inline_array, parse_tree, resolve

_MAGIC = b"\xd3BLK"
_HEADER = struct.Struct(">I4sQQQ16s")
_STREAMED = 1
_TREE_LIMIT = 64 << 20
"""A tree larger than this is not one of ours; reading on would be reading pixels."""
_known = _Cache(64)


@dataclass(frozen=True)
class _Block:
    """Where the data of a block start, their bytes unpacked and in the file, how they are packed,
    and whether the header has their MD5."""

    start: int
    size: int
    used: int
    compression: str
    checked: bool

    @property
    def plain(self) -> bool:
        return not self.compression


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
    mark : tuple of int
        Size and modification time in nanoseconds.
    content : str
        SHA-256 of the tree and the block headers. These carry an MD5 of every block, so it
        changes with any pixel, without the cost of reading them. Where a writer left the MD5
        out, size and modification time of the file stand in for it. The same of the files beside
        it in which it has arrays.
    beside : tuple of (str, tuple of int)
        Files in which it has arrays, and their marks.
    tag : str or None
        The YAML tag of ``roman``, None if it has none.
    """

    path: str
    tree: Any
    blocks: tuple[_Block, ...]
    mark: tuple[int, int]
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
            return FileArray(self.path, key, values.shape, values.dtype.str, None, self.mark)
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
            raise InputError(f"{where} has unsupported type {name} {shape}")
        dtype = np.dtype(TYPES[name]).newbyteorder(
            ">" if node.get("byteorder", "little") == "big" else "<"
        )
        path, mark, block = self._block(node["source"], where)
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
            return FileArray(path, key, shape, dtype.str, None, mark, packed)
        return FileArray(path, key, shape, dtype.str, block.start + offset, mark)

    def _block(self, source: Any, where: str) -> tuple[str, tuple[int, int], _Block]:
        """The block that holds an array, and path and mark of the file that has the block."""
        if isinstance(source, int):
            if not -len(self.blocks) <= source < len(self.blocks):
                raise InputError(
                    f"{self.path}: truncated, the data of {where.rpartition(': ')[2]} are missing"
                )
            return self.path, self.mark, self.blocks[source]
        path = resolve(self.path, source)
        if path is None:
            raise InputError(f"{where} lies in {source}, expected a file of this machine")
        try:
            with _clearly(path):
                _, blocks, mark, _ = _scan(path)
        except InputError as error:
            raise InputError(f"{where} lies in {error}") from error
        if not blocks:
            raise InputError(f"{where} lies in {path}: truncated, it has no data")
        return str(path), mark, blocks[0]

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
    with _clearly(path):
        head, blocks, mark, content = _scan(path)
        tree = parse_tree(head)
        tag = _tag_of("roman", head)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: the ASDF file has no tree")
    beside = _beside(path, tree) if _EXTERNAL.search(head) else ()
    return Layout(str(path), tree, tuple(blocks), mark, _joined(content, beside), beside, tag)


def known_layout(path: str | os.PathLike[str]) -> Layout:
    """`read_layout`, once per process while size and modification time stay what they are.

    For reference files, which many exposures share.
    """
    path = Path(path).absolute()
    with _clearly(path):
        status = os.stat(path)
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    layout: Layout = _known.get(key, lambda: read_layout(path))
    if any(_mark(Path(other)) != mark for other, mark in layout.beside):
        return read_layout(path)
    return layout


def inline_values(path: str, key: tuple[str, ...], mark: tuple[int, int]) -> np.ndarray:
    """An array whose numbers stand in the tree.

    Parameters
    ----------
    path : str
    key : tuple of str
        Where it stands.
    mark : tuple of int
        Size and modification time of the file when it was described.

    Raises
    ------
    InputError
        If the file is not what it was.
    """
    with _clearly(Path(path)):
        head, _, found, _ = _scan(Path(path))
        tree = parse_tree(head)
    if found != mark:
        raise InputError(f"{path}: was changed while it was in use")
    node = lookup(tree, key)
    if isinstance(node, dict) and "value" in node and "unit" in node:
        node = node["value"]
    return inline_array(node, f"{path}: {'.'.join(key)}")


def read_head(path: str | os.PathLike[str]) -> tuple[bytes, str]:
    """The YAML tree as it stands in the file, and `Layout.content`; without parsing the tree.

    Raises
    ------
    InputError
        As `read_layout`.
    """
    path = Path(path).absolute()
    with _clearly(path):
        head, _, _, content = _scan(path)
        beside = _beside(path, parse_tree(head)) if _EXTERNAL.search(head) else ()
    return head, _joined(content, beside)


def _tag_of(name: str, head: bytes) -> str | None:
    """The tag of an entry at the top of the YAML tree, None if there is no entry or no tag."""
    import yaml

    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    depth, key = 0, None
    for event in yaml.parse(head, loader):
        begins = isinstance(event, yaml.CollectionStartEvent)
        if depth == 1 and (begins or isinstance(event, yaml.ScalarEvent | yaml.AliasEvent)):
            if key == name:
                return getattr(event, "tag", None)
            key = getattr(event, "value", "") if key is None else None
        if begins:
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return None


def _scan(path: Path) -> tuple[bytes, list[_Block], tuple[int, int], str]:
    """Tree, blocks, mark and content of a file; see `Layout`."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # a pipe would wait for its other end
        raise InputError(f"{path}: is not a regular file, expected an ASDF file")
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        head = _read_tree(file, path)
        blocks, headers = _read_blocks(file, len(head), status.st_size, path)
    mark = (status.st_size, status.st_mtime_ns)
    unmarked = any(not block.checked for block in blocks)
    digest = hashlib.sha256(head + headers + (str(mark).encode() if unmarked else b"")).hexdigest()
    return head, blocks, mark, digest


_EXTERNAL = re.compile(rb"\bsource['\"]?: *[^\s\d-]")
"""What a tree has if an array lies in a file beside it (or a text of its metadata looks so)."""


def _beside(path: Path, tree: Any) -> tuple[tuple[str, tuple[int, int] | None], ...]:
    """Files in which arrays of a tree lie, and their marks; None of those that are not there."""
    found: dict[str, tuple[int, int] | None] = {}
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            left += node.values()
            external = isinstance(node.get("source"), str) and "datatype" in node
            other = resolve(str(path), node["source"]) if external else None
            if other is not None:
                found[str(other)] = _mark(other)
        elif isinstance(node, list):
            left += node
    return tuple(sorted(found.items()))


def _mark(path: Path) -> tuple[int, int] | None:
    """Size and modification time."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def _joined(content: str, beside: Sequence[tuple[str, tuple[int, int] | None]]) -> str:
    """`Layout.content`, with that of the files beside."""
    parts = [content]
    for path, mark in beside:
        try:
            with _clearly(Path(path)):
                parts.append(_scan(Path(path))[3])
        except InputError:
            parts.append(str(mark))
    return content if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def _clearly(path: Path) -> Iterator[None]:
    """What goes wrong inside the block becomes an `InputError` that names the file."""
    import yaml

    try:
        yield
    except IsADirectoryError as error:
        raise InputError(f"{path}: is a directory, expected an ASDF file") from error
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, yaml.YAMLError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a readable ASDF file ({first_line(error)})") from error


def _read_tree(file: Any, path: Path) -> bytes:
    """Everything up to the end of the YAML document."""
    head = file.read(65536)
    if not head.startswith(b"#ASDF"):
        raise InputError(f"{path}: not an ASDF file")
    while True:
        for end in (b"\n...\n", b"\n...\r\n"):
            i = head.find(end)
            if i >= 0:
                return bytes(head[: i + len(end)])
        more = file.read(1 << 20)
        if not more or len(head) > _TREE_LIMIT:
            raise InputError(f"{path}: truncated, the ASDF tree does not end")
        head += more


def _read_blocks(file: Any, start: int, total: int, path: Path) -> tuple[list[_Block], bytes]:
    """Walk the block headers that follow the tree; returns them raw as well."""
    file.seek(start)
    gap = file.read(1 << 20).find(_MAGIC)  # writers may pad the tree
    if gap < 0:
        return [], b""
    blocks: list[_Block] = []
    headers, position = b"", start + gap
    while True:
        file.seek(position)
        head = file.read(6)
        if head[:4] != _MAGIC:  # the block index, or the end
            return blocks, headers
        length = struct.unpack(">H", head[4:])[0] if len(head) == 6 else 0
        raw = file.read(length)
        if len(raw) < max(length, _HEADER.size):
            raise InputError(f"{path}: truncated ({total} bytes, a block header is cut off)")
        flags, compression, allocated, used, data_size, checksum = _HEADER.unpack_from(raw)
        first = position + 6 + length
        if flags & _STREAMED:
            allocated = used = data_size = total - first
        if first + used > total:
            raise InputError(
                f"{path}: truncated, {total} bytes where a block alone ends at {first + used}"
            )
        how = compression.rstrip(b"\0").decode("ascii", "replace")
        size = data_size if how else used
        blocks.append(_Block(first, size, used, how, any(checksum)))
        headers += raw
        position = first + allocated
