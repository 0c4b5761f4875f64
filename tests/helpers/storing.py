"""ASDF files with the same numbers, stored in every way that the format has."""

from __future__ import annotations

import bz2
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
import yaml
from asdf import util
from asdf.tagged import TaggedDict
from asdf.yamlutil import AsdfDumper

from roman_dask_l2.io.layout import read_layout

HEAD = b"#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n"
NDARRAY = "tag:stsci.edu:asdf/core/ndarray-1.1.0"
WAYS = (
    "zlib", "bzp2", "lz4", "lz4 whole", "inline", "external", "external zlib", "strided",
    "reversed", "fortran", "fortran zlib", "big", "float16", "float64", "quantity", "quantity zlib",
    "part",
)  # fmt: skip
"""All that `store` knows."""


def _lz4(data: bytes, piece: int = 1 << 14) -> bytes:
    pieces = [lz4.block.compress(data[i : i + piece]) for i in range(0, len(data), piece)]
    return b"".join(struct.pack(">I", len(p)) + p for p in pieces)


PACK: Mapping[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "bzp2": bz2.compress,
    "lz4": _lz4,
    "lz4 whole": lambda data: _lz4(data, 1 << 30),
    "": bytes,
}


def _block(data: bytes, compression: str) -> bytes:
    packed = PACK[compression](data)
    name = compression.split(" ")[0].encode().ljust(4, b"\0")
    sizes = struct.pack(">QQQ", len(packed), len(packed), len(data))
    return b"\xd3BLK" + struct.pack(">HI4s", 48, 0, name) + sizes + bytes(16) + packed


def _write(path: Path, tree: Any, blocks: list[bytes]) -> None:
    path.unlink(missing_ok=True)  # others may have the old one open
    with open(path, "wb") as file:
        file.write(HEAD)
        yaml.dump_all(
            [tree], file, AsdfDumper, explicit_start=True, explicit_end=True, encoding="utf-8",
            version=(1, 1), tags={"!": "tag:stsci.edu:asdf/"}, allow_unicode=True,
        )  # fmt: skip
        file.write(b"".join(blocks))


def _laid(values: np.ndarray, way: str) -> tuple[bytes, dict[str, Any]]:
    """Bytes of a block, and what the tree says of them."""
    kind = values.dtype.kind
    if way == "float16" and kind == "f" and np.nanmax(np.abs(values)) < 65504:
        values = values.astype(np.float16)
    if way == "float64" and kind == "f":
        values = values.astype(np.float64)
    stored = values.astype(values.dtype.newbyteorder(">" if way == "big" else "<"))
    size = stored.dtype.itemsize
    node: dict[str, Any] = {"datatype": stored.dtype.name, "byteorder": "little"}
    if stored.dtype.kind == "b":
        node["datatype"] = "bool8"
    if way == "big":
        node["byteorder"] = "big"
    node["shape"] = list(stored.shape)
    data = stored.tobytes()
    strides = np.empty(stored.shape, stored.dtype).strides
    if way.startswith("fortran"):
        data = stored.tobytes(order="F")
        strides = np.asfortranarray(stored).strides
        node["strides"] = list(strides)
    elif way == "strided":  # every second element of a wider block
        wide = np.repeat(stored.reshape(-1), 2)
        wide[1::2] = 7
        data = wide.tobytes()
        node |= {"strides": [2 * s for s in strides]}
    elif way == "reversed":
        data = stored.reshape(-1)[::-1].tobytes()
        node |= {"strides": [-s for s in strides], "offset": len(data) - size}
    elif way == "part":
        data = b"\x05" * 13 + data + b"\x06" * 11
        node["offset"] = 13
    return data, node


def store(path: Path, way: str, target: Path | None = None) -> None:
    """Write the arrays of an ASDF file in another way; the rest as it is, tags too.

    Parameters
    ----------
    path : Path
    way : str
        One of `WAYS`. Where a number has another type than the way is for, it stays as it is.
    target : Path, optional
        Default: `path` itself.
    """
    target = target or path
    layout = read_layout(path)
    blocks: list[bytes] = []
    n_external = 0

    def changed(node: Any, key: tuple[str, ...]) -> Any:
        nonlocal n_external
        if isinstance(node, dict):
            if node.get("source") is None or "datatype" not in node:
                for name in node:
                    node[name] = changed(node[name], (*key, name))
                return node
        elif isinstance(node, list):
            return node
        else:
            return node
        source = layout.array(*key)
        assert source is not None
        values = source.read()
        if way == "inline":
            made: dict[str, Any] = {
                "data": values.tolist(), "datatype": values.dtype.name, "shape": list(values.shape),
            }  # fmt: skip
            return TaggedDict(made, NDARRAY)
        data, made = _laid(values, way)
        compression = way.removeprefix("external").removeprefix("fortran").removeprefix("quantity")
        compression = compression.strip() if compression.strip() in PACK else ""
        if way.startswith("external"):
            name = f"{target.stem} {n_external}.asdf"
            n_external += 1
            _write(target.parent / name, {"nothing": None}, [_block(data, compression)])
            made["source"] = name.replace(" ", "%20")
        else:
            made["source"] = len(blocks)
            blocks.append(_block(data, compression))
        array = TaggedDict(made, NDARRAY)
        if way.startswith("quantity") and values.dtype.kind == "f":
            return TaggedDict(
                {"value": array, "unit": "DN"}, "tag:stsci.edu:asdf/unit/quantity-1.2.0"
            )
        return array

    tree = changed(util.load_yaml(path, tagged=True), ())
    _write(target, tree, blocks)
