"""The YAML tree of an ASDF file, without asdf: plain objects, and the numbers that stand in it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from ..errors import InputError
from ..system.yaml_limits import load_plain

TYPES = {
    **{f"{kind}{bits}": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"complex{bits}": f"complex{bits}" for bits in (64, 128)},
    "bool8": "bool",
}
"""Types of arrays, as the tree names them, and as NumPy does."""
_MADE_WHOLE = re.compile(r"\.(wcs|roman\.(meta|coordinate_distortion_transform))\b")
"""Where a tree has what asdf makes as a whole,"""
_MOST_ELEMENTS = 1 << 24
"""and the most elements that all arrays have there."""
_AXES = {"n_dims", "n_inputs", "n_outputs", "naxes", "mapping", "axes_order"}
_TERMS = {"coefficients"}
"""Keys of a transform whose value says how many objects are made of it: a name for each axis, a
parameter for each term of a polynomial."""
_MOST_OBJECTS = 10_000
"""Objects that a tree asks for with such keys, 60 MB."""
_CONVERTED = re.compile(
    r"tag:(stsci\.edu:asdf/(?!(core|unit|time|transform)/)"
    r"|astropy\.org:astropy/(?!(units|time|transform|coordinates)/))"
)
"""Tags of what asdf and astropy make of more than numbers and transforms: tables, FITS files and
headers. They do whatever is asked for, such as a header of a thousand million axes."""
_ARRAY = re.compile(r"tag:stsci\.edu:asdf/core/ndarray-")
_STANDARD = "tag:yaml.org,2002:"
"""What begins the tags that YAML gives to what has none."""


def parse_tree(head: bytes) -> Any:
    """The tree of its YAML, custom tags left as plain dicts, lists and scalars.

    Raises
    ------
    ValueError
        If it is not YAML, or more of it than a file of ours has.
    """
    return load_plain(head)[0]


def parse_checked_tree(path: str, head: bytes) -> Any:
    """The tree of a file that is given to asdf, see `check_tree`.

    Raises
    ------
    ValueError
        As `parse_tree`.
    InputError
        If asdf would make of it what no file of ours has.
    """
    tree, root = load_plain(head)
    left, seen = [root], set()
    while left:
        node = left.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if _CONVERTED.match(node.tag):
            raise InputError(f"{path}: has the tag {shown(node.tag)}, expected numbers and a gwcs")
        if isinstance(node.value, list):
            pairs = node.value and isinstance(node.value[0], tuple)
            if pairs and _ARRAY.match(node.tag):
                _check_array(path, node)
            left += [n for pair in node.value for n in pair] if pairs else node.value
    check_tree(path, tree)
    return tree


def _check_array(path: str, node: Any) -> None:
    """What an array is made of has its numbers here, or in a block or a file beside this one: asdf
    takes a text under ``data`` for the address of a file, too."""
    entries = {key.value: value for key, value in node.value if isinstance(key.value, str)}
    if "<<" in entries:
        raise InputError(f"{path}: an array is merged of others, expected its own entries")
    for key in ("source", "data"):
        value = entries.get(key)
        if value is None or value.tag != f"{_STANDARD}str":
            continue
        if key == "data" or resolve(path, value.value) is None:
            raise InputError(f"{path}: an array lies in {shown(value.value)}, {BESIDE}")


def parse_tree_and_tag(head: bytes, name: str) -> tuple[Any, str | None]:
    """The tree, and the tag of its entry `name`; None if there is no entry or no tag."""
    tree, root = load_plain(head)
    entries = root.value if isinstance(tree, dict) else ()
    tag = next((value.tag for key, value in entries if key.value == name), None)
    return tree, None if tag is None or tag.startswith(_STANDARD) else tag


def inline_array(node: Any, where: str) -> np.ndarray:
    """An array from its numbers in the tree, with the type that the tree gives."""
    name = node.get("datatype") if isinstance(node, dict) else None
    if name is not None and (not isinstance(name, str) or name not in TYPES):
        raise InputError(f"{where} has unsupported type {shown(name)}")
    shape = node.get("shape") if isinstance(node, dict) else None
    try:
        data = node["data"] if isinstance(node, dict) else node
        _check_numbers(data)
        with np.errstate(over="ignore"):  # what is too large for its type is infinite
            values = np.asarray(data, None if name is None else np.dtype(TYPES[name]))
        if shape is not None:
            if values.size == 0:
                values = values.reshape(shape)
            if list(values.shape) != list(shape):
                raise ValueError(f"numbers of shape {values.shape} for an array of shape {shape}")
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{where} is not an array of numbers ({first_line(error)})") from error
    if values.dtype.kind not in "biuf":
        raise InputError(f"{where} is not an array of numbers")
    return values


def _check_numbers(data: Any) -> None:
    """Nothing but numbers: NumPy would make a text of the longest one's size of each other."""
    left = [data]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left += item
        elif not isinstance(item, int | float):
            raise TypeError(f"found {type(item).__name__}")


