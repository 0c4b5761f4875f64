"""Changes of simulated files into odd ones, such as people have.

Each is a function of a `Simulation` that changes its files in place; a hard link to one of them
keeps what it had. Places are (y, x) of the full frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import asdf
import numpy as np
import yaml

from ..core.dq import GROUP, PIXEL
from ..errors import InputError
from .settings import Simulation

PIXEL_AT = (100, 100)
"""The odd pixel, (y, x) of the full frame."""
LINK = "l2_elsewhere.asdf"
"""What the symbolic link of the case `symlink_out` points to."""
COMPRESSIONS = ("zlib", "bzp2", "lz4")
FORMATS = (*COMPRESSIONS, "inline", "external", "strided", "quantity", "fortran", "big_endian")
"""Ways to store an array that keep its values."""
REFERENCE_FLAGS = {"flat": "UNRELIABLE_FLAT", "gain": "UNRELIABLE_SLOPE", "read": "TELEGRAPH"}
"""What the case `reference_dq` puts into the dq of these files."""

Edit = Callable[[Simulation], None]


def edit_tree(path: Path, change: Callable[[Any], None], **how: Any) -> None:
    """Write an ASDF file anew with a changed ``roman``.

    Parameters
    ----------
    path : Path
        Another name of the same file (a hard link) keeps what it had.
    change : callable
        Changes the tree in place.
    **how
        For ``AsdfFile.write_to``.
    """
    with asdf.open(path, memmap=False, lazy_load=False) as file:
        change(file["roman"])
        # Files with external arrays name them after the file that they belong to.
        path.rename(aside := path.with_suffix(".before"))
        try:
            file.write_to(path, **how)
        finally:
            aside.unlink()


def edit_head(path: Path, change: Callable[[str], str]) -> None:
    """Replace the YAML tree of an ASDF file by a changed text; the blocks stay as they are."""
    raw = path.read_bytes()
    end = raw.index(b"\n...\n")
    tail = raw[end : raw.rindex(b"#ASDF BLOCK INDEX")]
    path.unlink()
    path.write_bytes(change(raw[:end].decode()).encode() + tail)


def configure(made: Simulation, **changes: Any) -> None:
    """Change keys of the configuration; None removes one."""
    settings = yaml.safe_load(made.config.read_text()) | changes
    kept = {key: value for key, value in settings.items() if value is not None}
    made.config.unlink()
    made.config.write_text(yaml.safe_dump(kept, sort_keys=False))


def set_pixel(
    key: str, name: str, value: Any, places: Iterable[tuple[int, int]] = (PIXEL_AT,)
) -> Edit:
    """An edit: `value` at these places in an array of a reference file (or of "l1")."""

    def change(roman: Any) -> None:
        array = np.array(roman[name])
        for y, x in places:
            array[..., y, x] = value
        roman[name] = array

    return lambda made: edit_tree(file_of(made, key), change)


def set_coefficients(values: Mapping[int, float]) -> Edit:
    """An edit: linearity coefficients of the odd pixel, by order, over the linear one."""

    def change(roman: Any) -> None:
        array = np.array(roman["data"])
        linear = array[(1, *PIXEL_AT)]
        for order, value in values.items():
            array[(order, *PIXEL_AT)] = value * linear
        roman["data"] = array

    return lambda made: edit_tree(made.caldir["linearitylegendre"], change)


def file_of(made: Simulation, key: str) -> Path:
    return made.l1 if key == "l1" else made.caldir[key]


def _arrays(tree: Any, change: Callable[[np.ndarray], Any]) -> None:
    """Replace every array of a tree."""
    for name in list(tree):
        value = tree[name]
        if isinstance(value, Mapping):
            _arrays(value, change)
        elif hasattr(value, "dtype") and getattr(value, "ndim", 0) > 1:
            tree[name] = change(np.array(value))


def _strided(array: np.ndarray) -> np.ndarray:
    wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
    wide[..., ::2] = array
    return wide[..., ::2]


def _quantity(array: np.ndarray) -> Any:
    from astropy import units

    return units.Quantity(array, "DN", dtype=array.dtype) if array.dtype.kind == "f" else array


_STORED: dict[str, Callable[[np.ndarray], Any]] = {
    "strided": _strided,
    "quantity": _quantity,
    "fortran": np.asfortranarray,
    "big_endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "float64": lambda array: array.astype("f8") if array.dtype.kind == "f" else array,
    "float16": lambda array: array.astype("f2") if array.dtype.kind == "f" else array,
}


def store(path: Path, how: str) -> None:
    """Write a file's arrays anew: compressed, inline, external, or as one of `_STORED`."""
    options: dict[str, Any] = {}
    if how in COMPRESSIONS:
        options["all_array_compression"] = how
    elif how in ("inline", "external"):
        options["all_array_storage"] = how
    change = _STORED.get(how)
    edit_tree(path, lambda roman: _arrays(roman, change) if change else None, **options)


