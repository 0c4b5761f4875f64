"""The tree and the headers of the binary blocks of an ASDF file, read without asdf."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..system.files import open_regular
from .tree import first_line, inline_array, lookup, parse_tree, resolve

_MAGIC = b"\xd3BLK"
_HEADER = struct.Struct(">I4sQQQ16s")
_STREAMED = 1
_TREE_LIMIT = 16 << 20
"""A tree larger than this is not one of ours; reading on would be reading pixels."""
_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class BinaryBlock:
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


def inline_values(path: str, key: tuple[str, ...], size_and_mtime: tuple[int, int]) -> np.ndarray:
    """An array whose numbers stand in the tree.

    Parameters
    ----------
    path : str
    key : tuple of str
        Where it stands.
    size_and_mtime : tuple of int
        Size and modification time of the file when it was described.

    Raises
    ------
    InputError
        If the file is not what it was.
    """
    with naming_file(Path(path)):
        head, _, found, _ = scan_file(Path(path))
        tree = parse_tree(head)
    if found != size_and_mtime:
        raise InputError(f"{path}: was changed while it was in use")
    node = lookup(tree, key)
    if isinstance(node, dict) and "value" in node and "unit" in node:
        node = node["value"]
    return inline_array(node, f"{path}: {'.'.join(key)}")


def scan_file(path: Path) -> tuple[bytes, list[BinaryBlock], tuple[int, int], str]:
    """Tree, blocks, size and time, and content of a file; see `Layout`."""
    with open_regular(path, "an ASDF file") as file:
        return scan_open(file, path)


def scan_open(file: BinaryIO, path: Path) -> tuple[bytes, list[BinaryBlock], tuple[int, int], str]:
    """`scan_file`, of one that is open."""
    status = os.fstat(file.fileno())
    head = _read_tree(file, path)
    blocks, headers = _read_blocks(file, len(head), status.st_size, path)
    size_and_mtime = (status.st_size, status.st_mtime_ns)
    unchecked = any(not block.checked for block in blocks)
    digest = hashlib.sha256(
        head + headers + (str(size_and_mtime).encode() if unchecked else b"")
    ).hexdigest()
    return head, blocks, size_and_mtime, digest


EXTERNAL = re.compile(rb"\bsource['\"]?: *[^\s\d-]")
"""What a tree has if an array lies in a file beside it (or a text of its metadata looks so)."""


def external_files(path: Path, tree: Any) -> tuple[tuple[str, tuple[int, int] | None], ...]:
    """External files that hold arrays of a tree, each with its size and time (None if missing)."""
    found: dict[str, tuple[int, int] | None] = {}
    left = [tree]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            left += node.values()
            external = isinstance(node.get("source"), str) and "datatype" in node
            other = resolve(str(path), node["source"]) if external else None
            if other is not None:
                found[str(other)] = file_size_and_mtime(other)
        elif isinstance(node, list):
            left += node
    return tuple(sorted(found.items()))


def file_size_and_mtime(path: Path) -> tuple[int, int] | None:
    """Size and modification time."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def joined_content(content: str, beside: Sequence[tuple[str, tuple[int, int] | None]]) -> str:
    """`Layout.content`, with that of the files beside."""
    parts = [content]
    for path, size_and_mtime in beside:
        try:
            with naming_file(Path(path)):
                parts.append(scan_file(Path(path))[3])
        except InputError:
            parts.append(str(size_and_mtime))
    return content if len(parts) == 1 else hashlib.sha256(" ".join(parts).encode()).hexdigest()


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
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
    head = bytearray(file.read(65536))
    if not head.startswith(b"#ASDF"):
        raise InputError(f"{path}: not an ASDF file")
    seen = 0
    while True:
        for end in (b"\n...\n", b"\n...\r\n"):
            i = head.find(end, max(seen - len(end), 0))
            if i >= 0:
                return bytes(head[: i + len(end)])
        more = file.read(1 << 20)
        if not more or len(head) > _TREE_LIMIT:
            raise InputError(f"{path}: truncated, the ASDF tree does not end")
        seen = len(head)
        head += more


def _read_blocks(file: Any, start: int, total: int, path: Path) -> tuple[list[BinaryBlock], bytes]:
    """Walk the block headers that follow the tree; returns them raw as well."""
    file.seek(start)
    gap = file.read(1 << 20).find(_MAGIC)  # writers may pad the tree
    if gap < 0:
        return [], b""
    blocks: list[BinaryBlock] = []
    headers, position = bytearray(), start + gap
    while True:
        if position >= total:
            return blocks, bytes(headers)
        file.seek(position)
        head = file.read(6)
        if head[:4] != _MAGIC:  # the block index, or the end
            return blocks, bytes(headers)
        if len(blocks) == _MOST_BLOCKS:
            raise InputError(f"{path}: more than {_MOST_BLOCKS} blocks, expected a few dozen")
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
        blocks.append(BinaryBlock(first, size, used, how, any(checksum)))
        headers += raw
        position = first + allocated
