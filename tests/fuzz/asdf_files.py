"""ASDF files in memory whose tree and arrays can be changed and written in milliseconds.

The tree is kept as a graph of YAML nodes, so that tags survive; blocks are bytes.
"""

from __future__ import annotations

import bz2
import hashlib
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import yaml

MAGIC = b"\xd3BLK"
HEADER = struct.Struct(">I4sQQQ16s")


class AsdfFile:
    """A file taken apart.

    Attributes
    ----------
    root : yaml.Node
    blocks : list of (bytes, str)
        Data and compression of each block.
    """

    def __init__(self, path: Path) -> None:
        raw = path.read_bytes()
        end = raw.index(b"\n...\n") + 5
        self.comments = raw[: raw.index(b"%YAML")]
        self.root = yaml.compose(raw[:end], Loader=yaml.CSafeLoader)
        _forget_marks(self.root)
        self._pickled = pickle.dumps(self.root)  # quicker than copy.deepcopy
        self._sizes: dict[int, int] = {}
        self.blocks: list[tuple[bytes, str]] = []
        at = raw.find(MAGIC, end)
        while at >= 0 and raw[at : at + 4] == MAGIC:
            (length,) = struct.unpack(">H", raw[at + 4 : at + 6])
            _, how, allocated, used, _, _ = HEADER.unpack_from(raw, at + 6)
            first = at + 6 + length
            data = raw[first : first + used]
            self.blocks.append((_unpacked(data) if how == b"lz4\0" else data, ""))
            at = first + allocated

    def copy(self) -> AsdfFile:
        """A copy whose tree may be changed; blocks are shared."""
        other = object.__new__(AsdfFile)
        other.comments, other.root = self.comments, pickle.loads(self._pickled)
        other.blocks, other._sizes = list(self.blocks), dict(self._sizes)
        return other

    def node(self, *key: str) -> yaml.Node | None:
        """What stands in the tree under a path of keys."""
        node = self.root
        for name in key:
            if not isinstance(node, yaml.MappingNode):
                return None
            node = next((v for k, v in node.value if k.value == name), None)
        return node

    def set(self, key: tuple[str, ...], value: yaml.Node | None) -> None:
        """Put a node into the tree; None removes what is there."""
        parent = self.node(*key[:-1])
        if not isinstance(parent, yaml.MappingNode):
            return
        kept = [(k, v) for k, v in parent.value if k.value != key[-1]]
        if value is not None:
            kept.append((as_node(key[-1]), value))
        parent.value = kept

    def paths(self) -> list[tuple[str, ...]]:
        """All keys of mappings in the tree under ``roman``, but not those inside arrays."""
        found: list[tuple[str, ...]] = []

        def walk(node: yaml.Node, path: tuple[str, ...]) -> None:
            if isinstance(node, yaml.MappingNode) and "ndarray" not in node.tag:
                for k, v in node.value:
                    found.append((*path, k.value))
                    walk(v, (*path, k.value))

        roman = self.node("roman")
        if roman is not None:
            walk(roman, ("roman",))
        return found

    def array(self, *key: str) -> np.ndarray:
        """An array of a file that nothing has changed yet, read-only."""
        node = self.node(*key)
        facts = {k.value: v for k, v in node.value}
        shape = [int(n.value) for n in facts["shape"].value]
        dtype = np.dtype(facts["datatype"].value).newbyteorder("<")
        data = self.blocks[int(facts["source"].value)][0]
        return np.frombuffer(data, dtype, int(np.prod(shape, dtype=int))).reshape(shape)

    def put(self, key: tuple[str, ...], array: np.ndarray, how: str = "") -> None:
        """Store an array in a block of its own: "", zlib, bzp2, lz4, or "fortran", "strided"."""
        facts = {"source": len(self.blocks), "shape": [*array.shape]}
        kinds = {"f": "float", "i": "int", "u": "uint", "b": "bool8", "c": "complex"}
        kind = kinds[array.dtype.kind]
        facts["datatype"] = kind if kind == "bool8" else f"{kind}{8 * array.dtype.itemsize}"
        facts["byteorder"] = "big" if array.dtype.str.startswith(">") else "little"
        if how == "fortran":
            array = np.asfortranarray(array)
            facts["strides"] = [*array.strides]
            data = array.tobytes("F")
        elif how == "strided":
            wide = np.zeros((*array.shape, 2), array.dtype)
            wide[..., 0] = array
            facts["strides"] = [*wide.strides[:-1]]
            data = wide.tobytes()
        else:
            data = array.tobytes()
        packed = {"zlib": _zlib, "bzp2": _bzp2 if len(data) < 1 << 19 else _zlib, "lz4": _lz4}
        how = "zlib" if packed.get(how) is _zlib else how  # bzp2 takes a second for each MB
        if how in packed:
            self.blocks.append((packed[how](data), how))
        else:
            self.blocks.append((data, ""))
        self._sizes[len(self.blocks) - 1] = len(data)
        self.set(key, as_node(facts, "tag:stsci.edu:asdf/core/ndarray-1.1.0"))

    def tobytes(self) -> bytes:
        """The file."""
        tags = {"!": "tag:stsci.edu:asdf/"}
        tree = yaml.serialize(
            self.root, Dumper=yaml.CSafeDumper, explicit_start=True, explicit_end=True,
            version=(1, 1), tags=tags,
        )  # fmt: skip
        parts = [self.comments, tree.encode("utf-8", "surrogatepass")]
        for i, (data, how) in enumerate(self.blocks):
            unpacked = self._sizes.get(i, len(data))
            digest = hashlib.md5(data, usedforsecurity=False).digest()
            head = HEADER.pack(0, how.encode(), len(data), len(data), unpacked, digest)
            parts += [MAGIC, struct.pack(">H", HEADER.size), head, data]
        return b"".join(parts)


def _forget_marks(node: yaml.Node) -> None:
    node.start_mark = node.end_mark = None
    for item in node.value if isinstance(node.value, list) else ():
        for part in item if isinstance(item, tuple) else (item,):
            _forget_marks(part)


def _unpacked(data: bytes) -> bytes:
    import lz4.block

    pieces, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        pieces.append(lz4.block.decompress(data[at + 4 : at + 4 + size]))
        at += 4 + size
    return b"".join(pieces)


def _zlib(data: bytes) -> bytes:
    return zlib.compress(data, 1)


def _bzp2(data: bytes) -> bytes:
    return bz2.compress(data, 1)


def _lz4(data: bytes) -> bytes:
    import lz4.block

    pieces = [data[a : a + (1 << 22)] for a in range(0, len(data), 1 << 22)]
    packed = [lz4.block.compress(piece) for piece in pieces]
    return b"".join(len(p).to_bytes(4, "big") + p for p in packed)


def as_node(value: object, tag: str | None = None) -> yaml.Node:
    """A YAML node of plain values."""
    node = yaml.representer.SafeRepresenter().represent_data(value)
    if tag is not None:
        node.tag = tag
    return node
