"""Comparing two Level 2 or two noise files: numbers, flags, settings and references."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import Window
from ..core.dq import PIXEL
from ..errors import InputError
from ..io.arrays import FileArray
from ..io.l2 import EDGES
from ..io.l2_arrays import BESIDE_ROMAN, IMAGE_ARRAYS, L2_ARRAYS
from ..io.layout import Layout, read_layout
from .blocks import spread

ROWS = 256
"""Rows that are read at once."""
CELLS = 512
"""Most cells along a side of the map of differences."""
_SCALED = ("data", "data_withsky", "err", "dumo")
"""Arrays in DN/s, whose differences are measured in units of the error."""


@dataclass
class Difference:
    """One array of both files, or one noise layer.

    Attributes
    ----------
    name : str
    pixels : int
        Number of values.
    differ : int
        Of them different; NaN equals NaN.
    largest, rms : float
        Of the difference of values that are finite in both files, over all pixels, in `unit`.
    unit : str
        "err", "sigma", or that of the array.
    gained, lost : dict of str to int
        Flags that only the second, only the first file has: pixels by name. For the mask: pixels.
    wrong : str
        Why it cannot be compared, empty if it can.
    """

    name: str
    pixels: int = 0
    differ: int = 0
    largest: float = 0.0
    rms: float = 0.0
    unit: str = ""
    gained: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    wrong: str = ""

    @property
    def same(self) -> bool:
        return not self.wrong and self.differ == 0

    def line(self) -> tuple[str, ...]:
        """Cells of a table."""
        if self.wrong:
            return self.name, self.wrong
        if self.same:
            return self.name, "same"
        share = f"{self.differ} ({100 * self.differ / self.pixels:.3g}%)"
        if self.gained or self.lost:
            flags = [f"+{n} {name}" for name, n in self.gained.items()]
            return self.name, share, *flags, *(f"-{n} {name}" for name, n in self.lost.items())
        sizes = f"rms {self.rms:.3g}, largest {self.largest:.3g}"
        return self.name, share, f"{sizes} {self.unit}".rstrip()


@dataclass
class Comparison:
    """What differs between two files.

    Attributes
    ----------
    first, second : Path
    arrays : list of Difference
    settings : list of str
        Versions, recipe, options, settings and input files that differ, a line each.
    cells : ndarray (y, x) of float32
        Largest difference in cells of k x k pixels, in units of the error (of the layer's standard
        deviation).
    k : int
        Pixels along a cell.
    """

    first: Path
    second: Path
    arrays: list[Difference]
    settings: list[str]
    cells: np.ndarray
    k: int

    @property
    def same(self) -> bool:
        """Whether all numbers are the same. (Settings may differ all the same.)"""
        return all(array.same for array in self.arrays)

    def lines(self) -> list[str]:
        """For people."""
        rows = [array.line() for array in self.arrays]
        wide = max(len(row[0]) for row in rows)
        told = [f"{row[0]:<{wide}}  {'  '.join(row[1:])}" for row in rows]
        if self.settings:
            told += ["", "made with other settings:", *(f"  {line}" for line in self.settings)]
        return [*told, "", "the same numbers" if self.same else "the numbers differ"]


def compare_files(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Comparison:
    """Compare two Level 2 files, or two noise files, band by band.

    Parameters
    ----------
    first, second : path

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If a file cannot be read, or the two are not of the same kind and shape.
    """
    a, b = read_layout(first), read_layout(second)
    kinds = [_kind(layout) for layout in (a, b)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{b.path}: a {kinds[1]}, expected a {kinds[0]} as {a.path}")
    key = ("noise",) if kinds[0] == "noise file" else ("roman", "data")
    shapes = [_found(layout, *key).shape for layout in (a, b)]
    if shapes[0][-2:] != shapes[1][-2:]:
        raise InputError(
            f"{b.path}: {' x '.join(map(str, shapes[1][-2:]))} pixels, "
            f"expected {' x '.join(map(str, shapes[0][-2:]))} as in {a.path}"
        )
    map_ = _Map(shapes[0][-2], shapes[0][-1])
    compared = _noise(a, b, map_) if kinds[0] == "noise file" else _level2(a, b, map_)
    return Comparison(
        Path(first), Path(second), list(compared), _settings(a, b), map_.cells, map_.k
    )


class _Map:
    """Largest difference in cells of k x k pixels."""

    def __init__(self, ny: int, nx: int) -> None:
        self.k = -(-max(ny, nx) // CELLS)
        self.cells = np.zeros((-(-ny // self.k), -(-nx // self.k)), np.float32)

    def add(self, y0: int, off: np.ndarray) -> None:
        rows, columns = np.arange(y0, y0 + off.shape[0]) // self.k, np.arange(off.shape[1])
        by_column = np.maximum.reduceat(off, columns[:: self.k], axis=1)
        np.maximum.at(self.cells, rows, by_column)


def _kind(layout: Layout) -> str:
    data = layout.value("roman", "data")
    if data is not None and len(_found(layout, "roman", "data").shape) == 2:
        return "Level 2 file"
    if layout.value("noise") is not None:
        return "noise file"
    raise InputError(f"{layout.path}: neither a Level 2 file nor a noise file")


def _found(layout: Layout, *key: str) -> FileArray:
    array = layout.array(*key)
    if array is None:
        raise InputError(f"{layout.path}: no {'.'.join(key)}")
    return array


# -- Level 2 --------------------------------------------------------------------------------------


def _level2(a: Layout, b: Layout, map_: _Map) -> Iterator[Difference]:
    keys: list[tuple[str, ...]] = [("roman", name) for name in IMAGE_ARRAYS]
    keys += [L2_ARRAYS[name].key for name in BESIDE_ROMAN]
    known = {*(key[-1] for key in keys), "meta"}
    edges = [f"{dq}border_ref_pix_{edge}" for dq in ("", "dq_") for edge in EDGES]
    others = sorted({*a.tree["roman"], *b.tree["roman"]} - known - set(edges) - {"amp33"})
    keys += [("roman", name) for name in (*others, "amp33", *edges)]
    for key in keys:
        name = key[-1]
        try:
            one, two = a.array(*key), b.array(*key)
        except InputError:  # no array
            continue
        if one is None and two is None:
            continue
        if one is None or two is None:
            yield Difference(name, wrong=f"only in the {'second' if one is None else 'first'} file")
        elif one.shape != two.shape:
            yield Difference(name, wrong=f"shape {one.shape} and {two.shape}")
        else:
            err = a.array("roman", "err") if name in _SCALED else None
            yield _array(name, one, two, err, map_ if name == "data" else None)


def _array(
    name: str, one: FileArray, two: FileArray, err: FileArray | None, map_: _Map | None
) -> Difference:
    found = Difference(name, math.prod(one.shape), unit="err" if err is not None else "")
    squares, count = 0.0, 0
    for rows in _bands(one.shape):
        x, y = one.read(rows), two.read(rows)
        scale = None if err is None else err.read(rows).astype(np.float64)
        off = _count(found, x, y, scale)
        if name == "dq" or name.startswith("dq_"):
            _flags(found, x, y)
        elif x.dtype == bool:
            _add(found.gained, "masked", int(np.count_nonzero(y & ~x)))
            _add(found.lost, "masked", int(np.count_nonzero(x & ~y)))
        squares += float((off**2).sum())
        count += off.size
        if map_ is not None and rows is not None:
            map_.add(rows.y0, off)
    found.rms = math.sqrt(squares / count) if count else 0.0
    return found


def _bands(shape: tuple[int, ...]) -> Iterator[Window | None]:
    if len(shape) < 2:
        yield None
        return
    for y in range(0, shape[-2], ROWS):
        yield Window(y, min(y + ROWS, shape[-2]), 0, shape[-1])


def _count(found: Difference, x: np.ndarray, y: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """Size of the differences; zero where not both values are finite."""
    if x.dtype == bool or x.dtype.kind in "iu":
        differ = x != y
        x, y = x.astype(np.float64), y.astype(np.float64)
    else:
        x, y = x.astype(np.float64), y.astype(np.float64)
        differ = (x != y) & ~(np.isnan(x) & np.isnan(y))
    found.differ += int(np.count_nonzero(differ))
    off = np.zeros(x.shape)
    both = differ & np.isfinite(x) & np.isfinite(y)
    off[both] = np.abs(x[both] - y[both])
    if scale is not None:
        usable = np.isfinite(scale) & (scale > 0)
        off = np.where(usable, off / np.where(usable, scale, 1), 0)
    found.largest = max(found.largest, float(off.max(initial=0)))
    return off


def _flags(found: Difference, x: np.ndarray, y: np.ndarray) -> None:
    for gained, bits in ((found.gained, y & ~x), (found.lost, x & ~y)):
        if bits.any():
            for name, bit in PIXEL.items():
                _add(gained, name, int(np.count_nonzero(bits & bit)))


def _add(counts: dict[str, int], name: str, n: int) -> None:
    if n:
        counts[name] = counts.get(name, 0) + n


# -- noise ----------------------------------------------------------------------------------------


def _noise(a: Layout, b: Layout, map_: _Map) -> Iterator[Difference]:
    """Layers by label; equal labels in their order."""
    one, two = _found(a, "noise"), _found(b, "noise")
    places = [_places(layout) for layout in (a, b)]
    for label in dict.fromkeys([*places[0], *places[1]]):
        at = [place.get(label) for place in places]
        name = label[0] if label[1] == 1 else f"{label[0]} ({label[1]})"
        if at[0] is None or at[1] is None:
            which = "second" if at[0] is None else "first"
            yield Difference(name, wrong=f"only in the {which} file")
        else:
            yield _layer(name, one, two, at[0], at[1], map_)


def _places(layout: Layout) -> dict[tuple[str, int], int]:
    """(Label, its how-many-th occurrence) -> plane."""
    array, seen, places = _found(layout, "noise"), {}, {}  # type: ignore[var-annotated]
    labels = [line.get("label") for line in layout.value("statistics", default=[])]
    if len(labels) != array.shape[0]:  # made by romanimpreprocess
        labels = layout.value("config", "NOISE", "LAYER", default=[])
    if len(labels) != array.shape[0]:
        labels = [f"layer {i}" for i in range(array.shape[0])]
    for i, label in enumerate(labels):
        seen[label] = seen.get(label, 0) + 1
        places[str(label), seen[label]] = i
    return places


def _layer(name: str, one: FileArray, two: FileArray, i: int, j: int, map_: _Map) -> Difference:
    ny, nx = one.shape[-2:]
    found = Difference(name, ny * nx, unit="sigma")
    middle = one.read(Window(ny // 2, min(ny // 2 + ROWS, ny), 0, nx), slice(i, i + 1))
    _, sigma = spread(middle.astype(np.float64))
    scale = sigma if np.isfinite(sigma) and sigma > 0 else 1.0
    squares = 0.0
    for rows in _bands((ny, nx)):
        x, y = one.read(rows, slice(i, i + 1))[0], two.read(rows, slice(j, j + 1))[0]
        off = _count(found, x, y, np.full(x.shape, scale))
        squares += float((off**2).sum())
        if rows is not None:
            map_.add(rows.y0, off)
    found.rms = math.sqrt(squares / found.pixels)
    return found


# -- how they were made ---------------------------------------------------------------------------


def _settings(a: Layout, b: Layout) -> list[str]:
    """Lines on versions, recipe, options, settings and input files that differ."""
    made = [_provenance(layout) for layout in (a, b)]
    if not all(made):
        without = [str(x.path) for x, m in zip((a, b), made, strict=True) if not m]
        return [f"{path}: does not say how it was made" for path in without]
    one, two = made
    lines = []
    if one.get("steps") != two.get("steps"):
        only = [
            set(x.get("step", {})) - set(y.get("step", {})) for x, y in ((one, two), (two, one))
        ]
        for which, names in zip(("first", "second"), only, strict=True):
            lines += [f"step {name}: only in the {which}" for name in sorted(names)]
            for part in made:
                part["step"] = {k: v for k, v in part.get("step", {}).items() if k not in names}
        if not any(only):
            lines.append("the order of the steps")
    flat = [{**_flat("", {k: v for k, v in part.items() if k != "steps"})} for part in made]
    for key in sorted({*flat[0], *flat[1]}):
        if flat[0].get(key) != flat[1].get(key):
            lines.append(f"{key}: {_shown(flat[0], key)} -> {_shown(flat[1], key)}")
    return lines


def _provenance(layout: Layout) -> dict[str, Any]:
    whole = layout.value("processinfo", "provenance") or layout.value("provenance") or {}
    steps = whole.get("recipe", {}).get("steps", [])
    files = whole.get("files", {})
    return {
        part: value
        for part, value in {
            "version of": whole.get("versions", {}),
            "recipe": whole.get("recipe", {}).get("name", ""),
            "steps": [name for step in steps for name in step],
            "step": {name: options for step in steps for name, options in step.items()},
            "setting": whole.get("settings", {}),
            "file": {key: f"{f['name']} ({f['content'][:12]})" for key, f in files.items()},
        }.items()
        if value
    }


def _flat(name: str, value: Any) -> dict[str, Any]:
    if (
        isinstance(value, list)
        and value
        and all(isinstance(p, list) and len(p) == 2 for p in value)
    ):
        value = dict(value)  # a table in an order
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        # "step ramp_fit.slope", "setting RAMP_OPT_PARS.gain"
        joint = "" if not name else " " if " " not in name.removeprefix("version of") else "."
        found |= _flat(f"{name}{joint}{key}", part)
    return found


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "(none)"
    text = values[key] if isinstance(values[key], str) else json.dumps(values[key])
    return text if len(text) <= 60 else f"{text[:57]}..."


def draw(found: Comparison, path: Path) -> None:
    """Draw where the files differ, and by how much.

    Raises
    ------
    InputError
        If matplotlib is not installed or the picture cannot be written.
    """
    from .panels import colours, figure_class, per_block, save, show

    figure = figure_class()(figsize=(13, 5.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    unit = "error" if any(a.name == "data" for a in found.arrays) else "sigma"
    shown = np.ma.masked_equal(found.cells, 0)
    with np.errstate(divide="ignore"):
        sizes = np.log10(shown)
    image = show(left, sizes, found.k, cmap=colours("viridis"))
    figure.colorbar(image, ax=left, label=f"log10 of the largest difference ({unit}s)")
    left.set_title(f"where they differ{per_block(found.k, 'largest')}; grey: nowhere")
    values = found.cells[found.cells > 0]
    if values.size:
        low, high = math.floor(np.log10(values.min())), math.ceil(np.log10(values.max()))
        right.hist(values, bins=np.logspace(low, max(high, low + 1), 60), color="#3B5B92")
        right.set_xscale("log")
        right.set_yscale("log")
    else:
        right.text(0.5, 0.5, "no difference", ha="center", transform=right.transAxes)
    right.set_xlabel(f"largest difference of a cell ({unit}s)")
    right.set_ylabel("cells")
    figure.suptitle(f"{found.first} against {found.second}", fontsize=10)
    save(figure, path, 110)