def stored(how: str, keys: Iterable[str] = ()) -> Edit:
    """An edit: all files, or those of `keys`, with arrays stored in this way."""

    def edit(made: Simulation) -> None:
        for key in keys or ("l1", *made.caldir):
            if not (key == "l1" and how in ("quantity", "float64", "float16")):
                store(file_of(made, key), how)

    return edit


def mix_formats(made: Simulation) -> None:
    ways = [way for way in FORMATS if way != "inline"]  # a cube as text takes seconds
    for i, key in enumerate(("l1", *made.caldir)):
        way = ways[i % len(ways)]
        store(file_of(made, key), "zlib" if (key, way) == ("l1", "quantity") else way)


def _meta(key: str, **changes: Any) -> Edit:
    """An edit of the metadata of a reference file; a mapping is joined to what is there."""

    def change(roman: Any) -> None:
        for name, value in changes.items():
            if isinstance(value, Mapping):
                roman["meta"][name].update(value)
            else:
                roman["meta"][name] = value

    return lambda made: edit_tree(made.caldir[key], change)


def retag(replacement: str) -> Edit:
    """An edit of the tag that says which kind of file the L1 is."""

    def change(text: str) -> str:
        changed, n = re.subn(r"(?m)^roman: !<[^>]*/tags/(\S+)-[\d.]+>", replacement, text)
        if n != 1:
            raise InputError("the simulated exposure has no tag")
        return changed

    return lambda made: edit_head(made.l1, change)


def make_old(made: Simulation) -> None:
    retag("roman: !<asdf://stsci.edu/datamodels/roman/tags/wfi_science_raw-1.0.0>")(made)


def configured(**changes: Any) -> Edit:
    return lambda made: configure(made, **changes)


def cut(key: str, part: float) -> Edit:
    def edit(made: Simulation) -> None:
        path = file_of(made, key)
        raw = path.read_bytes()
        path.unlink()
        path.write_bytes(raw[: int(part * len(raw))])

    return edit


def damage(made: Simulation) -> None:
    store(made.caldir["gain"], "zlib")
    raw = bytearray(made.caldir["gain"].read_bytes())
    start = raw.index(b"\xd3BLK") + 5000
    raw[start : start + 64] = bytes(64)
    made.caldir["gain"].write_bytes(raw)


def name_other_kind(made: Simulation) -> None:
    """The file of the read noise under the key of the gain."""
    settings = yaml.safe_load(made.config.read_text())
    configure(made, CALDIR=settings["CALDIR"] | {"gain": settings["CALDIR"]["read"]})


def name_other_detector(made: Simulation) -> None:
    for key in made.caldir:
        _meta(key, instrument={"detector": "WFI18"})(made)


def add_null_decay(made: Simulation) -> None:
    path = made.directory / "cal" / "dark_decay.asdf"
    table = {"WFI01": {"amplitude": None, "time_constant": None}}
    meta: dict[str, Any] = {"reftype": "DARKDECAYSIGNAL", "telescope": "ROMAN"}
    meta["instrument"] = {"name": "WFI", "detector": "WFI01"}
    asdf.AsdfFile({"roman": {"decay_table": table, "meta": meta}}).write_to(path)
    caldir = yaml.safe_load(made.config.read_text())["CALDIR"]
    configure(made, CALDIR=caldir | {"dark_decay": "cal/dark_decay.asdf"})


def link_out(made: Simulation) -> None:
    (made.directory / LINK).touch()
    os.symlink(LINK, made.directory / "l2.asdf")


def make_odd_folder(made: Simulation) -> None:
    folder = made.directory / "a # b? %20"
    folder.mkdir()
    configure(made, OUT=f".//{folder.name}//l2.asdf")


def everywhere(key: str, name: str, value: int) -> Edit:
    def change(roman: Any) -> None:
        roman[name] = np.full_like(np.array(roman[name]), value)

    return lambda made: edit_tree(file_of(made, key), change)


def add_reference_dq(made: Simulation) -> None:
    for key, flag in REFERENCE_FLAGS.items():

        def change(roman: Any, flag: str = flag) -> None:
            flags = np.zeros(np.shape(roman["data"]), np.uint32)
            flags[PIXEL_AT] = PIXEL[flag]
            roman["dq"] = flags

        edit_tree(made.caldir[key], change)


def mark_resultant(flag: str) -> Edit:
    """An edit: a resultant of the odd pixel is off by 300 DN, and the L1 file says so."""

    def change(roman: Any) -> None:
        data = np.array(roman["data"])
        data[(6, *PIXEL_AT)] += 300
        flags = np.zeros(data.shape, np.uint8)
        flags[(6, *PIXEL_AT)] = GROUP[flag]
        roman["data"], roman["resultantdq"] = data, flags

    return lambda made: edit_tree(made.l1, change)


def nothing(made: Simulation) -> None:
    """The light alone is odd."""