def resolve(path: str, source: Any) -> Path | None:
    """The file that ``source`` of an array names, seen from the file at `path`; None if it is not
    one of its directory or a directory below."""
    if not isinstance(source, str):
        return None
    try:
        url = urlsplit(source)
        name = unquote(url.path, errors="strict")
    except ValueError:
        return None
    if url.scheme or url.netloc or not name.isprintable() or "\\" in name or len(name) > 512:
        return None
    if not name or name.startswith("/") or ".." in name.split("/"):
        return None
    return Path(path).parent / name


BESIDE = "expected a file in the same directory or below it"


def check_tree(path: str, tree: Any) -> None:
    """A tree names no file but such as `resolve` allows, its metadata have no huge arrays, and its
    transforms few axes and terms. For those who give it to asdf, which would read any file, fetch
    what lies on other machines, and make whatever a number asks for.

    Parameters
    ----------
    path : str
        The file that has the tree.
    tree : Any

    Raises
    ------
    InputError
    """
    left: list[tuple[str, Any]] = [("", tree)]
    seen: set[int] = set()
    elements = objects = 0
    while left:
        where, node = left.pop()
        if not isinstance(node, dict | list) or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, list):
            left += [(f"{where}[{i}]", item) for i, item in enumerate(node)]
            continue
        left += [(f"{where}.{key}", value) for key, value in node.items()]
        at = f"{path}: {where.strip('.') or 'the tree'}"
        if "$ref" in node:
            raise InputError(f"{at} refers to {shown(node['$ref'])}, expected a value")
        source = node.get("source")
        array = {"datatype", "shape"} & set(node)
        if array and isinstance(source, str) and resolve(path, source) is None:
            raise InputError(f"{at} lies in {shown(source)}, {BESIDE}")
        if array and _MADE_WHOLE.match(where):
            elements += _elements(node.get("shape"))
            if elements > _MOST_ELEMENTS:
                raise InputError(f"{at} has shape {shown(node['shape'])}, expected small arrays")
        for key in (_AXES | _TERMS) & node.keys():
            objects += _objects(key, node[key])
            if objects > _MOST_OBJECTS:
                raise InputError(f"{at}: {key} stands for too many axes or terms, expected a few")
        if isinstance(node.get("fileuri"), str):  # core/externalarray
            raise InputError(f"{at} refers to {shown(node['fileuri'])}, expected a value")


def _elements(shape: Any) -> int:
    """Elements of an array of this shape, 0 if it is none."""
    if not isinstance(shape, list) or not all(isinstance(n, int | float) for n in shape):
        return 0
    elements = math.prod(map(abs, shape))
    return int(elements) if elements <= _MOST_ELEMENTS else _MOST_ELEMENTS + 1  # NaN, too


def _objects(key: str, value: Any) -> int:
    """Objects that are made of the value of such a key; for an array that is more than one."""
    count, largest, left = 0, 0, [value]
    while left:
        item = left.pop()
        if isinstance(item, list):
            left += item
        elif isinstance(item, dict):
            count += _elements(item.get("shape"))
            left += [item.get("data"), item.get("value")]
        elif isinstance(item, int | float):
            count += 1
            if math.isfinite(min(abs(item), 1e300)):
                largest = max(largest, int(min(abs(item), 1e300)))
    return max(count, largest) if key in _AXES else count


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:500]


def shown(value: Any) -> str:
    """A value of a tree in one short line, for an error."""
    text = " ".join(str(value).split())
    return text if len(text) <= 100 else f"{text[:100]}..."


def lookup(tree: Any, key: tuple[str, ...]) -> Any:
    """``tree[key[0]][key[1]]...``; raises KeyError where there is nothing."""
    for name in key:
        try:
            tree = tree[name]
        except (KeyError, TypeError, AttributeError) as error:
            raise KeyError(name) from error
    return tree
