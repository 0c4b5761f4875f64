"""The YAML tree of an ASDF file, without asdf: plain objects, and the numbers that stand in it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import InputError

TYPES = {
    **{f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"complex{bits}": f"complex{bits}" for bits in (64, 128)},
    "bool8": "bool",
}
"""Types of arrays, as the tree names them, and as NumPy does."""


@lru_cache(maxsize=1)
def _loader() -> Any:
    """YAML's parser, for which unknown tags mean nothing."""
    import yaml

    base = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader

    class Loader(base):  # type: ignore[misc,valid-type]
        def plain(self, node: Any) -> Any:
            if isinstance(node, yaml.MappingNode):
                return self.construct_yaml_map(node)
            if isinstance(node, yaml.SequenceNode):
                return self.construct_yaml_seq(node)
            return self.construct_scalar(node)

    Loader.add_constructor(None, Loader.plain)
    return Loader


def parse_tree(head: bytes) -> Any:
    """The tree of its YAML, custom tags left as plain dicts, lists and scalars."""
    import yaml

    return yaml.load(head, Loader=_loader())  # noqa: S506  (it makes nothing but plain objects)


def inline_array(node: Any, where: str) -> np.ndarray:
    """An array from its numbers in the tree, with the type that the tree gives."""
    name = node.get("datatype") if isinstance(node, dict) else None
    if name is not None and (not isinstance(name, str) or name not in TYPES):
        raise InputError(f"{where} has unsupported type {name}")
    shape = node.get("shape") if isinstance(node, dict) else None
    try:
        data = node["data"] if isinstance(node, dict) else node
        values = np.asarray(data, None if name is None else np.dtype(TYPES[name]))
        if shape is not None:
            if values.size == 0:
                values = values.reshape(shape)
            if list(values.shape) != list(shape):
                raise ValueError(f"numbers of shape {values.shape} for an array of shape {shape}")
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{where} is not an array of numbers ({first_line(error)})") from error
    if values.dtype.kind not in "biuf":
        raise InputError(f"{where} is not an array of numbers")
    return values


def resolve(path: str, source: Any) -> Path | None:
    """The file that ``source`` of an array names, seen from the file at `path`; None if it is not
    one of this machine."""
    if not isinstance(source, str):
        return None
    try:
        url = urlsplit(source)
    except ValueError:
        return None
    if url.scheme not in ("", "file") or url.netloc not in ("", "localhost") or not url.path:
        return None
    return Path(path).parent / unquote(url.path)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def lookup(tree: Any, key: tuple[str, ...]) -> Any:
    """``tree[key[0]][key[1]]...``; raises KeyError where there is nothing."""
    for name in key:
        try:
            tree = tree[name]
        except (KeyError, TypeError, AttributeError) as error:
            raise KeyError(name) from error
    return tree
