"""What an ASDF file holds and where, without reading an array.

Only the YAML tree and the headers of the binary blocks are read (ASDF standard 1.6, "Blocks"), so
a file of any size is described in milliseconds, no extension has to be loaded, and each task can
read its own window straight from the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .arrays import FileArray, Packed, _Cache, lookup

_MAGIC = b"\xd3BLK"
_HEADER = struct.Struct(">I4sQQQ16s")
_STREAMED = 1
_TREE_LIMIT = 64 << 20
"""A tree larger than this is not one of ours; reading on would be reading pixels."""
_TYPES = {
    **{f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"float{bits}" for bits in (16, 32, 64)},
    "bool8": "bool",
}
_known = _Cache(64)


@dataclass(frozen=True)
class _Block:
    start: int
    size: int
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
        out, size and modification time of the file stand in for it.
    tag : str or None
        The YAML tag of ``roman``, None if it has none.
    """

    path: str
    tree: Any
    blocks: tuple[_Block, ...]
    mark: tuple[int, int]
    content: str
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
        if isinstance(node, list) or (isinstance(node, dict) and "data" in node):
            values = np.asarray(node["data"] if isinstance(node, dict) else node)
            return self._file_array(key, values.shape, str(values.dtype), None)
        if not (isinstance(node, dict) and {"source", "shape", "datatype"} <= set(node)):
            raise InputError(f"{self.path}: {'.'.join(key)} is not an array")
        shape = tuple(int(n) if n != "*" else -1 for n in node["shape"])
        name = node["datatype"]
        source = node["source"]
        if not isinstance(name, str) or name not in _TYPES or -1 in shape:
            raise InputError(f"{self.path}: {'.'.join(key)} has unsupported type {name} {shape}")
        dtype = np.dtype(_TYPES[name]).newbyteorder(
            ">" if node.get("byteorder", "little") == "big" else "<"
        )
        if not isinstance(source, int) or "strides" in node:
            return self._file_array(key, shape, dtype.str, None)
        if not -len(self.blocks) <= source < len(self.blocks):
            raise InputError(f"{self.path}: truncated, the data of {'.'.join(key)} are missing")
        block, offset = self.blocks[source], int(node.get("offset", 0))
        if block.compression == "lz4":
            return self._file_array(key, shape, dtype.str, None, Packed(block.start, offset))
        if not block.plain:
            return self._file_array(key, shape, dtype.str, None)
        if offset + int(np.prod(shape)) * dtype.itemsize > block.size:
            raise InputError(f"{self.path}: {'.'.join(key)} is larger than its block")
        return self._file_array(key, shape, dtype.str, block.start + offset)

    def _file_array(
        self,
        key: tuple[str, ...],
        shape: tuple[int, ...],
        dtype: str,
        offset: int | None,
        packed: Packed | None = None,
    ) -> FileArray:
        return FileArray(self.path, key, shape, dtype, offset, self.mark, packed)

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
        import asdf.util

        head, blocks, mark, content = _scan(path)
        # From the text and not by name: asdf would read "//", "#" and "%20" in a name as a URL.
        tree = asdf.util.load_yaml(io.BytesIO(head))
        tag = _tag_of("roman", head)
    if not isinstance(tree, dict):
        raise InputError(f"{path}: the ASDF file has no tree")
    return Layout(str(path), tree, tuple(blocks), mark, content, tag)


def known_layout(path: str | os.PathLike[str]) -> Layout:
    """`read_layout`, once per process while size and modification time stay what they are.

    For reference files, which many exposures share.
    """
    path = Path(path).absolute()
    with _clearly(path):
        status = os.stat(path)
    key = (str(path), status.st_ino, status.st_size, status.st_mtime_ns)
    return _known.get(key, lambda: read_layout(path))


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
    return head, content


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
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        head = _read_tree(file, path)
        blocks, headers = _read_blocks(file, len(head), status.st_size, path)
    mark = (status.st_size, status.st_mtime_ns)
    unmarked = any(not block.checked for block in blocks)
    digest = hashlib.sha256(head + headers + (str(mark).encode() if unmarked else b"")).hexdigest()
    return head, blocks, mark, digest


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
        raise InputError(f"{path}: not a readable ASDF file ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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


def _read_blocks(file: Any, start: int, size: int, path: Path) -> tuple[list[_Block], bytes]:
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
            raise InputError(f"{path}: truncated ({size} bytes, a block header is cut off)")
        flags, compression, allocated, used, data_size, checksum = _HEADER.unpack_from(raw)
        first = position + 6 + length
        if flags & _STREAMED:
            allocated = used = data_size = size - first
        if first + used > size:
            raise InputError(
                f"{path}: truncated, {size} bytes where a block alone ends at {first + used}"
            )
        how = compression.rstrip(b"\0").decode("ascii", "replace")
        blocks.append(_Block(first, data_size if how else used, how, any(checksum)))
        headers += raw
        position = first + allocated
